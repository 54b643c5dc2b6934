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
NO_EXPERIMENTS = (".", "replaced-", "reproduced-", "tensorboard")  # folders whose names begin so are part of a run
STATUSES = ("finished", "running", "stopped", "pruned", "failed")  # from good to bad


@dataclass(slots=True)
class Row:
    """One experiment, or several that differ only in seed and fold (see merge_replicates in comparison.py)."""

    name: str  # path relative to the parent folder
    folder: str
    params: dict  # hyperparameters, with the defaults that were used
    status: str | None = "finished"  # one of STATUSES, or None if it has not been trained
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

    def has(self, metric):
        """Return True if the row has a finite value of the metric."""
        return math.isfinite(self.metrics.get(metric, math.nan))


@dataclass
class Results:
    """Everything that was found below a folder."""

    rows: list = field(default_factory=list)
    left_out: list = field(default_factory=list)  # lines that say which folders are not in `rows`, and why
    problems: list = field(default_factory=list)  # lines that say what is wrong with the folders that are


def read_results(parent_dir):
    """Return the Results of all experiments in a folder and below it, by name; a folder that is missing: UserError."""
    if not os.path.isdir(parent_dir):
        path = Path(parent_dir)
        near = utils.similar(path.name, [folder.name for folder in path.parent.glob("*/")])
        advice = f"did you mean {path.parent / near}?" if near else "give the folder that contains the experiments"
        raise UserError(f"--parent_dir {parent_dir}: no such folder; {advice}")
    results, found, parents = Results(), [], set()
    for folder, files, is_leaf in sorted(walk(parent_dir, results.left_out)):
        if files & {BEST_METRICS, "run.json", "params.json"}:
            try:
                found.append(read_row(folder, parent_dir, results.problems))
            except UserError as error:
                results.left_out.append(str(error))
            parents.add(os.path.dirname(folder))
        elif is_leaf and os.path.dirname(folder) not in {row.folder for row, _ in found if row.status}:
            results.left_out.append(f"{folder}: {'it has no params.json' if files else 'empty'}")
    names = dict.fromkeys(name for row, _ in found for name in row.params)
    for row, defaults in found:
        row.params |= {name: defaults[name] for name in names if name in defaults and name not in row.params}
        if row.status is not None:
            results.rows.append(row)
        elif row.folder not in parents:  # the params.json of a sweep is only a template for its trials
            results.left_out.append(f"{row.folder}: not trained yet")
    return results


def walk(parent_dir, left_out):
    """Yield (path, set of file names, True if it has no subfolder to visit) of each folder that may be an experiment.

    A symbolic link is followed unless it leads into, or above, a folder that is visited anyway. A line is added to the
    list `left_out` for each folder that cannot be read.
    """

    def note(error):
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
        names = [name for name in folders if not name.startswith(NO_EXPERIMENTS)]
        folders[:] = [name for name in names if is_new(os.path.join(folder, name))]
        yield folder, set(files), not folders


def read_row(folder, parent_dir, problems):
    """Return (row, defaults) of the experiment in a folder; the defaults are a dict of hyperparameters.

    Lines about damaged files are added to the list `problems`, but without params.json and metrics it is a UserError.
    """
    params = utils.without_notes(read_if_there(folder, "params.json"))
    run = read_run(folder, problems)
    metrics = read_metrics(folder, BEST_METRICS, problems)
    monitor = monitor_of(run, params, metrics)
    metrics |= {f"test_{name}": value for name, value in read_metrics(folder, TEST_METRICS, problems).items()}
    name = os.path.relpath(folder, parent_dir)
    name = os.path.basename(os.path.abspath(folder)) if name == "." else name.replace(os.sep, "/")
    status, why = status_of(folder, run, metrics)
    epochs = run.get("epochs") if isinstance(run.get("epochs"), int) else None
    if status in ("running", "stopped"):  # run.json is only written at the end of a session
        with contextlib.suppress(OSError, LookupError, ValueError):
            epochs = int(Path(folder, "history.csv").read_bytes().splitlines()[-1].split(b",")[0])
    looks = read_or_note(folder, TEST_LOOKS, problems).get("looks")
    looks = len(looks) if isinstance(looks, list) else None
    return Row(name, folder, params, status, why, epochs, metrics, monitor, looks), run["params"]


