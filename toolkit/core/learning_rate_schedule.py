"""Learning-rate schedules, plateau decay and early stopping, as functions of the position in the run and its history.

None of them has a state that would have to be saved.
"""

import math

from utils import UserError

ONE_CYCLE_START = 1 / 25  # first learning rate of one_cycle, as a share of learning_rate
ONE_CYCLE_END = ONE_CYCLE_START / 1e4  # its last one
ONE_CYCLE_WARMUP = 0.3  # share of all steps during which it rises


def learning_rate_factor(params, step, steps_per_epoch, decays):
    """Return the factor by which the learning rates are multiplied at an optimizer step.

    Args:
        params: `lr_schedule`, `warmup_steps`, `lr_decay_epochs`, `lr_decay_factor`, `num_epochs`.
        step: int, number of the step in the whole run, from 0.
        steps_per_epoch: int.
        decays: int, number of decays of the "plateau" schedule so far (`Progress.decays`).

    The cosine schedule is that of Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, without restarts; one_cycle
    is that of Smith and Topin, https://arxiv.org/abs/1708.07120, with the constants of torch's OneCycleLR.
    """
    warmup, last = params.warmup_steps, params.num_epochs * steps_per_epoch - 1
    if params.lr_schedule == "one_cycle":
        top = (warmup or ONE_CYCLE_WARMUP * (last + 1)) - 1
        if step <= top:
            return half_cosine(ONE_CYCLE_START, 1, step / top if top > 0 else 1)
        return half_cosine(1, ONE_CYCLE_END, (step - top) / max(last - top, 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if params.lr_schedule == "cosine":
        return half_cosine(1, 0, (step - warmup) / max(last + 1 - warmup, 1))
    if params.lr_schedule == "step":
        decays = step // steps_per_epoch // params.lr_decay_epochs
    return 1 if params.lr_schedule == "constant" else params.lr_decay_factor**decays


def refuse_long_warmup(params, num_batches):
    """Raise UserError if a run with `num_batches` batches per epoch ends before its warm-up does."""
    total, warmup = params.num_epochs * -(-num_batches // params.accumulation_steps), params.warmup_steps
    if warmup and warmup >= total:
        raise UserError(f"params.json: warmup_steps is {warmup}, but the run has {total} steps in all; take fewer")


def half_cosine(start, end, share):
    """Return the value on half a cosine from `start` to `end`, at a share of the way in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1))) / 2


class Progress:
    """Counts the epochs since the monitored metric improved, for plateau decay and early stopping.

    The attribute `decays` is the number of times that `lr_decay_epochs` epochs passed without an improvement.
    """

    def __init__(self, params):
        self.patience, self.decay_epochs = params.early_stopping_patience, params.lr_decay_epochs
        self.best, self.epochs_without_improvement, self.decays, self.epochs_since_decay = None, 0, 0, 0

    def update(self, value, mode):
        """Add the monitored metric of an epoch; `mode` is "max" or "min", whichever is better."""
        is_better = self.best is None or (value > self.best if mode == "max" else value < self.best)
        if is_better and not math.isnan(value):
            self.best, self.epochs_without_improvement, self.epochs_since_decay = value, 0, 0
        else:
            self.epochs_without_improvement += 1
            self.epochs_since_decay += 1
        if self.epochs_since_decay == self.decay_epochs:
            self.decays, self.epochs_since_decay = self.decays + 1, 0

    @property
    def is_over(self):
        """True if `params.early_stopping_patience` ends the run here."""
        return self.patience is not None and self.epochs_without_improvement >= self.patience
