"""Progress: a bar on a terminal, and a log line every minute where there is no terminal."""

import logging
import sys
import time

from tqdm import tqdm

from toolkit.core.log import is_quiet

SECONDS_BETWEEN_LINES = 60  # without a terminal
LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def progress_bar(name, total, silent=False, leave=False, **options):
    """Return a tqdm bar called `name`, which draws nothing without a terminal or with --quiet."""
    disable = silent or sys.stderr is None or is_quiet() or None  # None lets tqdm look for a terminal
    return tqdm(desc=name, total=total, leave=leave, disable=disable, dynamic_ncols=True, **options)


class EpochBar:
    """The progress of `total` batches, such as an epoch: loss, metrics, samples (`unit`) per second, time left."""

    def __init__(self, name, total, unit="samples", silent=False):
        self.name, self.total, self.unit, self.silent = name, total, unit, silent or is_quiet()
        self.bar = progress_bar(name, total, silent, bar_format=LAYOUT)
        self.batches = self.samples = self.skipped = 0
        self.started = self.logged = time.monotonic()

    @property
    def is_shown(self):
        """True if results that are given to `show` now will be visible."""
        is_due = not self.silent and time.monotonic() - self.logged > SECONDS_BETWEEN_LINES
        return is_due or not self.bar.disable

    def update(self, samples, batches=1):
        """Count batches and the samples in them."""
        self.batches, self.samples = self.batches + batches, self.samples + samples
        try:
            self.bar.update(batches)
        except OSError:  # the terminal was closed
            self.bar.disable = True

    def skip(self, batches):
        """Start after so many batches, which an earlier session has done."""
        self.skipped = self.batches = batches
        self.bar.n = self.bar.last_print_n = self.bar.initial = batches  # not counted in the bar's speed

    def show(self, results):
        """Show the results so far, a dict from name to float, on the bar or in a log line if one is due."""
        if not self.is_shown:
            return
        now = time.monotonic()
        speed = f"{self.samples / max(now - self.started, 1e-9):,.0f} {self.unit}/s"
        values = [*(f"{name} {value:.4f}" for name, value in results.items()), speed]
        if not self.bar.disable:
            self.bar.set_postfix_str(", ".join(values), refresh=False)
            return
        self.logged = now
        seconds_left = (now - self.started) / (self.batches - self.skipped) * (self.total - self.batches)
        values += [f"{tqdm.format_interval(seconds_left)} left"]
        logging.info("%s: batch %s of %s, %s", self.name, f"{self.batches:,}", f"{self.total:,}", ", ".join(values))

    def close(self):
        """Remove the bar."""
        self.bar.close()
