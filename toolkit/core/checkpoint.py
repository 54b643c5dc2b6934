"""Checkpoints: what they hold, how they are written while training continues, and how a run is restored from one."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ConfigDict, Field, JsonValue, NonNegativeInt, ValidationError, model_validator
from pydantic.dataclasses import dataclass

import utils
from toolkit.core.history import packed, unpacked
from toolkit.core.sharded_tensors import divided_like, whole
from toolkit.core.weights import LOADING_ERRORS, load_weights
from utils import UserError

STRICT = ConfigDict(strict=True)  # what is read from a file has the declared types, or is refused
# optimizers of torch whose state is, for each parameter, a few numbers and tensors of its shape
PLAIN_OPTIMIZERS = "SGD Adam AdamW NAdam RAdam Adamax RMSprop Adagrad Adadelta ASGD Rprop"
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # in an optimizer's parameter groups; OneCycleLR adds the last two


@dataclass(config=STRICT)
class Best:
    """The best epoch so far."""

    epoch: NonNegativeInt
    monitor: str  # name of the metric that selected it
    value: float  # of that metric


@dataclass(config=STRICT)
class TotalsState:
    """The losses, outputs and labels that `Totals` has collected in the epoch so far."""

    sizes: list[int]  # samples of each batch
    losses: dict[str, list[float]]  # name -> the mean over each batch
    outputs: list[Any]
    labels: list[Any]
    metrics: dict[str, Any]  # states of streaming metrics
    results: dict[str, float] | None  # once the epoch is complete


@dataclass(config=STRICT)
class TrainState:
    """The position in a run and its results so far: everything in a checkpoint besides weights and optimizer.

    There is no state of random generators: they are seeded as a function of (seed, epoch, batch).
    """

    epoch: NonNegativeInt = 0  # epochs that are finished
    batches_done: NonNegativeInt = 0  # batches of the next epoch that are trained on
    step: NonNegativeInt = 0  # optimizer steps since the start of the run
    tally: TotalsState | None = None  # losses, outputs and labels of the epoch so far
    gradient_norms: list[float] = Field(default_factory=list)  # measured in the epoch so far
    history: list[dict[str, int | float]] = Field(default_factory=list)  # results, one dict per epoch
    best: Best | None = None  # the epoch of best.pth.tar
    params: dict[str, JsonValue] = Field(default_factory=dict)  # hyperparameters, with the declared defaults
    dataset: dict[str, JsonValue] = Field(default_factory=dict)  # fingerprint and facts of the data
    code: dict[str, str] = Field(default_factory=dict)  # name -> source of the files in model/
    restored_from: str | None = None  # the checkpoint whose weights the run started with
    restored_sha256: str | None = None  # first 16 digits of the SHA-256 of that file

    @property
    def position(self):
        """The place in the run for a message: "in epoch 2 after batch 7"."""
        if not self.batches_done:
            return f"after epoch {self.epoch}"
        return f"in epoch {self.epoch + 1} after batch {self.batches_done}"

    @model_validator(mode="after")
    def check_consistency(self):
        if not all("epoch" in row and "val_loss" in row for row in self.history):
            raise ValueError("history: a row without epoch or val_loss")
        if self.history and [row["epoch"] for row in self.history] != list(range(1, self.epoch + 1)):
            raise ValueError("history: does not have a row for each epoch")
        tally = self.tally
        batches = 0 if tally is None else len(tally.sizes)
        if not batches <= self.batches_done <= 2 * batches:  # a last batch of one sample joins the one before it
            raise ValueError("tally: has another number of batches than batches_done")
        if tally and ("loss" not in tally.losses or any(len(means) != batches for means in tally.losses.values())):
            raise ValueError("tally: has not as many losses as batches")
        return self


class Checkpoint(NamedTuple):
    """A checkpoint that was read."""

    file: Path
    content: dict[str, Any]  # as `utils.read_checkpoint` returns it
    state: TrainState
    unreadable: Sequence[tuple[Path, UserError]] = ()  # newer files of the same run, and why they cannot be read


def read_state(content, file):
    """Return the TrainState in the dict of a checkpoint; UserError if it is damaged.

    CS230's checkpoints have only state_dict, optim_dict and epoch.
    """
    known = {name: content[name] for name in TrainState.__dataclass_fields__ if name in content}
    with errors_as_damage(file):
        known["history"] = unpacked(known.get("history") or [])
        for name, kind in (("best", Best), ("tally", TotalsState)):
            known[name] = kind(**known[name]) if known.get(name) is not None else None
        return TrainState(**known)


def read_last(folder):
    """Return the latest readable Checkpoint of a run: last.pth.tar, or else the one before it; None without either.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    unreadable = []
    for file in [file for file in (folder / "last.pth.tar", folder / "previous.pth.tar") if file.exists()]:
        try:
            content = utils.read_checkpoint(file)
            checkpoint = Checkpoint(file, content, read_state(content, file), unreadable)
        except UserError as error:
            unreadable.append((file, error))
            continue
        if file.name != "last.pth.tar" and not unreadable:
            logging.warning("%s is missing; resuming from the checkpoint before it", folder / "last.pth.tar")
        return checkpoint
    if unreadable:
        raise UserError(f"{unreadable[0][1]} (--restart starts over, and moves it aside)")
    return None


