"""What experiments left in their folders, read into rows, one an experiment, whatever state a folder is in."""

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
NO_EXPERIMENTS = (".", "replaced-", "reproduced-")  # how folders begin that an experiment keeps beside its results
STATUSES = ("finished", "running", "stopped", "pruned", "failed")  # from good to bad


@dataclass(slots=True)
class Row:
    """An experiment, or several that differ in nothing but seed and fold (see toolkit/results/comparison.py)."""

    name: str  # the path below the parent folder
    folder: str
    params: dict  # hyperparameters, with the defaults that were used
    status: str = "finished"
    why: str = ""  # it failed or was pruned
    epochs: float | None = None
    metrics: dict = field(default_factory=dict)  # of the validation; those of the test begin with "test_"
    monitor: tuple = (None, None)  # the metric that selected the best checkpoint, "max" or "min"; None: not known
    looks: int | None = None  # how often evaluate.py looked at the test split
    half_widths: dict = field(default_factory=dict)  # of the 95% confidence intervals of the metrics
    replicates: list = field(default_factory=list)  # the rows that were folded into this one
    difference: float | None = None  # of the monitored metric to the baseline
    p_value: float | None = None  # of that difference

    @property
    def counts(self):
        """(how many of its replicates are finished, how many there are)."""
        replicates = self.replicates or [self]
        return sum(one.status == "finished" for one in replicates), len(replicates)


@dataclass
class Results:
    """All that was found below a folder.

    `left_out` and `notes` are lines for people: folders that are no rows and why, and what is wrong with rows.
    `search_space` says what a sweep chose from, a dict from hyperparameter to a list or a dict with "low" and "high".
    """

    rows: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    search_space: dict = field(default_factory=dict)


def read_results(parent_dir):
    """Read all experiments at and below a folder.

    Returns:
        Results, its rows sorted by name.

    Raises:
        UserError: there is no such folder.
    """
    if not os.path.isdir(parent_dir):
        raise UserError(f"{parent_dir}: no such folder; --parent_dir names the one that the experiments are in")
    results, experiments, trained = Results(), [], set()
    for folder, names, is_leaf in sorted(walk(parent_dir, results.left_out)):
        if "search_space.json" in names:
            results.search_space |= read_or_note(folder, "search_space.json", results.notes)
        if names & {BEST_METRICS, "run.json"}:
            trained.add(folder)
        elif "params.json" not in names:
            if is_leaf and os.path.dirname(folder) not in trained:  # not what an experiment keeps beside its results
                results.left_out.append(f"{folder}: {'no params.json in it' if names else 'empty'}")
            continue
        try:
            params = read_object(os.path.join(folder, "params.json")) if "params.json" in names else {}
            experiments.append((folder, names, {k: v for k, v in params.items() if not k.startswith(("$", "_"))}))
        except UserError as error:
            results.left_out.append(str(error))
    names_of_params = dict.fromkeys(name for _, _, params in experiments for name in params)
    parents = {os.path.dirname(folder) for folder, _, _ in experiments}
    for folder, names, params in experiments:
        try:
            row = read_row(folder, parent_dir, names, params, names_of_params, results.notes)
        except UserError as error:
            results.left_out.append(str(error))
            continue
        if row is not None:
            results.rows.append(row)
        elif folder not in parents:  # a sweep's own params.json is but what its trials began with
            results.left_out.append(f"{folder}: not trained yet")
    return results


def walk(parent_dir, left_out):
    """Find the folders that may be experiments: not hidden ones, nor what runs keep in folders of their own.

    A link is followed unless it leads into, or above, what is walked anyway.

    Args:
        parent_dir: where to begin.
        left_out: list of lines that a folder which cannot be read is added to.

    Yields:
        (path of the folder, set of the names of the files in it, whether it has no folder that is walked)
    """

    def note(error):
        if not isinstance(error, FileNotFoundError):  # removed meanwhile
            left_out.append(f"{error.filename}: cannot be read: {error.strerror}")

    def leads_elsewhere(path):
        if not os.path.islink(path):
            return True
        target = Path(path).resolve()
        if any(target.is_relative_to(other) or other.is_relative_to(target) for other in walked):
            return False
        walked.append(target)
        return True

    walked = [Path(parent_dir).resolve()]
    for folder, folders, files in os.walk(os.path.normpath(parent_dir), onerror=note, followlinks=True):
        names = [name for name in folders if not name.startswith(NO_EXPERIMENTS) and name != "tensorboard"]
        folders[:] = [name for name in names if leads_elsewhere(os.path.join(folder, name))]
        yield folder, set(files), not folders


