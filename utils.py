"""The classic helpers that every script shares: Params, logging, files, checkpoints, seeds."""

import contextlib
import difflib
import functools
import importlib
import io
import json
import math
import os
import pickle
import random
import re
import socket
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

KINDS = ("report", "predictions", "confusion", "reliability", "mistakes", "residuals")  # files of an evaluation
REPORTS = [f"{kind}_{split}{data}.*" for kind in KINDS for split in ("train", "val", "test") for data in ("", "_on_*")]
JSON_MISTAKES = [  # pattern of the text around <>, the place where JSON cannot be read; what is wrong, and what to do
    (r", ?<>[}\]]", "there is a comma after the last entry; remove it"),
    (r"^ ?<>$", "the file is empty; write at least {}"),
    (r"<>$", "a { or [ is not closed; add } or ]"),
    (r"<>(//|/\*|#)", 'JSON has no comments; a key that begins with _ may hold a note: "_note": "..."'),
    (r"<>\(", "JSON has no tuples; write a list: [256, 128]"),
    (r"<>(True|False|None)", "write true, false or null"),
    (r"<>[-+]?(?i:nan|inf)", "JSON has no NaN and no infinity; write null, or a large number"),
    (r"[\d.]<>[\w.]|<>[-+._]", "numbers are written like 10, 0.5, -1 or 1e-3"),
    (r"[\w\"}\]] ?<>[\"{\[]|\w <>\d", "a comma or a colon is missing after this"),
    (r"} ?<>", "the object ended before this; remove what follows"),
    (r"<>[A-Za-z'“”‘’`]", 'names and texts have straight double quotes: "..."'),
]  # fmt: skip


class UserError(Exception):
    """A mistake that the user can correct: it ends a script with this one line and exit code 2."""


class MissingHyperparameter(UserError, AttributeError):
    """A key was read that is not in params.json, has no default and is no fact of the dataset."""