@contextlib.contextmanager
def errors_as_damage(file):
    """Turn errors of this context into a UserError that says that the checkpoint `file` is damaged."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: is damaged: {where}: {first['msg']}; --restart starts over") from None
    except LOADING_ERRORS as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{file}: does not fit, or is damaged: {reason}; --restart starts over") from None


def pack(state, model, optimizer, stateful):
    """Return the dict that a checkpoint holds; `stateful` is a dict from name to object with a state_dict.

    Raises:
        UserError: one of them holds something that could not be read again without running code.
    """
    gradients = {}
    if not is_from_torch(optimizer):  # others may accumulate gradients over steps
        gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return vars(state) | {
        "state_dict": plain(model.state_dict(), "state_dict"),
        "optim_dict": plain(optimizer.state_dict(), "optim_dict"),
        "stateful": {name: plain(thing.state_dict(), name) for name, thing in stateful.items()},
        "gradients": gradients,
        "history": packed(state.history),
        "best": state.best and vars(state.best).copy(),
    }


def plain(tree, path):
    """Return a state_dict with numpy's numbers as Python's, and sharded tensors gathered on rank 0.

    `path` is its name for the message if it holds something else than tensors, numbers and strings, a UserError.
    """
    if isinstance(tree, dict):
        return {plain(key, path): plain(value, f"{path}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return (tuple if isinstance(tree, tuple) else list)(plain(value, path) for value in tree)
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, torch.Tensor):
        return whole(tree)
    if tree is None or type(tree) in (bool, int, float, complex, str, bytes):
        return tree
    raise UserError(
        f"{path} of the checkpoint would hold a {type(tree).__name__}, which could not be read again safely; a "
        f"state_dict should hold tensors, numbers and strings, in dicts and lists"
    )


def restore(checkpoint, model, optimizer, stateful):
    """Load a Checkpoint into a model, its optimizer and the objects in `stateful` (as for `pack`).

    Raises:
        UserError: something does not fit.
    """
    file, content, state, _ = checkpoint
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(hasattr(p, "full_tensor") for p in parameters):  # shard it on the CPU: the whole may not fit on the device
        with errors_as_damage(file):
            for number, values in content["optim_dict"]["state"].items():
                same = [k for k, v in values.items() if getattr(v, "shape", None) == parameters[number].shape]
                values |= {name: divided_like(values[name], parameters[number]) for name in same}
    load_weights(content, file, model, optimizer, shard_like=divided_like)
    check_optimizer(optimizer, file)
    saved = content.get("stateful", {})
    if saved.keys() != stateful.keys() and state.params:  # CS230's checkpoints have no params, and nothing else
        theirs, ours = (", ".join(sorted(names)) or "nothing" for names in (saved, stateful))
        raise UserError(f"{file}: holds the state of {theirs} besides model and optimizer, but there is {ours}")
    with errors_as_damage(file):
        for name, part in saved.items():
            stateful[name].load_state_dict(part)
        named = dict(model.named_parameters())
        for name, gradient in content.get("gradients", {}).items():
            gradient = gradient.to(named[name].device).view(named[name].shape)
            named[name].grad = divided_like(gradient, named[name])


def restore_loss(checkpoint, file, loss_fn):
    """Load the weights of a Loss, if it has any, from the dict `checkpoint`; UserError if they do not fit."""
    if loss_fn.module is not None:
        with errors_as_damage(file):
            loss_fn.module.load_state_dict(checkpoint["stateful"]["loss"])


def check_optimizer(optimizer, file):
    """Raise UserError if an optimizer cannot continue with the state that it was given from the checkpoint `file`."""
    groups, defaults = optimizer.param_groups, optimizer.defaults.items()
    wrong = [name for group in groups for name, default in defaults if not can_replace(group.get(name), default)]
    if is_from_torch(optimizer) and type(optimizer).__name__ in PLAIN_OPTIMIZERS.split():
        names = set().union(*optimizer.state.values())
        entries = [(p, name, values.get(name, "missing")) for p, values in optimizer.state.items() for name in names]
        wrong += [name for parameter, name, value in entries if not is_state_of(parameter, name, value)]
    if wrong:
        raise UserError(f"{file}: is damaged: {wrong[0]} of the optimizer; --restart starts over")


def is_from_torch(optimizer):
    """Return True if an optimizer is of a class in torch.optim itself."""
    return type(optimizer).__module__.startswith("torch.optim.")


def is_state_of(parameter, name, value):
    """Return True if `value` can be the entry `name` of a parameter's state in one of PLAIN_OPTIMIZERS."""
    if name in ("step", "eta", "mu", "mu_product"):
        return isinstance(value, int | float | torch.Tensor) and getattr(value, "shape", ()) == ()
    return value is None or (isinstance(value, torch.Tensor) and value.shape == getattr(parameter, "shape", None))


def can_replace(value, default):
    """Return True if `value`, read from a checkpoint, has a type that fits an optimizer's option with this default."""
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and len(value) == len(default)
    if isinstance(value, str | bytes | dict | list):
        return isinstance(value, type(default))
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    return value is not None or not is_number


def change_learning_rate(optimizer, others, old, new):
    """Scale the learning rates of an optimizer, and of the schedules among `others`, from `old` to `new`."""

    def scaled(rate):
        return new if rate == old else rate * new / old

    for group in optimizer.param_groups:
        group.update({name: scaled(group[name]) for name in RATES if name in group})
    schedules = list(others)
    for schedule in schedules:
        schedules += getattr(schedule, "_schedulers", ())  # the parts of a SequentialLR or ChainedScheduler
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [scaled(rate) for rate in schedule.base_lrs]
