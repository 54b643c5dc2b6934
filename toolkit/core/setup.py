"""Command-line arguments that the scripts share, and the steps that set up an experiment."""

import ast
import contextlib
import json
import logging
import os
import re
import tempfile
from pathlib import Path

import torch

import utils
from toolkit.core import processes
from toolkit.core.experiment_folder import check_experiment
from toolkit.core.forward_pass import set_arithmetic
from toolkit.core.image_dataset import read_facts
from toolkit.core.script import add_quiet_argument
from toolkit.core.task import ROOT, find_model, find_task
from toolkit.core.tools import find_tool
from utils import UserError

OTHER_NAMES = {  # key of params.json -> names that other projects give it, refused unless code in model/ reads them
    "learning_rate": ("lr", "step_size"), "batch_size": ("bs", "batch"), "num_epochs": ("epochs", "max_epochs"),
    "weight_decay": ("wd", "l2"), "dropout_rate": ("dropout", "drop"), "optimizer": ("optim",),
    "optimizer_arguments": ("momentum", "betas"), "lr_schedule": ("scheduler", "lr_scheduler"),
    "seed": ("random_seed",), "warmup_steps": ("warmup",), "max_grad_norm": ("clip", "grad_clip"),
    "early_stopping_patience": ("patience", "early_stopping"), "precision": ("amp", "fp16"),
    "ema_decay": ("ema",), "num_workers": ("workers",), "accumulation_steps": ("grad_accum", "accumulate"),
}  # fmt: skip


def add_common_arguments(parser):
    """Add the arguments that train.py and evaluate.py share."""
    parser.add_argument("--model_dir", default="experiments/base_model", help="experiment folder, with a params.json")
    parser.add_argument("--data_dir", help="dataset folder (default: data/<dataset>, as in params.json)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the fastest available)")
    add_quiet_argument(parser)


def set_up(model_dir, data_dir=None, device=None, params_from=None, overrides=None):
    """Read and check everything that an experiment needs; nothing is written.

    Args:
        model_dir: the experiment's folder.
        data_dir: the dataset's folder; None: the one that the params name.
        device: name of the device; None: the fastest.
        params_from: folder whose params.json is used instead of the experiment's own.
        overrides: dict of values that replace those of the file.

    Returns:
        (task, params, data_dir): the Task, the Params with all facts, the path of the dataset.

    Raises:
        UserError: something is missing or wrong.
    """
    if params_from is not None:
        theirs, ours = (utils.relative(find_model(folder)) for folder in (params_from, model_dir))
        if theirs != ours:
            logging.warning("%s uses %s, but an experiment in %s uses %s", params_from, theirs, model_dir, ours)
    check_experiment(params_from or model_dir)
    task = find_task(model_dir)
    params = task.read_params(Path(params_from or model_dir) / "params.json", overrides)
    if params_from is not None:
        derive(params, model_dir, params_from)
    check_writable(model_dir)
    device = choose_device(processes.local_device_name(device))
    processes.initialize(device)
    set_arithmetic(params)
    data_dir = processes.local_rank_zero_first(lambda: find_data(task, params, data_dir))
    places = {"data_dir": str(data_dir), "model_folder": utils.relative(task.folder)}
    params.add_facts({"device": str(device), "cuda": device.type == "cuda"} | places)
    params.add_facts(facts_of(task, data_dir), source=f"{data_dir}/dataset.json")
    return task, params, data_dir


def meant_by(name, known):
    """Return the one of the keys `known` that `name` is another name or a misspelling of, or None."""
    aliases = (key for key, names in OTHER_NAMES.items() if name.lower() in names and key in known)
    return next(aliases, None) or utils.similar(name, known)


def refuse_misspelled(params, known=()):
    """Raise UserError if a key that no code has read looks like a misspelled declared key, and is not in `known`.

    It is called when model and data have read what they need. `known` are, for example, the keys of a checkpoint.
    """
    for name, source in params.unread.items():
        meant = meant_by(name, params.defaults)
        if meant and name not in params.defaults and name not in known:
            raise UserError(
                f"{source}: unknown key {name} (did you mean {meant}?); train.py --list_params lists the known keys, "
                f"and a key of your own that is not read before the first step has to be declared in model/"
            )


