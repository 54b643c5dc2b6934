"""What the scripts share on the command line: common arguments, setting up an experiment."""

import json
import logging
import os
import re
import tempfile
from pathlib import Path

import torch

import utils
from toolkit.core import processes
from toolkit.core.image_dataset import read_facts
from toolkit.core.precision import set_arithmetic
from toolkit.core.script import add_quiet_argument
from toolkit.core.task import find_model, find_task
from utils import Params, UserError

ROOT = Path(__file__).resolve().parents[2]


def add_common_arguments(parser):
    """Add the arguments that train.py and evaluate.py share."""
    parser.add_argument(
        "--model_dir", default="experiments/base_model", help="the experiment: a folder with a params.json"
    )
    parser.add_argument("--data_dir", help="the dataset's folder; by default data/ and the params' `dataset`")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; by default the fastest that is there")
    add_quiet_argument(parser)


def set_up(model_dir, data_dir=None, device=None, params_from=None, overrides=None):
    """Read and check what an experiment needs before anything is written.

    Args:
        model_dir: the experiment's folder.
        data_dir: the dataset's folder; None: as the params say.
        device: name of the device; None: the fastest.
        params_from: folder whose params.json is taken in place of the experiment's own.
        overrides: dict of values that replace those of the file.

    Returns:
        (task, params, data_dir): the Task, the Params with all facts, the path of the dataset.

    Raises:
        UserError: something is missing or wrong.
    """
    json_path = Path(params_from or model_dir) / "params.json"
    if params_from is not None and find_model(params_from) != find_model(model_dir):
        theirs, ours = (utils.relative(find_model(folder)) for folder in (params_from, model_dir))
        logging.warning("%s is of %s, but an experiment in %s uses %s", params_from, theirs, model_dir, ours)
    task = find_task(model_dir)
    params = Params(json_path, declared=task.hyperparameters, overrides=overrides)
    check_names(params, task, json_path, overrides or {})
    if params_from is not None:
        derive(params, model_dir, params_from)
    check_writable(model_dir)
    chosen = choose_device(processes.local_device_name(device))
    processes.initialize(chosen)
    set_arithmetic(params)
    data_dir = processes.local_rank_zero_first(lambda: find_data(task, params, data_dir))
    params.add_facts({"device": str(chosen), "cuda": chosen.type == "cuda"})
    params.add_facts({"data_dir": str(data_dir), "model_folder": utils.relative(task.folder)})
    needs_none = data_dir.resolve() == task.project.resolve() / "data"  # its loader makes or downloads its data
    facts = {} if needs_none and not data_dir.is_dir() else read_facts(data_dir)
    if not isinstance(facts.get("num_classes", 2), int) or facts.get("num_classes", 2) < 2:
        raise UserError(f"{data_dir}: num_classes is {facts['num_classes']!r}; a classifier needs two or more")
    facts.pop("source", None)  # how it was made says nothing that a model needs
    params.add_facts(facts, source=f"{data_dir}/dataset.json")
    return task, params, data_dir


def choose_device(name=None):
    """The torch.device called `name` ("cpu", "cuda", "cuda:1", "mps"), or the fastest that is there.

    Raises:
        UserError: there is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
            raise RuntimeError(f"no device that models are trained on: {name}")
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
        raise UserError(f"--device {name}: not there; this machine has {', '.join(there)}") from error
    return device


def find_data(task, params, data_dir):
    """The path of the dataset: `data_dir`, or what the params name in data/ (the digits are built), or data/ itself."""
    named = params.dataset or "."
    if data_dir is not None:
        return Path(data_dir)
    projects = [task.project, ROOT] if task.project.is_relative_to(ROOT) else [task.project]
    places = [project / "data" / named for project in projects]  # examples may use the repository's own
    path = next((place for place in places if place.exists()), places[-1 if named == "digits" else 0])
    path = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    if named == "digits" and not path.exists():
        from toolkit.datasets.builder import build
        from toolkit.datasets.sources import digits

        logging.info("%s is not there yet: building it from scikit-learn's digits", path)
        build(digits(), path)
    return path


def check_names(params, task, json_path, overrides=()):
    """Refuse a key that looks like a declared one mistyped, and that the code of `task` never mentions.

    It is said to be in the file `json_path`, or on the command line where it is among `overrides`.

    Raises:
        UserError: there is such a key.
    """
    code = task.code()
    for name in params.unread:
        mentioned = re.search(rf"\b{re.escape(name)}\b", code)
        if name not in task.hyperparameters.model_fields and not mentioned and params.meant(name):
            place = "on the command line" if name in overrides else json_path
            raise UserError(f"{place}: nothing knows the key {name}{params.meant(name)}; --list_params lists the keys")


def parse_overrides(words):
    """The `key=value` words of a command line as a dict; values are JSON, or else plain strings."""
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"{word}: should be key=value, such as learning_rate=3e-4")
        try:
            overrides[key] = json.loads(value)
        except ValueError:
            overrides[key] = value
    return overrides


def derive(params, model_dir, params_from, may_change=()):
    """Make the `params` of an experiment those of a new one. Nothing is written yet.

    Raises:
        UserError: the new one has a params.json already, with other values of keys that are not among `may_change`.
    """
    schema, path = params.written.get("$schema"), Path(model_dir) / "params.json"
    if isinstance(schema, str) and (Path(params_from) / schema).exists():  # a path relative to the file
        setattr(params, "$schema", Path(utils.relative(Path(params_from) / schema, model_dir)).as_posix())
    if path.exists():
        there, values = utils.read_json(path), params.written
        names = [name for name in there.keys() | values.keys() if not name.startswith(("$", "_"))]  # else notes
        changed = sorted(name for name in names if there.get(name) != values.get(name))
        if not set(changed) <= set(may_change):
            raise UserError(f"{path}: is there already, with another {', '.join(changed)}; choose another folder")


def check_writable(folder):
    """Make sure that files can be made in `folder`, or in the nearest folder above it that is there.

    Raises:
        UserError: they cannot.
    """
    folder, log = Path(folder), Path(folder) / "train.log"
    if log.is_dir() or (log.exists() and not os.access(log, os.W_OK)):
        raise UserError(f"{log}: cannot be written to")
    place = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None
