"""Each params.json of experiments/ can be read, and its values have the declared types and bounds."""

import pytest

import train
import utils
from toolkit.core.task import find_task

from .conftest import EXPERIMENTS

pytestmark = pytest.mark.filterwarnings("default")  # a warning in your own model is no error


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.parent.name)
def test_a_params_file_is_valid(file):
    utils.Params(file, declared=find_task(file.parent).hyperparameters)


def test_the_hyperparameters_can_be_listed(call):
    code, out, err = call(train.main, "--list_params")
    assert code == 0, err
    for key in ("batch_size", "num_epochs", "learning_rate"):
        assert f"| {key} " in out


def test_a_misspelled_key_is_refused_before_anything_is_written(call, new_experiment, tmp_path):
    code, _, err = call(train.main, *new_experiment(learning_rte=0.1), "--max_steps", 1)
    assert code == 2
    assert "learning_rte" in err and "learning_rate" in err and err.count("\n") == 1
    assert [file.name for file in (tmp_path / "experiment").iterdir()] == ["params.json"]
