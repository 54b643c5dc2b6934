"""Helpers of CS230's template that nothing here uses any more; available in their classic modules, see CLASSIC."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from utils import UserError, read_json

CLASSIC = {
    "utils": ["RunningAverage"],
    "search_hyperparams": ["launch_training_job"],
    "synthesize_results": ["aggregate_metrics", "metrics_to_table"],
}
BEST_METRICS = "metrics_val_best_weights.json"


class RunningAverage:
    """The running average of a quantity: after `avg.update(2)` and `avg.update(4)`, `avg()` is 3.0."""

    steps, total = 0, 0

    def update(self, val):
        self.total += val
        self.steps += 1

    def __call__(self):
        return self.total / float(self.steps)


def launch_training_job(parent_dir, data_dir, job_name, params):
    """Train one experiment with `python train.py` in a process of its own, and wait for it.

    Args:
        parent_dir: the folder in which the experiment's folder is created.
        data_dir: the dataset's folder, or None for the one that the params name.
        job_name: name of the experiment.
        params: its hyperparameters.

    Raises:
        subprocess.CalledProcessError: the training failed.
    """
    model_dir = Path(parent_dir) / job_name
    model_dir.mkdir(parents=True, exist_ok=True)
    params.save(model_dir / "params.json")
    command = [sys.executable, str(Path(__file__).resolve().parents[2] / "train.py"), "--model_dir", str(model_dir)]
    subprocess.run(command + (["--data_dir", str(data_dir)] if data_dir else []), check=True)


def aggregate_metrics(parent_dir, metrics):
    """Collect the validation metrics of all experiments in and below a folder.

    Args:
        parent_dir: the folder.
        metrics: dict that is filled with one entry per experiment, from the path of its folder to the dict in its
            metrics_val_best_weights.json. A file that cannot be read is skipped, with a warning.
    """
    for folder, folders, files in os.walk(parent_dir):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "replaced-", "reproduced-")))
        if BEST_METRICS in files:
            try:
                metrics[folder] = read_json(os.path.join(folder, BEST_METRICS))
            except UserError as error:
                logging.warning("%s; skipped", error)


def metrics_to_table(metrics):
    """Return a pipe table with one row per folder of `metrics`, a dict as `aggregate_metrics` fills it."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[folder, *(values.get(name, "-") for name in names)] for folder, values in metrics.items()]
    return tabulate(rows, ["", *names], tablefmt="pipe")
