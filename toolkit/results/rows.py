"""Read the results that experiments left in their folders: one row per experiment, even if a folder is damaged."""

import contextlib
import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import utils
from toolkit.core.lock import is_alive, read_owner
from toolkit.core.monitor import MODES
from toolkit.core.text import one_line
from utils import UserError

BEST_METRICS = "metrics_val_best_weights.json"
TEST_METRICS = "metrics_test_best.json"
TEST_LOOKS = "test_looks.json"
NO_EXPERIMENTS = (".", "replaced-", "reproduced-")  # folders whose names begin so belong to an experiment
STATUSES = ("finished", "running", "stopped", "pruned", "failed")  # from good to bad


@dataclass(slots=True)
class Row:
    """One experiment, or several that differ only in seed and fold (see merge_replicates in comparison.py)."""

    name: str  # path relative to the parent folder
    folder: str
    params: dict  # hyperparameters, with the defaults that were used
    status: str = "finished"  # one of STATUSES
    why: str = ""  # the reason if it failed or was pruned
    epochs: float | None = None
    metrics: dict = field(default_factory=dict)  # on the validation split; names of test metrics begin with "test_"
    monitor: tuple = (None, None)  # name and "max" or "min" of the metric that selected the best checkpoint, if known
    looks: int | None = None  # number of times that evaluate.py has evaluated the test split
    half_widths: dict = field(default_factory=dict)  # from metric to half the width of its 95% confidence interval
    replicates: list = field(default_factory=list)  # the rows that were merged into this one
    difference: float | None = None  # of the compared metric from the baseline
    p_value: float | None = None  # of that difference

    @property
    def members(self):
        """The replicates of this row, or the row itself if it has none."""
        return self.replicates or [self]

    @property
    def finished(self):
        """Those members that are finished."""
        return [row for row in self.members if row.status == "finished"]


@dataclass
class Results:
    """Everything that was found below a folder."""

    rows: list = field(default_factory=list)
    left_out: list = field(default_factory=list)  # lines that say which folders are not in `rows`, and why
    problems: list = field(default_factory=list)  # lines that say what is wrong with the folders that are


def read_results(parent_dir):
    """Return the Results of all experiments in a folder and below it, sorted by name.

    Raises:
        UserError: the folder does not exist.
    """
    if not os.path.isdir(parent_dir):
        raise UserError(f"{parent_dir}: no such folder; set --parent_dir to the folder that contains the experiments")
    results, experiments, trained = Results(), [], set()
    for folder, files, is_leaf in sorted(walk(parent_dir, results.left_out)):
        if files & {BEST_METRICS, "run.json"}:
            trained.add(folder)
        elif "params.json" not in files:
            if is_leaf and os.path.dirname(folder) not in trained:  # else the experiment keeps other files there
                results.left_out.append(f"{folder}: {'it has no params.json' if files else 'empty'}")
            continue
        try:
            params = utils.read_json(os.path.join(folder, "params.json")) if "params.json" in files else {}
            experiments.append((folder, files, utils.without_notes(params)))
        except UserError as error:
            results.left_out.append(str(error))
    keys = dict.fromkeys(key for _, _, params in experiments for key in params)
    parents = {os.path.dirname(folder) for folder, _, _ in experiments}
    for folder, files, params in experiments:
        try:
            row = read_row(folder, parent_dir, files, params, keys, results.problems)
            if row is not None:
                results.rows.append(row)
            elif folder not in parents:  # the params.json of a sweep is only a template for its trials
                results.left_out.append(f"{folder}: not trained yet")
        except UserError as error:
            results.left_out.append(str(error))
    return results


def walk(parent_dir, left_out):
    """Yield (path, set of file names, True if it has no subfolder to visit) of each folder that may be an experiment.

    A symbolic link is followed unless it leads into, or above, a folder that is visited anyway. A line is added to the
    list `left_out` for each folder that cannot be read.
    """

    def note(error):
        if not isinstance(error, FileNotFoundError):  # removed in the meantime
            left_out.append(f"{error.filename}: cannot be read: {error.strerror}")

    def is_new(path):
        if not os.path.islink(path):
            return True
        target = Path(path).resolve()
        if any(target.is_relative_to(other) or other.is_relative_to(target) for other in visited):
            return False
        visited.append(target)
        return True

    visited = [Path(parent_dir).resolve()]
    for folder, folders, files in os.walk(os.path.normpath(parent_dir), onerror=note, followlinks=True):
        names = [name for name in folders if not name.startswith(NO_EXPERIMENTS) and name != "tensorboard"]
        folders[:] = [name for name in names if is_new(os.path.join(folder, name))]
        yield folder, set(files), not folders


