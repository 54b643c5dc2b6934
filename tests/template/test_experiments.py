"""Every experiment that is shipped, the examples' too, loads, trains, goes on exactly and evaluates."""

import json

import pydantic
import pytest
from conftest import ROOT

import train
from toolkit.core.params_schema import SCHEMA, json_schema
from toolkit.core.task import find_task

SHIPPED = sorted(ROOT.glob("experiments/*/params.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.parent.name)
def test_a_shipped_experiment_trains(call, digits_dir, tmp_path, path):
    """On the digits, whatever its own data are, and for one epoch of few steps."""
    arguments = ["--model_dir", tmp_path / "new", "--from", path.parent, "num_epochs=1", "batch_size=512"]
    code, out, err = call(train.main, *arguments, "--data_dir", digits_dir)
    assert (code, err) == (0, "")
    assert "no effect" not in out
    written = json.loads((tmp_path / "new" / "params.json").read_text())
    assert (tmp_path / "new" / written["$schema"]).resolve() == SCHEMA


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11), reason="older ones spell the same schema otherwise"
)
def test_the_schema_for_editors_is_in_step_with_the_declared_hyperparameters():
    declared = find_task(SCHEMA.parent).hyperparameters
    assert SCHEMA.read_text() == json_schema(declared), "run: python -m toolkit.core.params_schema"
