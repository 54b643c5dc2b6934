"""The helpers that every script shares: hyperparameters, logging, files written whole, checkpoints, seeds."""

import contextlib
import difflib
import io
import json
import logging
import os
import pickle
import random
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from toolkit.core.hyperparameters import Hyperparameters

REPORT_FILES = (
    "report_{}.json",
    "predictions_{}.csv",
    "confusion_{}.png",
    "reliability_{}.png",
    "mistakes_{}.png",
    "mistakes_{}.html",
    "residuals_{}.png",
)  # of evaluate.py, with the name of the split
REPORTS = [
    file.format(split + data) for file in REPORT_FILES for split in ("train", "val", "test") for data in ("", "_on_*")
]


class UserError(Exception):
    """A mistake that the user can mend: ends the script with this one line and exit code 2."""


class MissingHyperparameter(UserError, AttributeError):
    """A key was read that neither the file, the declared defaults nor the dataset has."""


class Params:
    """The hyperparameters of an experiment, read from the file `json_path`, as attributes.

        params = Params("experiments/base_model/params.json")
        params.learning_rate             # a declared key: checked, and with a default
        params.my_own_key                # any other key that the file has
        params.num_classes               # a fact of the dataset (see `add_facts`), not written to the file

    `declared` is a pydantic model of the keys with a type, bounds and a default, further ones are free; `overrides`, a
    dict, are values from the command line that replace those of the file. What is wrong in them is a UserError.
    """

    def __init__(self, json_path, *, declared=Hyperparameters, overrides=None):
        defaults = {name: field.get_default() for name, field in declared.model_fields.items()}
        vars(self).update(
            _path=str(json_path),
            _declared=declared,
            _defaults=defaults,
            _values=dict(defaults),
            _written={},
            _facts={},
            _read=set(),
        )
        self.take(read_json(json_path, what="file; an experiment is a folder with a params.json in it"), json_path)
        self.take(overrides or {}, "on the command line")

    def update(self, json_path):
        """Take over the values of another json file."""
        self._read.update(values := read_json(json_path))  # who takes them knows of them
        self.take(values, json_path)

    def save(self, json_path):
        """Write the file's keys, and what was set since, to `json_path`: neither defaults nor facts."""
        write_whole(json_path, json.dumps(self.written, indent=4) + "\n")

    @property
    def dict(self):
        """All values by name, as a plain dict: `params.dict["learning_rate"]`."""
        self._read.update(self._values)
        return self._values

    @property
    def values(self):
        """All values by name, as a copy; looking at it does not count as reading them (see `unread`)."""
        return self._values.copy()

    @property
    def written(self):
        """What `save` writes, as a dict: the keys of the file, and what was set to something else than the default."""
        now = {k: v for k, v in self._values.items() if k not in self._facts}
        new = {k: v for k, v in now.items() if k not in self._defaults or v != self._defaults[k]}
        return {k: now.get(k, v) for k, v in (self._written | new).items() if k in self._values}

    @property
    def stated(self):
        """What the file and the command line say, and the declared defaults, a dict; not what code has set since."""
        return self._defaults | self._written

    @property
    def facts_of_data(self):
        """What the dataset's own file says it is, as a dict."""
        return {name: self._values[name] for name, source in self._facts.items() if source}

    @property
    def unread(self):
        """The keys of the file that no code has read so far, a list. Keys that begin with `$` or `_` are notes."""
        return [k for k in self._written if k not in self._read | self._facts.keys() and not k.startswith(("$", "_"))]

    def meant(self, name):
        """The declared key that `name` looks like, as " (did you mean learning_rate?)", or "" where there is none."""
        near = difflib.get_close_matches(name, self._defaults.keys() - {name}, n=1, cutoff=0.8)
        return f" (did you mean {near[0]}?)" if near else ""

    def add_facts(self, facts, source=None):
        """Make `facts` (a dict) readable as attributes. They belong to `source`, a file, and are never saved.

        Raises:
            UserError: `params.json` gives another value to a fact of `source`.
        """
        for name, value in facts.items():
            self._check_name(name, source)
            if source and name in self._written and (written := self._values[name]) != value:
                raise UserError(
                    f"{self._path}: {name} is {written!r}, but the dataset has {value!r} ({source}): "
                    f"remove the key, it is a fact of the data"
                )
            self._values[name] = value
            self._facts[name] = source

    def _check_name(self, name, source):
        if hasattr(type(self), name) or name in vars(self):
            raise UserError(f"{source}: a key cannot be called {name!r}, which Params itself uses; rename it")

    def take(self, values, source):
        """Take over the dict `values`; `source`, which they are from, is for the message where one is wrong."""
        for name in values:
            self._check_name(name, source)
        try:
            self._declared.model_validate(self.written | values)
        except ValidationError as error:
            wrong = [f"{e['loc'][0]} is {e['input']!r}, {e['msg'].removeprefix('Input ')}" for e in error.errors()]
            raise UserError(f"{source}: {'; '.join(wrong)}") from None
        self._values.update(values)
        self._written.update(values)

    def __getattr__(self, name):
        if name.startswith("__") or "_values" not in vars(self):  # asked for by copy and pickle
            raise AttributeError(name)
        if name not in self._values:
            reader = sys._getframe(1)
            place = f"{relative(reader.f_code.co_filename)}:{reader.f_lineno}"
            near = difflib.get_close_matches(name, self._written, n=1)
            way_out = " or ".join(["add it", *(f"rename {other!r}" for other in near)])
            raise MissingHyperparameter(f"{self._path} has no key {name!r}, which {place} reads; {way_out}")
        self._read.add(name)
        return self._values[name]

    def __setattr__(self, name, value):
        self._values[name] = value


