"""A checkpoint has the results of every epoch, and they take little room."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.history import packed, unpacked


def row(epoch, **results):
    return {"epoch": epoch, "learning_rate": 0.1, **results}


@given(st.lists(st.dictionaries(st.sampled_from(["val_loss", "val_f1/a", "val_f1/b"]), st.floats(), max_size=3)))
def test_what_a_checkpoint_holds_is_what_was_recorded(results):
    rows = [row(epoch, **values) for epoch, values in enumerate(results, 1)]
    again = unpacked(packed(rows))
    assert repr(again) == repr(rows)  # as text, for nan is not nan


def test_a_checkpoint_grows_by_the_numbers_of_an_epoch_alone(tmp_path):
    sizes = []
    for epochs in (1000, 2000):
        torch.save(packed([row(e, val_loss=1.0) for e in range(epochs)]), tmp_path / "x")
        sizes.append((tmp_path / "x").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(1000 * 3 * 8, abs=200)