def read_row(folder, parent_dir, files, params, keys, problems):
    """Return the Row of the experiment in a folder, or None if it has not been trained.

    `files` are the names of the files there, and `params` the content of params.json, to which the defaults are added
    that were used for `keys`. Lines about damaged files are added to the list `problems`.

    Raises:
        UserError: its metrics cannot be read.
    """
    run = read_or_note(folder, "run.json", problems) if "run.json" in files else {}
    metrics = read_metrics(folder, BEST_METRICS, problems) if BEST_METRICS in files else {}
    status, why = status_of(folder, files, run)
    if status is None:
        return None
    monitor = monitor_of(run, params, metrics)
    if TEST_METRICS in files:
        metrics |= {f"test_{name}": value for name, value in read_metrics(folder, TEST_METRICS, problems).items()}
    defaults = of_type(run.get("params"), dict)
    params |= {key: defaults[key] for key in keys if key in defaults and key not in params}
    epochs = run.get("epochs") if isinstance(run.get("epochs"), int) else None
    if status in ("running", "stopped") and "history.csv" in files:  # run.json is only written at the end of a session
        epochs = last_epoch(folder, epochs)
    name = os.path.relpath(folder, parent_dir)
    name = os.path.basename(os.path.abspath(folder)) if name == "." else name.replace(os.sep, "/")
    looks = read_or_note(folder, TEST_LOOKS, problems).get("looks") if TEST_LOOKS in files else None
    looks = len(looks) if isinstance(looks, list) else None
    return Row(name, folder, params, status, why, epochs, metrics, monitor, looks)


def status_of(folder, files, run):
    """Return (status, why) of an experiment; (None, "") if it has not been trained."""
    sessions = of_type(run.get("sessions"), list)
    last = of_type(sessions[-1], dict) if sessions else None
    for status in reversed(STATUSES):
        if last and status in last:
            return status, one_line({"failed": last.get("error"), "pruned": last.get("reason")}.get(status))
    if ".lock" in files and is_alive(read_owner(os.path.join(folder, ".lock"))):
        return "running", ""
    if last is not None:
        return "stopped", ""
    return ("finished", "") if files & {BEST_METRICS, "run.json"} else (None, "")  # CS230's template has no run.json


def last_epoch(folder, default):
    """Return the last epoch in history.csv, or `default` if the file cannot be read."""
    try:
        return int(Path(folder, "history.csv").read_bytes().splitlines()[-1].split(b",")[0])
    except (OSError, LookupError, ValueError):
        return default


def monitor_of(run, params, metrics):
    """Return the name and direction of the metric that selected the best checkpoint; None for what is unknown."""
    best = of_type(run.get("best"), dict)
    name = best.get("monitor") or params.get("monitor") or next((n for n in ("accuracy", "loss") if n in metrics), None)
    mode = best.get("mode") or params.get("monitor_mode")
    if not isinstance(name, str):
        return None, None
    return name, mode if mode in ("max", "min") else MODES.get(name)


def read_metrics(folder, name, problems):
    """Return the metrics in a file, a dict from name to float, without values that are not numbers.

    Raises:
        UserError: the file is not a JSON object.
    """
    path, metrics = os.path.join(folder, name), {}
    for metric, number in utils.read_json(path).items():
        value = math.nan if number is None else number  # JSON has no NaN
        if type(value) is float or (type(value) is int and abs(value) < 2**1000):  # a larger one is no float
            metrics[metric] = float(value)
            if not math.isfinite(value):
                problems.append(f"{path}: {one_line(metric)} is {metrics[metric]}")
        else:
            problems.append(f"{path}: {one_line(metric)} is {one_line(json.dumps(value))}, not a number")
    return metrics


def read_curves(row, names):
    """Return the columns `names` of history.csv, a list of lists; a column that is missing or damaged is empty.

    With replicates they are the means over the finished ones, up to the last epoch that all of them have.
    """
    tables = []
    for member in row.finished if row.replicates else [row]:
        with contextlib.suppress(OSError, ValueError, csv.Error):
            tables.append(list(csv.DictReader(Path(member.folder, "history.csv").read_text("utf-8").splitlines())))
    curves = []
    for name in names:
        columns = []
        for table in tables:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                columns.append([float(line[name]) for line in table])
        curves.append([sum(values) / len(values) for values in zip(*columns, strict=False)])
    return curves


def read_or_note(folder, name, problems):
    """Return the JSON object in a file; if it cannot be read, return {} and add a line to the list `problems`."""
    try:
        return utils.read_json(os.path.join(folder, name))
    except UserError as error:
        problems.append(str(error))
        return {}


def of_type(value, kind):
    """Return `value` if it is a `kind` (dict or list), else an empty one."""
    return value if isinstance(value, kind) else kind()
