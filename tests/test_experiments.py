"""Every experiment that is shipped, the examples' too, loads, trains, goes on exactly and evaluates."""

import json
import shutil
import sys

import pytest
from conftest import ROOT, run_process

import evaluate
import search_hyperparams
import synthesize_results
import train
import utils
from toolkit.declared import SCHEMA, json_schema
from toolkit.verify import first_difference

SHIPPED = sorted(ROOT.glob("experiments/*/params.json"))
EXAMPLES = sorted(ROOT.glob("examples/*/experiments/*/params.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.parent.name)
def test_a_shipped_experiment_trains(call, digits_dir, tmp_path, path):
    """On the digits, whatever its own data are, and for one epoch of few steps."""
    arguments = ["--model_dir", tmp_path / "new", "--from", path.parent, "num_epochs=1", "batch_size=512"]
    code, out, err = call(train.main, *arguments, "--data_dir", digits_dir)
    assert (code, err) == (0, "")
    assert "no effect" not in out
    written = json.loads((tmp_path / "new" / "params.json").read_text())
    assert (tmp_path / "new" / written["$schema"]).resolve() == SCHEMA


def test_the_schema_for_editors_is_in_step_with_the_declared_hyperparameters():
    from model.net import Hyperparameters

    assert SCHEMA.read_text() == json_schema(Hyperparameters), "run: python -m toolkit.declared"


@pytest.fixture
def example(tmp_path, digits_dir):
    """A copy of an example, with data: gives its folder, and the arguments for one of its experiments."""

    def example(path):
        task = path.parents[2].name
        folder = tmp_path / "examples" / task
        if not folder.exists():
            ignored = shutil.ignore_patterns("data", "__pycache__", "*.pth.tar", "*.log", "tensorboard")
            shutil.copytree(path.parents[2], folder, ignore=ignored)
        return folder, ["--data_dir", data_of(path, folder, digits_dir)]

    return example


def data_of(path, folder, digits_dir):
    """A small dataset for an example's experiment."""
    if folder.name in ("transfer", "cifar10"):
        return digits_dir
    if folder.name == "ner":
        return ROOT / "examples" / "ner" / "data" / "sample"
    dataset = json.loads(path.read_text())["dataset"]
    if not (folder / "data" / dataset).exists():
        shutil.copytree(ROOT / "toolkit", folder / "toolkit", dirs_exist_ok=True)  # what marks a repository
        shutil.copy(ROOT / "utils.py", folder)
        done = run_process(sys.executable, folder / "build_dataset.py", dataset, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "data" / dataset


OF_TRANSFER = ["weights=none", "backbone=resnet18", "batch_size=32"]  # no download


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: f"{p.parents[2].name}-{p.parent.name}")
def test_an_examples_experiment_trains_and_goes_on_exactly(call, example, path):
    folder, data = example(path)
    overrides = OF_TRANSFER if folder.name == "transfer" else []
    states = []
    for name, sessions in (("straight", [3]), ("stopped", [1, 2, 3])):
        model_dir = folder / "experiments" / name
        origin = ["--from", path.parent, *overrides]
        for steps in sessions:
            code, out, err = call(train.main, "--model_dir", model_dir, *data, "--max_steps", steps, *origin)
            assert (code, err) == (0, ""), out
            origin = []
        assert "examples/" + folder.name + "/model/net.py" in out
        states.append(utils.read_checkpoint(model_dir / "last.pth.tar"))
    assert states[0]["step"] == 3
    assert first_difference(*states) is None
    code, out, err = call(evaluate.main, "--model_dir", model_dir, *data, "--restore_file", "last")
    assert (code, err) == (0, "")


def test_an_example_is_swept_and_tabulated(call, example):
    path = ROOT / "examples" / "regression" / "experiments" / "base_model" / "params.json"
    folder, data = example(path)
    sweep = folder / "experiments" / "sweep"
    sweep.mkdir(parents=True)
    (sweep / "params.json").write_text(json.dumps(json.loads(path.read_text()) | {"num_epochs": 2}))
    (sweep / "search_space.json").write_text('{"hidden_size": [2, 64]}')
    code, out, _ = call(search_hyperparams.main, "--parent_dir", sweep, *data, "--jobs", 1)
    assert code == 0, out
    assert "Best rmse on val" in out
    code, out, _ = call(synthesize_results.main, "--parent_dir", sweep, "--no_plots")
    assert code == 0
    assert "| hidden_size=64 *" in out and "sorted by rmse" in out
