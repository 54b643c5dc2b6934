"""history.csv and the checkpoint have every epoch, and the thousandth costs what the first does."""

import csv
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.core.history import History, as_csv, unpacked
from utils import UserError


def row(epoch, **results):
    return {"epoch": epoch, "learning_rate": 0.1, **results}


@given(st.lists(st.dictionaries(st.sampled_from(["val_loss", "val_f1/a", "val_f1/b"]), st.floats(), max_size=3)))
def test_what_a_checkpoint_holds_is_what_was_recorded(results):
    rows = [row(epoch, **values) for epoch, values in enumerate(results, 1)]
    again = unpacked(History(rows, "unused.csv").packed())
    assert repr(again) == repr(rows)  # as text, for nan is not nan


def test_the_file_is_what_it_would_be_if_it_were_written_all_at_once(tmp_path):
    history = History([row(1, val_loss=0.1 + 0.2)], tmp_path / "history.csv")
    for epoch in range(2, 6):
        more = {"val_f1/late": 1.0} if epoch >= 4 else {}  # a result that comes later makes a new column
        history.append(row(epoch, val_loss=1 / epoch, **more))
        before = os.stat(tmp_path / "history.csv").st_ino if epoch > 2 else None
        history.write()
        assert (tmp_path / "history.csv").read_text() == as_csv(history.rows)
        if epoch in (3, 5):  # no new column: the row was added to the file that was there
            assert os.stat(tmp_path / "history.csv").st_ino == before


@pytest.mark.parametrize("change", ["removed", "cut short", "of an earlier epoch"])
def test_a_file_that_someone_else_has_changed_is_written_anew(tmp_path, change):
    file = tmp_path / "history.csv"
    history = History([row(1, val_loss=1.0)], file)
    history.write()
    if change == "removed":
        file.unlink()
    else:
        file.write_text("" if change == "cut short" else "epoch,learning_rate,val_loss\n0,0,0\n1,0.1,1.0\n")
    history.append(row(2, val_loss=2.0))
    history.write()
    assert [r["val_loss"] for r in csv.DictReader(file.read_text().splitlines())] == ["1.0", "2.0"]


def test_a_row_that_a_full_disk_cuts_short_is_taken_back(tmp_path):
    import signal

    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")

    file = tmp_path / "history.csv"
    history = History([row(1, val_loss=1.0)], file)
    history.write()
    before, limits = file.read_text(), resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        history.append(row(2, val_loss=2.0))
        with pytest.raises(UserError, match=r"history.csv: cannot be written"):
            history.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert file.read_text() == before and not [f for f in os.listdir(tmp_path) if f not in ("history.csv", "model")]
    history.write()
    assert file.read_text() == as_csv(history.rows)


def test_a_checkpoint_grows_by_the_numbers_of_an_epoch_alone(tmp_path):
    sizes = []
    for epochs in (1000, 2000):
        torch.save(History([row(e, val_loss=1.0) for e in range(epochs)], "unused.csv").packed(), tmp_path / "x")
        sizes.append((tmp_path / "x").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(1000 * 3 * 8, abs=200)
