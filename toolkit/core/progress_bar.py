"""What is going on, while it is: a bar on a terminal, a line from time to time where there is none."""

import logging
import sys
import time

from tqdm import tqdm

from toolkit.core.log import is_quiet

SECONDS_BETWEEN_LINES = 60  # where there is no terminal
LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def progress_bar(name, total, silent=False, leave=False, **options):
    """A tqdm bar called `name`; without a terminal, or with --quiet, one that draws nothing."""
    disable = silent or sys.stderr is None or is_quiet() or None  # None: where there is no terminal
    return tqdm(desc=name, total=total, leave=leave, disable=disable, dynamic_ncols=True, **options)


class EpochBar:
    """How far an epoch is: batches, loss, metric, samples a second, time left. `update` after each batch, then `close`.

    Args:
        name: what is going on.
        total: number of batches.
        unit: what the samples are called.
        silent: whether nothing is to be shown at all.
    """

    def __init__(self, name, total, unit="samples", silent=False):
        self.name, self.total, self.unit, self.silent = name, total, unit, silent or is_quiet()
        self.bar = progress_bar(name, total, silent, bar_format=LAYOUT)
        self.batches = self.samples = self.earlier = 0
        self.started = self.told = time.monotonic()

    @property
    def is_shown(self):
        """Whether someone will see what is given to `show` now."""
        is_due = not self.silent and time.monotonic() - self.told > SECONDS_BETWEEN_LINES
        return is_due or not self.bar.disable

    def update(self, samples, batches=1):
        """Count batches, and the samples in them."""
        self.batches, self.samples = self.batches + batches, self.samples + samples
        try:
            self.bar.update(batches)
        except OSError:  # the terminal is gone
            self.bar.disable = True

    def skip(self, batches):
        """Begin after so many batches, which were done before."""
        self.earlier = self.batches = batches
        self.bar.n = self.bar.last_print_n = self.bar.initial = batches  # which are no part of its speed

    def show(self, results):
        """Show results so far, a dict from name to float; where there is no bar, in a line a minute."""
        if not self.is_shown:
            return
        now = time.monotonic()
        speed = f"{self.samples / max(now - self.started, 1e-9):,.0f} {self.unit}/s"
        values = [f"{name} {value:.4f}" for name, value in results.items()]
        if not self.bar.disable:
            self.bar.set_postfix_str(", ".join([*values, speed]), refresh=False)
        else:
            self.told = now
            left = (now - self.started) / (self.batches - self.earlier) * (self.total - self.batches)
            done = f"batch {self.batches:,} of {self.total:,}"
            logging.info("%s: %s", self.name, ", ".join([done, *values, speed, f"{tqdm.format_interval(left)} left"]))

    def close(self):
        """Take the bar away."""
        self.bar.close()
