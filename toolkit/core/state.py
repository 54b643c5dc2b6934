"""What a run is made of: the one state that `last.pth.tar` holds, and that going on needs, and needs nothing else."""

import contextlib
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeInt, ValidationError, model_validator

from toolkit.core.history import unpacked
from utils import UserError


class Strict(BaseModel):
    """What is read from a checkpoint: each value is of the type that is declared, or refused."""

    model_config = ConfigDict(strict=True)


class Best(Strict):
    """Which epoch was best so far, and by what."""

    epoch: NonNegativeInt
    monitor: str
    value: float


class TallyState(Strict):
    """What was collected of the epoch that is under way; see Totals."""

    sizes: list[int]
    losses: dict[str, list[float]]
    outputs: list[Any]
    labels: list[Any]
    metrics: dict[str, Any]
    results: dict[str, float] | None

    @model_validator(mode="after")
    def fits_together(self):
        if "loss" not in self.losses or any(len(means) != len(self.sizes) for means in self.losses.values()):
            raise ValueError("not as many losses as batches")
        return self


class TrainState(Strict):
    """The state of a run. Random generators are not in it: they are seeded by (seed, epoch, number of the batch)."""

    epoch: NonNegativeInt = 0  # epochs that are finished
    batches_done: NonNegativeInt = 0  # position in the epoch after that: batches trained on
    step: NonNegativeInt = 0  # steps since the beginning of the run
    state_dict: dict[str, Any] = {}  # of the model
    optim_dict: dict[str, Any] = {}  # of the optimizer
    stateful: dict[str, dict[str, Any]] = {}  # by name: schedule, gradient scaler, moving average, ...
    gradient_norms: list[float] = []  # of some steps of the epoch so far
    gradients: dict[str, Any] = {}  # by parameter, where they are still being accumulated
    tally: TallyState | None = None  # losses, outputs and labels of the epoch so far
    history: list[dict[str, int | float]] = []  # results, one dict an epoch
    best: Best | None = None  # the epoch of best.pth.tar
    params: dict[str, JsonValue] = {}  # hyperparameters, as params.json and the declared defaults say
    dataset: dict[str, JsonValue] = {}  # fingerprint and facts of the data
    restored_from: str | None = None  # the checkpoint whose weights the run began with
    restored_sha256: str | None = None  # of that file, the first 16 digits

    @property
    def position(self):
        """Where the run stands, in words."""
        if not self.batches_done:
            return f"after epoch {self.epoch}"
        return f"in epoch {self.epoch + 1} after batch {self.batches_done}"

    @model_validator(mode="after")
    def fits_together(self):
        if not all("epoch" in row and "val_loss" in row for row in self.history):
            raise ValueError("history: a row without epoch or val_loss")
        if self.history and (self.best is None or self.history[-1]["epoch"] != self.epoch):
            raise ValueError("history: does not end with the last epoch, or has no best one")
        steps = 0 if self.tally is None else len(self.tally.sizes)
        if not steps <= self.batches_done <= 2 * steps:  # a lone last sample is joined to the batch before it
            raise ValueError("tally: is not of as many batches as are done")
        return self


def read_state(content, file):
    """The TrainState in `content`, the dict of a checkpoint (CS230's have state_dict, optim_dict and epoch alone).

    Raises:
        UserError: it is not what train.py writes.
    """
    known = {name: content[name] for name in TrainState.model_fields if name in content}
    with reading(file):
        known["history"] = unpacked(known.get("history") or [])
    try:
        return TrainState.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: is damaged: {where}: {first['msg']}; --restart begins anew") from None


@contextlib.contextmanager
def reading(file):
    """What fails in here fails because the content of `file`, a checkpoint, is not what it was when it was written.

    Raises:
        UserError: something failed.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{file}: does not fit, or is damaged: {reason}; --restart begins anew") from None