def read_if_there(folder, name):
    """Return the JSON object in a file, {} if there is no such file; a damaged file is a UserError."""
    path = os.path.join(folder, name)
    return utils.read_json(path) if os.path.lexists(path) else {}


def read_or_note(folder, name, problems):
    """Return the JSON object in a file, {} if there is none or it is damaged; then a line is added to `problems`."""
    try:
        return read_if_there(folder, name)
    except UserError as error:
        problems.append(str(error))
        return {}


def read_run(folder, problems):
    """Return run.json as a dict with "params", "best", "dataset" (dicts) and "sessions" (a list of dicts, not empty).

    What is missing or damaged is empty.
    """
    run = read_or_note(folder, "run.json", problems)
    sessions = [of_type(session, dict) for session in of_type(run.get("sessions"), list)]
    return run | {name: of_type(run.get(name), dict) for name in ("params", "best", "dataset")} | {"sessions": sessions}


def status_of(folder, run, metrics):
    """Return (status, why) of an experiment; (None, "") if it has not been trained."""
    last = run["sessions"][-1] if run["sessions"] else {}
    for status in reversed(STATUSES):
        if status in last:
            return status, one_line({"failed": last.get("error"), "pruned": last.get("reason")}.get(status))
    if is_alive(read_owner(os.path.join(folder, ".lock"))):
        return "running", ""
    if last:
        return "stopped", ""
    is_trained = metrics or os.path.exists(os.path.join(folder, "run.json"))  # which CS230's template does not write
    return ("finished" if is_trained else None), ""


def monitor_of(run, params, metrics):
    """Return the name and direction of the metric that selected the best checkpoint; None for what is unknown."""
    default = next((name for name in ("accuracy", "loss") if name in metrics), None)
    name = run["best"].get("monitor") or params.get("monitor") or default
    mode = run["best"].get("mode") or params.get("monitor_mode")
    if not isinstance(name, str):
        return None, None
    return name, mode if mode in ("max", "min") else MODES.get(name)


def read_metrics(folder, name, problems):
    """Return the metrics in a file, a dict from name to float, without values that are not numbers."""
    metrics = {}
    for metric, value in read_if_there(folder, name).items():
        place = f"{os.path.join(folder, name)}: {one_line(metric)} is"
        value = math.nan if value is None else value  # as JSON has no NaN, null stands for it
        if type(value) is float or (type(value) is int and abs(value) < 2**1000):  # a larger one is no float
            metrics[metric] = float(value)
            if not math.isfinite(value):
                problems.append(f"{place} {metrics[metric]}")
        else:
            problems.append(f"{place} {one_line(json.dumps(value))}, not a number")
    return metrics


def read_curves(row, names):
    """Return the columns `names` of history.csv, a list of lists; a column that is missing or damaged is empty.

    With replicates they are the means over the finished ones, up to the last epoch that all of them have.
    """
    tables = []
    for member in row.finished if row.replicates else [row]:
        path = os.path.join(member.folder, "history.csv")
        with contextlib.suppress(OSError, ValueError, csv.Error), open(path, encoding="utf-8", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    curves = []
    for name in names:
        columns = []
        for table in tables:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                columns.append([float(line[name] or "nan") for line in table])
        curves.append([sum(values) / len(values) for values in zip(*columns, strict=False)])
    return curves


def of_type(value, kind):
    """Return `value` if it is a `kind` (dict or list), else an empty one."""
    return value if isinstance(value, kind) else kind()