class Hyperparameters(BaseModel):
    """The keys of params.json that the training loop reads; by default, every option is off."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())

    dataset: str | None = Field(None, description="folder of the dataset in data/; --data_dir overrides it")
    seed: int = Field(230, ge=0, lt=2**32, description="seed of initial weights, batch order and augmentation")
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="step size of the optimizer")
    batch_size: int = Field(32, ge=1, le=2**31, description="samples per batch, summed over all processes")
    num_epochs: int = Field(10, ge=1, le=2**31, description="passes over the training split")
    optimizer: str = Field("Adam", description="name of an optimizer in torch.optim")
    optimizer_arguments: dict[str, Any] = Field({}, description='its further arguments, such as {"momentum": 0.9}')
    weight_decay: float = Field(0, ge=0, description="weight decay; biases and normalisation layers have none")
    lr_schedule: Literal["constant", "step", "cosine", "one_cycle", "plateau"] = Field(
        "constant", description="learning-rate schedule; one_cycle warms up to learning_rate, then decays"
    )
    warmup_steps: int = Field(0, ge=0, description="warm-up steps; with one_cycle, 0 means 30% of all steps")
    lr_decay_epochs: int = Field(10, ge=1, description="step: epochs between decays; plateau: epochs to wait")
    lr_decay_factor: float = Field(0.1, gt=0, lt=1, description="step, plateau: factor of each decay")
    accumulation_steps: int = Field(1, ge=1, description="batches that are combined into one optimizer step")
    max_grad_norm: float | None = Field(None, gt=0, description="clip gradients to this norm; null turns it off")
    ema_decay: float = Field(0, ge=0, lt=1, description="decay of the EMA of the weights; 0 turns it off")
    early_stopping_patience: int | None = Field(None, ge=1, description="stop after so many epochs without improvement")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field("fp32", description="auto: bf16 if the GPU supports it")
    compile: bool = Field(False, description="torch.compile the model: slow at the start, then faster")
    deterministic: bool = Field(False, description="use deterministic algorithms only; slower on GPUs")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="many processes: copy (ddp) or shard (fsdp) the model")
    sync_batch_norm: bool = Field(True, description="many GPUs: batch normalisation over the whole batch")
    num_workers: int = Field(0, ge=0, le=1024, description="worker processes of data loaders that use them")
    checkpoint_minutes: float = Field(5, gt=0, description="minutes between checkpoints within an epoch")
    save_summary_steps: int = Field(100, ge=1, le=2**31, description="steps between readings of the training loss")
    monitor: str | None = Field(None, description="metric that selects the best checkpoint; null: accuracy, or loss")
    monitor_mode: Literal["max", "min"] | None = Field(None, description="whether higher or lower is better")


@functools.cache
def combined(*models):
    """Return one pydantic model with the keys of all `models`; where two declare the same key, the last one counts."""
    models = [m for m in dict.fromkeys(models) if not any(issubclass(n, m) and n is not m for n in models)]
    known = {name: repr(field) for name, field in Hyperparameters.model_fields.items()}  # else it is only inherited
    own = {k: f for m in models for k, f in m.model_fields.items() if repr(f) != known.get(k)}
    return create_model("Hyperparameters", __base__=tuple(models), **{k: (f.annotation, f) for k, f in own.items()})


class Params:
    """The hyperparameters of an experiment, read from the file `json_path`, as attributes.

        params = Params("experiments/base_model/params.json")
        params.learning_rate             # a declared key: checked, and with a default
        params.my_own_key                # any other key of the file
        params.num_classes               # a fact of the dataset (see `add_facts`); never saved

    `declared` is a pydantic model of the keys that have a type, bounds and a default, or a tuple of several models;
    `overrides` is a dict of values from the command line. A value that is not allowed is a UserError.

    Attributes, dicts: `given`, from the file and the command line; `defaults`; `values`, all of these and the facts.
    """

    def __init__(self, json_path, *, declared=Hyperparameters, overrides=None):
        models = declared if isinstance(declared, tuple) else (declared,)
        vars(self).update(_path=str(json_path), _models=models, _sources={}, _facts={}, _read=set())
        vars(self).update(given={}, defaults={}, values={})
        self.take(read_json(json_path, what="file; an experiment is a folder with a params.json in it"), json_path)
        self.take(overrides or {}, "on the command line")

    def declare(self, *models):
        """Add the keys that pydantic models declare: check the values that are given, set the others to defaults."""
        vars(self)["_models"] = tuple(dict.fromkeys([*self._models, *models]))
        self.take({}, self._path)

    def update(self, json_path):
        """Take over the values of another JSON file."""
        self._read.update(values := read_json(json_path))  # these count as read
        self.take(values, json_path)

    def take(self, values, source):
        """Take over the dict `values`, checked; `source` says where they are from, for the message."""
        self._check_names(values, source)
        declared = combined(*self._models)
        try:
            declared.model_validate(self.given | values)
            json.dumps(values, allow_nan=False)
        except ValidationError as error:
            wrong = [f"{e['loc'][0]} is {e['input']!r}, {e['msg'].removeprefix('Input ')}" for e in error.errors()]
            raise UserError(f"{source}: {'; '.join(wrong)}") from None
        except ValueError:
            name = next(name for name, value in values.items() if re.search("NaN|Infinity", json.dumps(value)))
            raise UserError(f"{source}: {name} has NaN or infinity; write null, or a large number") from None
        self.given.update(values)
        self._sources.update(dict.fromkeys(values, source))
        self.values.update(values)
        for name, field in declared.model_fields.items():
            default = field.get_default(call_default_factory=True)
            if name not in self.given and self.values.get(name) == self.defaults.get(name):  # code has not set it
                self.values[name] = default
            self.defaults[name] = default

    def add_facts(self, facts, source=None):
        """Make `facts` (a dict) readable as attributes; they are never saved. `source` is the dataset's file, if any.

        Facts of a dataset must not contradict params.json (else UserError); how it was made ("source") is left out.
        """
        self._check_names(facts, source)
        for name, value in facts.items():
            if source and name in self.given and (given := self.given[name]) != value:
                wrong = f"{name} is {given!r}, but the dataset has {value!r} ({source})"
                raise UserError(f"{self._path}: {wrong}; remove the key: it is a fact of the data")
            if not (source and name == "source"):
                self.values[name], self._facts[name] = value, source

    def save(self, json_path):
        """Write the keys of the file, and what code has set since, to `json_path`; neither defaults nor facts."""
        now = {name: value for name, value in self.values.items() if name not in self._facts}
        old = {name: now.get(name, value) for name, value in self.given.items() if name in self.values}
        new = {k: v for k, v in now.items() if k not in old and (k not in self.defaults or v != self.defaults[k])}
        write_whole(json_path, json.dumps(old | new, indent=4) + "\n")

    @property
    def dict(self):
        """The same as `values`, but reading it counts as reading all keys: `params.dict["learning_rate"]`."""
        self._read.update(self.values)
        return self.values

    @property
    def dataset_facts(self):
        """The facts from the file of the dataset, as a dict."""
        return {name: self.values[name] for name, source in self._facts.items() if source}

    @property
    def unread(self):
        """The given keys, without notes, that no code has read so far: dict from name to where it is given."""
        known = self._read | self._facts.keys()
        return {name: source for name, source in without_notes(self._sources).items() if name not in known}

    def keys_read_by(self, function):
        """Call `function()`; return its result, and the names of the keys that it read, a set."""
        before, vars(self)["_read"] = self._read, set()
        try:
            result = function()
        finally:
            read, vars(self)["_read"] = self._read, before | self._read
        return result, read

    def _check_names(self, names, source):
        for name in names:
            if hasattr(type(self), name) or name in vars(self):
                raise UserError(f"{source}: a key cannot be called {name!r}: Params has an attribute of this name")

    def __getattr__(self, name):
        if name.startswith("__") or "values" not in vars(self):  # copy and pickle ask for these
            raise AttributeError(name)
        if name not in self.values:
            reader = sys._getframe(1)
            place = f"{relative(reader.f_code.co_filename)}:{reader.f_lineno}"
            near = similar(name, self.given)
            advice = f"add it, or rename {near!r}" if near else "add it"
            fact = "a fact of the data belongs in its dataset.json, or fetch_dataloader sets it for every split"
            raise MissingHyperparameter(f"{self._path} has no key {name!r}, which {place} reads; {advice} ({fact})")
        self._read.add(name)
        return self.values[name]

    def __setattr__(self, name, value):
        self.values[name] = value


def without_notes(values):
    """Return the dict `values`, as in params.json, without notes: the keys that begin with "$" or "_"."""
    return {name: value for name, value in values.items() if not name.startswith(("$", "_"))}


def similar(name, known):
    """Return the one of the names `known` that `name` looks like a misspelling of, or None."""
    lower = {str(each).lower(): each for each in known}
    return next((lower[near] for near in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.8)), None)


def relative(path, start=os.curdir):
    """Return a path relative to `start`, the working directory; unchanged if it is on another drive (of Windows)."""
    with contextlib.suppress(ValueError):
        return os.path.relpath(path, start)
    return str(path)


def read_json(path, what="file"):
    """Return the JSON object in a file as a dict; an invalid file, or a key that occurs twice, is a UserError."""

    def unique(pairs):
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{path}: the key {twice[0]!r} occurs twice; keep one of the two")
        return dict(pairs)

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON at {json_mistake(error)}") from None
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError, for one
        raise UserError(f"{path}: not valid JSON in UTF-8: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f'{path}: should be an object, {{"key": value, ...}}, not {type(content).__name__}')
    return content


def json_mistake(error):
    """Return the line and column of a JSONDecodeError, and what is wrong there, as text."""
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    gap = " " if error.doc[: error.pos] != before else ""
    around, place, what = f"{before[-1:]}{gap}<>{rest[:8]}", error.pos, error.msg
    if error.msg.startswith(("Unterminated", "Invalid control")):
        what = 'a text is not closed; put a " at its end'
    elif found := next(((m, advice) for said, advice in JSON_MISTAKES if (m := re.search(said, around))), None):
        place, what = place if found[0][0].startswith("<>") else max(len(before) - 1, 0), found[1]
    return f"line {error.doc.count(chr(10), 0, place) + 1}, column {place - error.doc.rfind(chr(10), 0, place)}: {what}"


@contextlib.contextmanager
def open_whole(path, mode="wb", *, keep=None, outdates=()):
    """Open a file that appears at `path` whole or not at all: it is written elsewhere, synced to disk, then renamed.

    The previous file is kept beside it under the name `keep`; files that match the patterns `outdates` are deleted.
    If it cannot be written (no space, no permission, no such folder), that is a UserError, and nothing changes.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name[:40]}{ending_of_unfinished()}")  # no longer than file systems allow
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.with_name(keep).unlink(missing_ok=True)
            try:
                os.link(path, path.with_name(keep))
            except OSError:  # a disk without links: for a moment there is no file at `path`
                os.replace(path, path.with_name(keep))
        remove(path.parent, outdates)
        os.replace(aside, path)
        remove(path.parent, outdates)  # again: another process may have evaluated the old file meanwhile
        if os.name == "posix":  # so that the new name survives a power failure
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def ending_of_unfinished():
    """Return the ending of the files that this process is still writing; toolkit/core/lock.py removes leftovers."""
    return f".{os.getpid()}@{socket.gethostname()}.tmp"