def relative(path, start=os.curdir):
    """A path as seen from `start`, the working directory; in full where that is on another drive (of Windows)."""
    with contextlib.suppress(ValueError):
        return os.path.relpath(path, start)
    return str(path)


def read_json(path, what="file"):
    """Read a JSON object from `path` as a dict.

    Raises:
        UserError: missing, not JSON (with line and column), not an object, or a key that stands twice.
    """

    def unique(pairs):
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = next(name for name, _ in pairs if [name for name, _ in pairs].count(name) > 1)
            raise UserError(f"{path}: the key {twice!r} stands there twice; keep one")
        return content

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f'{path}: should be an object, {{"key": value, ...}}, not {type(content).__name__}')
    return content


class RunningAverage:
    """The running average of a quantity: after `avg.update(2)` and `avg.update(4)`, `avg()` is 3.0."""

    steps, total = 0, 0

    def update(self, val):
        self.total += val
        self.steps += 1

    def __call__(self):
        return self.total / float(self.steps)


class Log(logging.StreamHandler):
    """The log on the terminal. Where it cannot be written to any more it is given up, and the training goes on."""

    def emit(self, record):
        try:
            super().emit(record)
        except OSError:  # a file that cannot be opened
            self.handleError(record)

    def handleError(self, record):
        logging.getLogger().removeHandler(self)
        if not isinstance(sys.exc_info()[1], BrokenPipeError):  # else its reader has seen enough
            what = getattr(self, "baseFilename", "the terminal")
            logging.warning("%s: cannot be written: %s; going on without it", what, sys.exc_info()[1])


class LogFile(Log, logging.FileHandler):
    """The log in a file."""


def set_logger(log_path=None, terminal=True, *, quiet=None):
    """Log to the terminal, and with a time before each line to the file `log_path`, which is appended to.

    The file is made by the first message. A second call closes the first one's file and takes the new one. With `quiet`
    the terminal gets warnings and errors alone; None: as the call before had it.
    """
    logger = logging.getLogger()
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)  # of several, one talks
    quiet = is_quiet() if quiet is None else quiet
    for before in [handler for handler in logger.handlers if isinstance(handler, Log)]:
        logger.removeHandler(before)
        before.close()
    if terminal:
        screen = Log(sys.stdout)
        screen.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.addHandler(screen)
    if log_path is not None:
        file = LogFile(log_path, encoding="utf-8", delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)


def is_quiet():
    """Whether `set_logger` was told to be."""
    return any(isinstance(handler, Log) and handler.level > logging.INFO for handler in logging.root.handlers)


