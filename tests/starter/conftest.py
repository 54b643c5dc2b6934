"""Short experiments with this clone's own model/ and data, in a temporary folder."""

import json
from pathlib import Path

import pytest
import torch

import utils
from toolkit.core.setup import set_up
from toolkit.core.task import find_model, find_task, import_model_package

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BATCH = 16  # so that a large network also takes its steps in seconds on a CPU
MANY_EPOCHS = 100  # more than the few steps need, however small the dataset is
EXPERIMENTS = sorted(ROOT.glob("experiments/*/params.json"), key=lambda f: (f.parent.name != "base_model", f))


@pytest.fixture(autouse=True)
def in_tmp_path(monkeypatch):
    """Use this clone's own model/, from the folder in which train.py is usually run. Tests write to tmp_path only."""
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)
    import_model_package(ROOT / "model")


@pytest.fixture(scope="session")
def source(request):
    """Return (params.json, data_dir) of an experiment of this clone whose data is there; skip if there is none."""
    missing = []
    for file in EXPERIMENTS:
        if find_model(file.parent) != ROOT / "model":
            continue  # this experiment has its own model/
        dataset = utils.Params(file, declared=find_task(file.parent).hyperparameters).dataset
        data_dir = ROOT / "data" / (dataset or ".")
        if not dataset:
            check_that_it_loads(file, data_dir)
        elif not data_dir.exists() and dataset == "digits":
            data_dir = request.getfixturevalue("digits_dir")  # built in a temporary folder
        if not dataset or data_dir.exists():
            return file, data_dir
        missing.append(f"data/{dataset}")
    pytest.skip(f"no data: {', '.join(missing)} missing" if missing else "experiments/ has no params.json")


def check_that_it_loads(file, data_dir):
    """Skip if an experiment that names no dataset cannot load its data, and there is nothing in data/."""
    try:
        task, params, data_dir = set_up(file.parent, data_dir, "cpu")
        task.fetch_dataloader(["train", "val"], data_dir, params)
    except Exception as error:
        if [path for path in data_dir.glob("*") if path.name != "README.md"]:
            raise
        pytest.skip(f"data/ is empty, and model/data_loader.py needs data: {error}")


@pytest.fixture
def new_experiment(tmp_path, source):
    """Return a function that makes a short experiment, and returns the scripts' arguments for it."""

    def new_experiment(name="experiment", **changes):
        file, data_dir = source
        values = utils.read_json(file)
        batch_size = utils.Params(file, declared=find_task(file.parent).hyperparameters).batch_size
        values |= {"batch_size": min(batch_size, LARGEST_BATCH), "num_epochs": MANY_EPOCHS} | changes
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.json").write_text(json.dumps(values), encoding="utf-8")
        return ["--model_dir", str(tmp_path / name), "--data_dir", str(data_dir), "--device", "cpu"]

    return new_experiment


@pytest.fixture
def parts(new_experiment):
    """Return a function that sets up an experiment, and returns (model, loss_fn, dataloaders, metrics, params)."""

    def parts(name="experiment", **changes):
        _, model_dir, _, data_dir, _, device = new_experiment(name, **changes)
        task, params, data_dir = set_up(model_dir, data_dir, device)
        utils.set_seed(params.seed)
        dataloaders = task.fetch_dataloader(["train", "val"], data_dir, params)
        utils.set_seed(params.seed)
        return task.make_model(params), task.loss_fn(params), dataloaders, task.metrics, params

    return parts
