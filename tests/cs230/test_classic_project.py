"""A project written for CS230's template in 2018 trains, resumes from its weights and evaluates here without a change."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_process, snapshot
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project in a folder of its own, trained, with real digits as photos; 321, so that the last batch is one."""
    folder = tmp_path_factory.mktemp("classic") / "my project"
    shutil.copytree(ROOT / "tests" / "projects" / "classic", folder)
    shutil.rmtree(folder / "model" / "__pycache__", ignore_errors=True)
    digits = load_digits()
    for split, indices in (("train", range(321)), ("val", range(321, 420)), ("test", range(420, 520))):
        place = folder / "data" / "32x32_SIGNS" / f"{split}_signs"
        place.mkdir(parents=True)
        for i in indices:
            image = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((40, 40)).convert("RGB")
            image.save(place / f"{digits.target[i]}_IMG_{i}.jpg")
    before = snapshot(folder / "model")
    done = run(folder, "train.py")
    assert done.returncode == 0, done.stderr
    after = snapshot(folder / "model")
    assert {name: content for name, content in after.items() if "__pycache__" not in name} == before
    (folder / "output").write_text(done.stdout)
    return folder


def run(project, script, *arguments):
    data = ["--data_dir", "data/32x32_SIGNS", "--model_dir", "experiments/base_model", "--device", "cpu"]
    return run_process(sys.executable, ROOT / script, *data, *arguments, cwd=project)


def test_it_trains_from_its_own_folder_unchanged(project):
    output = (project / "output").read_text()
    assert "Training experiments/base_model: Net with" in output
    assert "no effect" not in output
    folder = project / "experiments" / "base_model"
    assert (folder / "history.csv").read_text().count("\n") == 4
    assert json.loads((folder / "metrics_val_best_weights.json").read_text())["accuracy"] > 0.3
    done = run(project, "evaluate.py")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in json.loads((folder / "metrics_test_best.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("new_format", [True, False])
def test_it_goes_on_from_weights_that_the_original_wrote(project, tmp_path, new_format):
    """A .pth.tar of 2018: epoch, state_dict and optim_dict, in torch's format of the time."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    trained = project / "experiments" / "base_model" / "best.pth.tar"
    state = torch.load(trained, weights_only=True)
    old = {key: state[key] for key in ("epoch", "state_dict", "optim_dict")}
    shutil.rmtree(folder / "experiments" / "base_model" / "tensorboard")
    for name in ("history.csv", "run.json", "last.pth.tar"):
        (folder / "experiments" / "base_model" / name).unlink()
    torch.save(old, folder / "experiments" / "base_model" / "best.pth.tar", _use_new_zipfile_serialization=new_format)

    done = run(folder, "evaluate.py")
    assert done.returncode == 0, done.stderr
    restored = json.loads((folder / "experiments" / "base_model" / "metrics_test_best.json").read_text())
    assert run(project, "evaluate.py").returncode == 0
    assert restored == json.loads((project / "experiments" / "base_model" / "metrics_test_best.json").read_text())

    done = run(folder, "train.py", "--restore_file", "best")
    assert done.returncode == 0, done.stderr
    assert "Starting with the weights of best" in done.stdout
    # the training loss of its first epoch: it did not begin from scratch
    assert first_loss(folder) < 0.7 * first_loss(project)


def first_loss(project):
    with open(project / "experiments" / "base_model" / "history.csv") as file:
        return float(next(csv.DictReader(file))["train_loss"])


def test_an_original_last_checkpoint_is_gone_on_from(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    experiment = folder / "experiments" / "base_model"
    state = torch.load(experiment / "last.pth.tar", weights_only=True)
    for name in ("history.csv", "run.json"):
        (experiment / name).unlink()
    best = (experiment / "best.pth.tar").read_bytes()
    (experiment / "report_test.json").write_text("{}")
    torch.save({key: state[key] for key in ("state_dict", "optim_dict")} | {"epoch": 2}, experiment / "last.pth.tar")
    params = json.loads((experiment / "params.json").read_text()) | {"ema_decay": 0.9, "lr_schedule": "cosine"}
    (experiment / "params.json").write_text(json.dumps(params))
    done = run(folder, "train.py")
    assert done.returncode == 0, done.stderr
    assert "Resuming after epoch 2" in done.stdout
    assert first_loss(folder) < 0.7 * first_loss(project)
    assert (experiment / "best.pth.tar").exists()
    assert (experiment / "replaced-1" / "best.pth.tar").read_bytes() == best  # nobody knows how good it was
    assert (experiment / "replaced-1" / "metrics_val_best_weights.json").exists()
    assert (experiment / "replaced-1" / "report_test.json").exists()


@pytest.mark.slow
def test_worker_processes_that_are_spawned_find_the_projects_own_model(project, tmp_path):
    """As on macOS and Windows, where a worker process begins empty and imports what it needs."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    loader = folder / "model" / "data_loader.py"
    loader.write_text(loader.read_text().replace("pin_memory=", "multiprocessing_context='spawn', pin_memory="))
    shutil.rmtree(folder / "experiments")
    shutil.copytree(ROOT / "tests" / "projects" / "classic" / "experiments", folder / "experiments")
    params = folder / "experiments" / "base_model" / "params.json"
    params.write_text(json.dumps(json.loads(params.read_text()) | {"num_epochs": 1}))
    done = run(folder, "train.py")
    assert done.returncode == 0, done.stderr