def read_row(folder, parent_dir, names, params, names_of_params, notes):
    """Read what an experiment left.

    Args:
        folder: its path.
        parent_dir: the path that its name is relative to.
        names: set of the names of the files in it.
        params: its hyperparameters, a dict as params.json has them.
        names_of_params: names of the hyperparameters that any params.json has, a dict.
        notes: list of lines that what is wrong is added to.

    Returns:
        Row; None where it has not been trained.

    Raises:
        UserError: its metrics cannot be read.
    """
    run = read_or_note(folder, "run.json", notes) if "run.json" in names else {}
    metrics = read_metrics(folder, BEST_METRICS, notes) if BEST_METRICS in names else {}
    status, why = status_of(folder, names, run)
    if status is None:
        return None
    monitor = monitor_of(run, params, metrics)
    if TEST_METRICS in names:
        metrics |= {f"test_{name}": value for name, value in read_metrics(folder, TEST_METRICS, notes).items()}
    defaults = as_dict(run.get("params"))
    params |= {name: defaults[name] for name in names_of_params if name in defaults and name not in params}
    epochs = run.get("epochs") if isinstance(run.get("epochs"), int) else None
    if status in ("running", "stopped") and "history.csv" in names:  # run.json is as it was when the session began
        epochs = last_epoch(folder, epochs)
    name = os.path.relpath(folder, parent_dir)
    name = os.path.basename(os.path.abspath(folder)) if name == "." else name.replace(os.sep, "/")
    looks = read_or_note(folder, TEST_LOOKS, notes).get("looks") if TEST_LOOKS in names else None
    looks = len(looks) if isinstance(looks, list) else None
    return Row(name, folder, params, status, why, epochs, metrics, monitor, looks)


def status_of(folder, names, run):
    """(status, why) of an experiment; (None, "") where it has not been trained."""
    sessions = run.get("sessions")
    last = as_dict(sessions[-1]) if isinstance(sessions, list) and sessions else None
    for status in reversed(STATUSES):
        if last and status in last:
            why = {"failed": last.get("error"), "pruned": last.get("reason")}.get(status)
            return status, one_line(why)
    if ".lock" in names and is_alive(read_owner(os.path.join(folder, ".lock"))):
        return "running", ""
    if last is not None:
        return "stopped", ""
    return ("finished", "") if names & {BEST_METRICS, "run.json"} else (None, "")  # CS230's have no run.json


def last_epoch(folder, otherwise):
    """The last epoch that history.csv has; `otherwise` where that cannot be read."""
    try:
        with open(os.path.join(folder, "history.csv"), "rb") as file:
            return int(file.read().splitlines()[-1].split(b",")[0])
    except (OSError, LookupError, ValueError):
        return otherwise


def monitor_of(run, params, metrics):
    """The metric that selected the best checkpoint of an experiment and its direction; None for what is not known."""
    best = as_dict(run.get("best"))
    name = best.get("monitor") or params.get("monitor") or next((n for n in ("accuracy", "loss") if n in metrics), None)
    mode = best.get("mode") or params.get("monitor_mode")
    if not isinstance(name, str):
        return None, None
    return name, mode if mode in ("max", "min") else MODES.get(name)


def read_metrics(folder, name, notes):
    """The metrics in a file, a dict from name to float; what is no number is left out and noted.

    Raises:
        UserError: the file is not a JSON object.
    """
    path, metrics = os.path.join(folder, name), {}
    for metric, value in read_object(path).items():
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError
            metrics[metric] = float(value)
        except (ValueError, OverflowError):
            notes.append(f"{path}: {one_line(metric)} is {one_line(json.dumps(value))}, not a number")
        else:
            if not math.isfinite(metrics[metric]):
                notes.append(f"{path}: {one_line(metric)} is {metrics[metric]}")
    return metrics


def read_or_note(folder, name, notes):
    """The JSON object in a file; an empty dict where it cannot be read, which is noted."""
    try:
        return read_object(os.path.join(folder, name))
    except UserError as error:
        notes.append(str(error))
        return {}


def read_object(path):
    """The JSON object in a file, as a dict.

    Raises:
        UserError: it cannot be read, is not JSON, or not an object.
    """
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
        if isinstance(content, dict):
            return content
    except (OSError, ValueError, RecursionError):
        pass
    return utils.read_json(path)  # slower, and knows to say what is wrong


def as_dict(value):
    """The value, if it is a dict; else an empty one."""
    return value if isinstance(value, dict) else {}
