"""Experiments of three kinds of project, to be interrupted, and what came of them, to be compared."""

import json
import shutil

import numpy as np
import torch
from conftest import ROOT, Experiment
from PIL import Image

import utils

EACH_STEP = 1e-9  # minutes between checkpoints


def outcome(folder):
    """All that a run gave, to be compared to the bit: a dict by name."""
    found = {f.name: f.read_text() for f in [folder / "history.csv", *folder.glob("metrics_*.json")]}
    for name in ("last", "best"):
        state = utils.read_checkpoint(folder / f"{name}.pth.tar")
        del state["params"]  # some may change on the way
        for path, value in leaves(state, name):
            found[path] = (value.shape, bytes_of(value)) if hasattr(value, "shape") else repr(value)
    return found


def leaves(tree, path):
    """Yield (path, value) of everything that nested dicts, lists and tuples hold."""
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, tree


def bytes_of(tensor):
    """Return the bytes of a tensor, so that NaN and -0.0 are compared, too."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def differences(one, other):
    """The names of what differs between two outcomes."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def photos(folder):
    """Real digits as JPEG files in CS230's layout."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for split, indices in (("train", range(161)), ("val", range(161, 200)), ("test", range(200, 240))):
        place = folder / f"{split}_signs"
        place.mkdir(parents=True)
        for i in indices:
            image = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((40, 40)).convert("RGB")
            image.save(place / f"{digits.target[i]}_IMG_{i}.jpg")
    return folder


def project(kind, tmp_path, digits_dir):
    """An Experiment of the template, of a project of 2018 (PIL and transforms), or of one that is hard to resume."""
    if kind == "template":
        experiment = Experiment(tmp_path / "experiment", digits_dir)
        return experiment, {"num_epochs": 3, "random_shift": 1, "random_flip": True, "batch_size": 137}
    shutil.copytree(ROOT / "tests" / "projects" / kind, tmp_path / "project")
    data = photos(tmp_path / "data") if kind == "classic" else digits_dir
    experiment = Experiment(tmp_path / "project" / "experiments" / "one", data)
    values = json.loads((tmp_path / "project" / "experiments" / "base_model" / "params.json").read_text())
    return experiment, values
