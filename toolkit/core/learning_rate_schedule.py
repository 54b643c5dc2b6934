"""The learning rate over a run, and what depends on how the validation gets on: functions of what is done so far.

Nothing here has a state that would have to be saved: the position in the run and its history say it all.
"""

import math

FIRST = 1 / 25  # of learning_rate, that one_cycle begins with
LAST = FIRST / 1e4  # that it ends with
RISING = 0.3  # of all steps, in one_cycle


def learning_rate_factor(params, step, steps_per_epoch, decays):
    """What the learning rates are multiplied by at a step.

    Args:
        params: `lr_schedule`, `warmup_steps`, `lr_decay_epochs`, `lr_decay_factor`, `num_epochs`.
        step: its number, from 0, in the whole run.
        steps_per_epoch: int.
        decays: how often the validation has stood still (`Progress.decays`), for "plateau".

    The cosine is that of Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, without restarts; one_cycle that of
    Smith and Topin, https://arxiv.org/abs/1708.07120, with the numbers of torch's OneCycleLR.
    """
    warmup, last = params.warmup_steps, params.num_epochs * steps_per_epoch - 1
    if params.lr_schedule == "one_cycle":
        top = (warmup or RISING * (last + 1)) - 1
        if step <= top:
            return between(FIRST, 1, step / top if top > 0 else 1)
        return between(1, LAST, (step - top) / max(last - top, 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if params.lr_schedule == "cosine":
        return between(1, 0, (step - warmup) / max(last + 1 - warmup, 1))
    if params.lr_schedule == "step":
        decays = step // steps_per_epoch // params.lr_decay_epochs
    return 1 if params.lr_schedule == "constant" else params.lr_decay_factor**decays


def between(start, end, share):
    """The number on half a cosine from `start` to `end`, at a share of the way in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1))) / 2


class Progress:
    """How the monitored result of the validation gets on, epoch by epoch.

    Args:
        params: `lr_decay_epochs`, `early_stopping_patience`.

    Attributes:
        waited: epochs since the last that was better than all before it.
        decays: how often `lr_decay_epochs` epochs have gone by without a better one.
    """

    def __init__(self, params):
        self.patience, self.decay_epochs = params.early_stopping_patience, params.lr_decay_epochs
        self.best, self.waited, self.decays, self.still = None, 0, 0, 0

    def update(self, value, mode):
        """Take in the result of an epoch, of which more ("max") or less ("min") is better."""
        is_first = self.best is None or math.isnan(self.best)
        better = is_first or (value > self.best if mode == "max" else value < self.best)
        self.waited, self.still = (0, 0) if better else (self.waited + 1, self.still + 1)
        self.best = value if better else self.best
        if self.still == self.decay_epochs:
            self.decays, self.still = self.decays + 1, 0

    @property
    def is_over(self):
        """Whether `params.early_stopping_patience` says that the run is to end here."""
        return self.patience is not None and self.waited >= self.patience