@contextlib.contextmanager
def open_whole(path, mode="wb", *, keep=None, outdates=()):
    """Open a file that appears whole or not at all: written aside, synced to the disk, then renamed to `path`.

    What was there is kept beside it under the name `keep`; what the patterns `outdates` match is deleted with it.

    Raises:
        UserError: it cannot be written (no space, no permission, no such folder); what was at `path` is kept.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.with_name(keep).unlink(missing_ok=True)
            try:
                os.link(path, path.with_name(keep))
            except OSError:  # a disk without links: for a moment there is none at `path`
                os.replace(path, path.with_name(keep))
        remove(path.parent, outdates)
        os.replace(aside, path)
        remove(path.parent, outdates)  # again, for another process may just have evaluated the old file
        if os.name == "posix":  # so that the new name will be there after a power failure, too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_whole(path, content, **options):
    """Write `content` (str, bytes or a buffer) to the file `path`, whole or not at all; options as for `open_whole`."""
    with open_whole(path, "w" if isinstance(content, str) else "wb", **options) as file:
        file.write(content)


def remove(folder, patterns):
    """Delete the files of `folder` whose names match one of `patterns`."""
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink(missing_ok=True)


def save_dict_to_json(d, json_path):
    """Save a dict of numbers (float, int, numpy or 0-d tensors) as a json file of floats."""
    write_whole(json_path, json.dumps({k: float(v) for k, v in d.items()}, indent=4) + "\n")


def save_checkpoint(state, is_best, checkpoint):
    """Save `state` as `last.pth.tar` in the folder `checkpoint`, and as `best.pth.tar` before that if `is_best`.

    What was last becomes `previous.pth.tar`. Metrics and reports of checkpoints that are replaced are removed.

    Args:
        state: dict with "epoch", "state_dict" (the model's), "optim_dict" (the optimizer's), and other plain values.
        checkpoint: the folder; it is made if it is not there.

    Raises UserError where the files cannot be written; the previous ones are kept.
    """
    import torch  # here, and not above: what only reads results starts without it

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
    """Read the dict that `save_checkpoint` wrote, with its tensors on the CPU.

    Only tensors and plain values are read (torch's `weights_only`): a file with code in it is refused, never run.
    Raises UserError where the file is missing, damaged, cut short, not a checkpoint, or has code in it.
    """
    import torch

    there = os.path.isfile(path)
    if not there or not os.access(path, os.R_OK):
        raise UserError(f"{path}: {'cannot be read: permission denied' if there else 'no such checkpoint'}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of other forms of pickle
            state = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):  # torch itself does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                if part := archive.testzip():
                    raise ValueError(f"{part} does not fit its checksum")
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused: it is damaged, or holds code, which loading could run") from None
    except Exception as error:  # torch raises many kinds for a damaged file: RuntimeError, EOFError, KeyError, ...
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: cannot be read, it is damaged or cut short: {reason}") from None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise UserError(f'{path}: not a checkpoint: it has no "state_dict"')
    return state


def load_checkpoint(checkpoint, model, optimizer=None, *, partial=False):
    """Load the weights in the file `checkpoint` into `model`, and the optimizer's state where one is given.

    Returns the checkpoint's dict. With `partial`, the weights that fit are taken, and the others listed in the log.
    Raises UserError as `read_checkpoint` does, or where the weights are of another architecture.
    """
    state = read_checkpoint(checkpoint)
    load_weights(state, checkpoint, model, optimizer, partial)
    return state


def load_weights(state, checkpoint, model, optimizer=None, partial=False):
    """As `load_checkpoint`, with the dict `state` that was read from the file `checkpoint`."""
    from toolkit.core.sharded_tensors import divided_like

    theirs, ours = state["state_dict"], model.state_dict()
    fitting = {k: v for k, v in theirs.items() if k in ours and shape(v) == shape(ours[k])}
    differences = [
        f"{k} is {shape(theirs[k])} there and {shape(v)} in the model"
        for k, v in ours.items()
        if k in theirs and k not in fitting
    ]
    differences += [f"{k} is missing there" for k in ours if k not in theirs and not k.endswith("num_batches_tracked")]
    differences += [f"the model has no {k}" for k in theirs if k not in ours]
    if differences and (not partial or not fitting):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        why = "not one entry fits" if partial else "params.json or model/net.py has changed since"
        raise UserError(f"{checkpoint}: weights of another architecture: {differences[0]}{more}; {why}")
    if partial:
        logging.info("%s: %d of %d weights taken; not taken:", checkpoint, len(fitting), len(ours))
        logging.info("%s", "\n".join(f"  {difference}" for difference in differences or ["none"]))
    # `ours` and not a new dict: it knows the versions of its layout, too, which some modules ask for
    ours.update({name: divided_like(value, ours[name]) for name, value in fitting.items()})
    model.load_state_dict(ours)
    if optimizer is not None:
        if not state.get("optim_dict"):
            raise UserError(f"{checkpoint}: has no state of the optimizer")
        try:
            optimizer.load_state_dict(state["optim_dict"])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{checkpoint}: state of another optimizer: {error}") from None


def shape(value):
    """The shape of an entry of a state dict, a tuple; the name of its type where it is not a tensor."""
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def set_seed(seed, epoch=0):
    """Seed torch (on every device), numpy and random as a function of (seed, epoch) alone."""
    import torch

    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
