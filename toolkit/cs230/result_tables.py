"""CS230's functions for a table of results, for scripts that call them; synthesize_results.py exports them."""

import logging
from pathlib import Path

from tabulate import tabulate

import utils

NO_EXPERIMENTS = (".", "replaced-", "reproduced-")  # folders with copies of earlier results


def aggregate_metrics(parent_dir, metrics):
    """Collect the validation metrics of all experiments in a folder and below it.

    Args:
        parent_dir: the folder.
        metrics: dict to fill, from the path of an experiment's folder to the dict in its
            metrics_val_best_weights.json. A file that cannot be read is skipped with a warning.
    """
    for file in sorted(Path(parent_dir).rglob("metrics_val_best_weights.json")):
        if not any(part.startswith(NO_EXPERIMENTS) for part in file.relative_to(parent_dir).parts):
            try:
                metrics[str(file.parent)] = utils.read_json(file)
            except utils.UserError as error:
                logging.warning("%s; skipped", error)


def metrics_to_table(metrics):
    """Return a pipe table with one row per folder in `metrics`, a dict as filled by `aggregate_metrics`."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[folder, *(values.get(name, "-") for name in names)] for folder, values in metrics.items()]
    return tabulate(rows, ["", *names], tablefmt="pipe")