def choose_device(name=None):
    """Return the torch.device called `name` ("cpu", "cuda", "cuda:1", "mps"); None: the fastest available.

    Raises:
        UserError: there is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
            raise RuntimeError(f"models cannot be trained on a device of this kind: {name}")
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        available = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        available += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
        raise UserError(f"--device {name}: not there; this machine has {', '.join(available)}") from error
    return device


def find_data(task, params, data_dir):
    """Return the path of the dataset: `data_dir`, else the folder in data/ that the params name, else data/ itself.

    The bundled digits are built if they are not there.
    """
    named = params.dataset or "."
    if data_dir is not None:
        return Path(data_dir)
    projects = [task.project, ROOT] if task.project.is_relative_to(ROOT) else [task.project]
    places = [project / "data" / named for project in projects]  # examples may use the repository's own
    to_build = places[-1] if named == "digits" else places[0]  # one copy of the digits serves all examples
    path = next((place for place in places if place.exists()), to_build)
    path = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    if named == "digits" and not path.exists() and (builder := find_tool("datasets.builder")):
        logging.info("%s is not there yet: building it from scikit-learn's digits", path)
        builder.build(find_tool("datasets.sources").digits(), path)
    return path


def facts_of(task, data_dir):
    """Return the facts in the dataset.json of a dataset, a dict; data/ itself need not exist.

    Raises:
        UserError: there is no such dataset, or it has fewer than two classes.
    """
    if data_dir.resolve() == task.project.resolve() / "data" and not data_dir.is_dir():
        return {}  # the loader creates or downloads its data
    facts = read_facts(data_dir)
    if not isinstance(facts.get("num_classes", 2), int) or facts.get("num_classes", 2) < 2:
        raise UserError(f"{data_dir}: num_classes is {facts['num_classes']!r}; a classifier needs two or more classes")
    return facts


def parse_overrides(words):
    """Return the `key=value` words of a command line as a dict; values are JSON, or else plain strings.

    Python's False, True and None count as false, true and null. Any other value that Python would read but JSON would
    not ("5_6", ".5", "(1, 2)", "nan") is a UserError.
    """
    overrides = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"{word}: should be key=value, such as learning_rate=3e-4")
        value = {"False": "false", "True": "true", "None": "null"}.get(value, value)
        try:
            overrides[key] = json.loads(value)
        except json.JSONDecodeError as error:
            if value[:1] in ("[", "{") or is_python(value):
                raise UserError(f"{word}: not valid JSON at {utils.json_mistake(error)}") from None
            overrides[key] = value
    return overrides


def is_python(text):
    """Return True if Python would read a text as a number, tuple, list, dict or string in quotes."""
    for read in (float, ast.literal_eval):
        with contextlib.suppress(Exception):  # literal_eval raises errors of many types
            read(text)
            return True
    return False


def derive(params, model_dir, params_from, may_change=()):
    """Adapt `params`, read from the experiment `params_from`, to the new one in `model_dir`. Nothing is written yet.

    Raises:
        UserError: the new experiment has a params.json with other values of keys that are not among `may_change`.
    """
    schema, path = params.given.get("$schema"), Path(model_dir) / "params.json"
    if isinstance(schema, str) and (Path(params_from) / schema).exists():  # a path relative to the file
        setattr(params, "$schema", Path(utils.relative(Path(params_from) / schema, model_dir)).as_posix())
    if path.exists():
        there, values = utils.without_notes(utils.read_json(path)), utils.without_notes(params.given)
        changed = sorted(name for name in there.keys() | values.keys() if there.get(name) != values.get(name))
        if not set(changed) <= set(may_change):
            raise UserError(f"{path}: is there already, with another {', '.join(changed)}; choose another folder")


def check_writable(folder):
    """Raise UserError if no files can be created in `folder`, or in the nearest existing folder above it."""
    existing = next(place for place in [Path(folder), *Path(folder).absolute().parents] if place.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None