def write_whole(path, content, **options):
    """Write `content` (str, bytes or a buffer) to the file `path`, whole or not at all; options as for `open_whole`."""
    with open_whole(path, "w" if isinstance(content, str) else "wb", **options) as file:
        file.write(content)


def remove(folder, patterns):
    """Delete the files in `folder` whose names match one of `patterns`."""
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink(missing_ok=True)


def save_dict_to_json(d, json_path):
    """Save a dict of numbers (float, int, numpy or 0-d tensors) as a JSON file of floats; NaN and infinity are null."""
    finite = {name: float(value) if math.isfinite(value) else None for name, value in d.items()}
    write_whole(json_path, json.dumps(finite, indent=4) + "\n")


def save_checkpoint(state, is_best, checkpoint):
    """Save `state` as `last.pth.tar` in the folder `checkpoint`, and first as `best.pth.tar` if `is_best`.

    `state` is a dict with "epoch", "state_dict" (the model's), "optim_dict" (the optimizer's), and other plain values.
    The last one becomes `previous.pth.tar`. Metrics and reports of checkpoints that are replaced are deleted.
    """
    import torch  # here, so that scripts which only read results start without it

    folder = Path(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    outdates = [f"metrics_*_{name}{data}.json" for name in ("last", "previous") for data in ("", "_on_*")]
    with content.getbuffer() as whole:
        if is_best:
            write_whole(folder / "best.pth.tar", whole, outdates=["metrics_*_best*.json", *REPORTS])
        write_whole(folder / "last.pth.tar", whole, keep="previous.pth.tar", outdates=outdates)


def read_checkpoint(path):
    """Return the dict that `save_checkpoint` wrote, with its tensors on the CPU.

    Only tensors and plain values are read (torch's `weights_only`): loading a file never runs code that is in it. A
    file that is missing, damaged, truncated, no checkpoint, or contains code is a UserError.
    """
    import torch

    if not os.path.isfile(path):
        raise UserError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):  # about older pickle formats
            state = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):  # torch itself does not verify the checksums
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():
                    raise ValueError(f"{part} does not match its checksum")
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused: it is damaged or contains code, which loading could run") from None
    except Exception as error:  # torch raises many kinds for a damaged file: RuntimeError, EOFError, KeyError, ...
        is_readable = isinstance(error, RuntimeError | ValueError)
        reason = str(error).split("\n")[0].split(". ")[0] if is_readable else type(error).__name__
        raise UserError(f"{path}: cannot be read; it is damaged or truncated ({reason})") from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise UserError(f'{path}: not a checkpoint: it has no "state_dict"')
    return state


def load_checkpoint(checkpoint, model, optimizer=None, *, partial=False):
    """Load the weights in the file `checkpoint` into `model`, and the state of the optimizer into `optimizer` if given.

    With `partial`, only weights whose names and shapes match are loaded; the others are listed in the log. Without,
    weights of another architecture are a UserError. Return the checkpoint's dict.
    """
    state = read_checkpoint(checkpoint)
    importlib.import_module("toolkit.core.weights").load_weights(state, checkpoint, model, optimizer, partial)
    return state


def set_seed(seed, epoch=0):
    """Seed torch (on every device), numpy and random as a function of (seed, epoch) only."""
    import torch

    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def __getattr__(name):
    """Find the helpers that are elsewhere: `set_logger`, `load_weights` and, for code of 2018, `RunningAverage`."""
    if name in ("set_logger", "is_quiet", "load_weights"):
        module = "toolkit.core.weights" if name == "load_weights" else "toolkit.core.log"
        return getattr(importlib.import_module(module), name)
    return importlib.import_module("toolkit.core.tools").find_classic_helper(__name__, name)
