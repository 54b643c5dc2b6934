"""Frozen projects that tests train, and their results, to be compared bit by bit."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import IMAGES, PROJECTS, Experiment, copy_of, optional
from PIL import Image

import evaluate
import train
import utils

EACH_STEP = 1e-9  # minutes between checkpoints
NET = (IMAGES / "model" / "net.py").read_text(encoding="utf-8")
LOADER = (IMAGES / "model" / "data_loader.py").read_text(encoding="utf-8")


def project(kind, tmp_path, digits_dir):
    """Return an Experiment of one kind of project, and the values to write to its params.json.

    Args:
        kind: "template" (the frozen model/ on the digits), "classic" (a CS230 project of 2018, with PIL and
            torchvision's transforms), "nlp" (a text project in CS230's form), or "hard" (one that is hard to resume).
    """
    if kind == "template":
        experiment = Experiment(tmp_path / "experiment", digits_dir)
        return experiment, {"num_epochs": 3, "random_shift": 1, "random_flip": True, "batch_size": 137}
    copy_of(PROJECTS / kind, tmp_path / "project")
    data = photos(tmp_path / "data") if kind == "classic" else digits_dir
    experiment = Experiment(tmp_path / "project" / "experiments" / "one", data)
    values = json.loads((tmp_path / "project" / "experiments" / "base_model" / "params.json").read_text())
    return experiment, values


def own_model(experiment, net=NET, loader=LOADER):
    """Give an experiment a model/ folder of its own: the frozen one, with other text for its two files."""
    folder = experiment.folder.parent / "model"
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(net, encoding="utf-8")
    (folder / "data_loader.py").write_text(loader, encoding="utf-8")
    for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
        del sys.modules[name]  # so that what was written is imported


def wine_project(folder, hook=None):
    """Write the project of docs/your_own_task.md to a folder, and return its experiment.

    Args:
        folder: the new folder.
        hook: a folder of tests/projects/wine/hooks, whose files are appended to those of model/.
    """
    copy_of(PROJECTS / "wine", folder)
    for addition in (PROJECTS / "wine" / "hooks" / hook).glob("*.py") if hook else ():
        append(folder / "model" / addition.name, addition.read_text(encoding="utf-8"))
    return folder / "experiments" / "base_model"


def append(file, text):
    """Add text to the end of a file."""
    with open(file, "a", encoding="utf-8") as end:
        end.write(text)


def photos(folder):
    """Write 240 real digits as JPEG files in CS230's layout, and return their folder."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for split, indices in (("train", range(161)), ("val", range(161, 200)), ("test", range(200, 240))):
        place = folder / f"{split}_signs"
        place.mkdir(parents=True)
        for i in indices:
            image = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((40, 40)).convert("RGB")
            image.save(place / f"{digits.target[i]}_IMG_{i}.jpg")
    return folder


def copied_experiment(params_file, folder, changed=()):
    """Copy a params.json to a new folder, with some values changed, and return the command-line arguments for it."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(json.loads(params_file.read_text()) | dict(changed)))
    return ["--model_dir", folder]


def train_and_evaluate(call, model_dir, **values):
    """Train an experiment, with `values` as its params.json if there are any, and return its metrics on test."""
    model_dir.mkdir(parents=True, exist_ok=True)
    if values:
        (model_dir / "params.json").write_text(json.dumps(values))
    assert call(train.main, "--model_dir", model_dir)[0] == 0
    assert call(evaluate.main, "--model_dir", model_dir)[0] == 0
    return utils.read_json(model_dir / "metrics_test_best.json")


def predictions(call, model_dir, *arguments):
    """Return the rows that predict.py writes for an experiment, a list of dicts of str."""
    predict = optional("predict")
    code, out, err = call(predict.main, "--model_dir", model_dir, "--output", "out.csv", *arguments)
    assert (code, err) == (0, ""), out
    with open("out.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcome(folder):
    """Return all results of a run, a dict by name; tensors as their type, shape and bytes."""
    found = {f.name: f.read_text() for f in [folder / "history.csv", *folder.glob("metrics_*.json")]}
    for name in ("last", "best"):
        state = utils.read_checkpoint(folder / f"{name}.pth.tar")
        del state["params"], state["code"]  # some of these may change on the way
        found.update(leaves(state, name))
    return found


def leaves(tree, path):
    """Yield (path, value) for everything that nested dicts, lists and tuples hold."""
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, torch.Tensor):
        as_bytes = tree.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield path, (tree.dtype, tuple(tree.shape), as_bytes.numpy().tobytes())
    else:
        yield path, repr(tree)


def differences(one, other):
    """Return the names of what differs between two outcomes."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
