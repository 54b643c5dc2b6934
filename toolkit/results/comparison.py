"""Experiments side by side: what varies among them, which metric counts, which are replicates, which is the best."""

import difflib
import json
import math
import re
from collections import Counter

from toolkit.core.monitor import MODES
from toolkit.results.rows import STATUSES, Row
from toolkit.results.statistics import holm, mean_and_interval, paired_test
from utils import UserError

REPLICATED = ("seed", "fold")  # what replicates differ in
IN_NAMES = re.compile(r"(^|[,_/ -])(seed|fold)[=_-]?\d+")


def identity(value):
    """A hashable that is equal for equal values of a hyperparameter."""
    return value if type(value) in (int, float, str) else json.dumps(value, sort_keys=True)


def varying(rows, without=()):
    """The names of the hyperparameters that are not the same in all rows, in the order they are written in.

    That one is missing is a difference, too, but for a run that failed before its defaults were known.
    """
    values = {}
    for name in dict.fromkeys(name for row in rows for name in row.params if name not in without):
        known = (row for row in rows if name in row.params or row.status != "failed")
        values[name] = {identity(row.params.get(name)) for row in known}
    return [name for name in values if len(values[name]) > 1]


def choose_metric(rows, name=None, mode=None):
    """Which metric the rows are sorted by.

    Args:
        rows: list of Row.
        name: a metric that is asked for; None: the one that most rows were monitored by.
        mode: "max" or "min", if that is asked for.

    Returns:
        (name, mode, notes): notes are lines for people; name is None where no row has a metric.

    Raises:
        UserError: no row has the metric, or its direction is not known.
    """
    there = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    if name is not None and name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"--metric {name}: no experiment has it{meant}; there is {', '.join(there) or 'none yet'}")
    votes = Counter(row.monitor for row in rows if row.monitor[0] in row.metrics)
    notes = []
    if name is None:
        if not there:
            return None, None, []
        names = Counter(row.monitor[0] for row in rows if row.monitor[0] in row.metrics)
        name = names.most_common(1)[0][0] if names else there[0]
        others = [f"{other} in {count}" for other, count in names.most_common()[1:]]
        if others:
            notes.append(f"The best checkpoint was chosen by {name} in {names[name]} rows, by {', '.join(others)}")
    if mode is None:
        plain = name.removeprefix("test_")
        modes = [vote for vote, _ in votes.most_common() if vote[0] == plain and vote[1]]
        mode = modes[0][1] if modes else MODES.get(plain)
    if mode is None:
        raise UserError(f"is more or less {name} better? Add --mode max or --mode min")
    return name, mode, notes


def rank(rows, metric, mode):
    """The rows sorted by a metric, best first; those without it, or where it is not finite, last."""

    def key(row):
        value = row.metrics.get(metric, math.nan)
        if not math.isfinite(value):
            return True, 0, row.name
        return False, -value if mode == "max" else value, row.name

    return sorted(rows, key=key)


def fold(rows):
    """Fold the rows that differ in nothing but seed and fold into one row each.

    Rows with the same seed and fold are no replicates of each other: something else, the code for one, differs between
    them. They stay apart, by their names without seed and fold.

    Returns:
        (rows, notes): notes are lines for people.
    """
    groups = {}
    for row in rows:
        values = {k: v for k, v in row.params.items() if k not in REPLICATED and v is not None}
        groups.setdefault(tuple(sorted((k, identity(v)) for k, v in values.items())), []).append(row)
    parts = []
    for group in groups.values():
        by_name = {}
        for row in group:
            by_name.setdefault(IN_NAMES.sub("", row.name) if repeats(group) else "", []).append(row)
        for part in by_name.values():
            parts += [[row] for row in part] if repeats(part) else [part]
    taken, notes = {part[0].name for part in parts if len(part) == 1}, []
    return [part[0] if len(part) == 1 else fold_one(part, taken, notes) for part in parts], notes


def repeats(rows):
    """Whether two of the rows have the same seed and fold."""
    return len({replicate_of(row) for row in rows}) < len(rows)


def replicate_of(row):
    """(seed, fold, num_folds) of a row; without cross-validation the last two are None."""
    num_folds = row.params.get("num_folds") or None
    fold = row.params.get("fold") if num_folds or "num_folds" not in row.params else None
    return identity(row.params.get("seed")), identity(fold), identity(num_folds)


def fold_one(replicates, taken, notes):
    """One row with the means over those of `replicates` that are finished."""
    names = {IN_NAMES.sub("", row.name).strip(",_-/ ") for row in replicates}
    name = names.pop() if len(names) == 1 else ""
    if name in taken and replicates[0].params.get("num_folds"):
        name += f",num_folds={replicates[0].params['num_folds']}"
    if not name or name in taken:
        name = f"{replicates[0].name} and {len(replicates) - 1} more"
    taken.add(name)
    status = max((row.status for row in replicates), key=STATUSES.index)
    params = {k: v for k, v in replicates[0].params.items() if k not in REPLICATED}
    folded = Row(name, replicates[0].folder, params, status, replicates=replicates)
    folded.why = next((row.why for row in replicates if row.status == status), "")
    folded.monitor = replicates[0].monitor
    epochs = [row.epochs for row in replicates if row.epochs is not None]
    folded.epochs = sum(epochs) / len(epochs) if epochs else None
    looks = [row.looks for row in replicates if row.looks is not None]
    folded.looks = sum(looks) if looks else None
    finished = [row for row in replicates if row.status == "finished"]
    for metric in dict.fromkeys(metric for row in finished for metric in row.metrics):
        having = [row for row in finished if metric in row.metrics]
        values = by_fold(having, [row.metrics[metric] for row in having])
        folded.metrics[metric], half_width = mean_and_interval(values, folds_of(having))
        if half_width is not None:
            folded.half_widths[metric] = half_width
        if len(having) < len(finished):
            notes.append(f"{name}: {metric} is over {len(having)} of {len(finished)} finished replicates")
    return folded


def folds_of(rows):
    """The number of folds of the cross-validation that rows are of; None where they are not of several folds."""
    folds = {row.params.get("fold") if isinstance(row.params.get("fold"), int) else None for row in rows}
    if len(folds) < 2:
        return None
    num_folds = rows[0].params.get("num_folds")
    return num_folds if isinstance(num_folds, int) and num_folds > 1 else len(folds)


def by_fold(rows, values):
    """The values of replicates; of a cross-validation with several seeds the mean over these in each fold.

    For all seeds have the same folds: another seed is no further sample of the data.
    """
    folds, is_cross_validation = {}, folds_of(rows) is not None
    for row, value in zip(rows, values, strict=True):
        key = row.params.get("fold") if is_cross_validation else len(folds)
        folds.setdefault(key, []).append(value)
    return [sum(group) / len(group) for group in folds.values()]


def compare(rows, baseline, metric):
    """Set `difference` and `p_value` of the rows to the baseline, over finished replicates paired by seed and fold.

    Args:
        rows: list of Row, folded or not.
        baseline: the name of a row, or of one that was folded into it.
        metric: the one to compare by.

    Returns:
        Lines for people.

    Raises:
        UserError: there is no such row.
    """
    owner = {replicate.name: row for row in rows for replicate in row.replicates} | {row.name: row for row in rows}
    if baseline not in owner:
        near = difflib.get_close_matches(baseline, owner, n=3, cutoff=0.3)
        raise UserError(f"--baseline {baseline}: no such row{'; near it: ' + ', '.join(near) if near else ''}")
    name, theirs, tested, untested = owner[baseline].name, values_of(owner[baseline], metric), [], []
    for row in (row for row in rows if row is not owner[baseline]):
        ours = values_of(row, metric)
        pairs = [key for key in ours if key in theirs]
        differences = [ours[key][1] - theirs[key][1] for key in pairs]
        if differences:
            row.difference = sum(differences) / len(differences)
        paired = [ours[key][0] for key in pairs]
        differences = by_fold(paired, differences)
        row.p_value = paired_test(differences, folds_of(paired)) if len(differences) > 1 else None
        (untested if row.p_value is None else tested).append(row)
    for row, p_value in zip(tested, holm([row.p_value for row in tested]), strict=True):
        row.p_value = p_value
    lines = [
        f"difference: mean {metric} minus that of {name}, over finished replicates paired by seed and fold; "
        f"p: paired t-test, Holm-adjusted (rows compared: {len(tested)})"
    ]
    if untested:
        lines.append(
            f"no p-value, as fewer than two seeds or folds finished both there and in {name}, or all "
            f"differences are the same: {', '.join(row.name for row in untested)}"
        )
    return lines


def values_of(row, metric):
    """The metric's values of the finished replicates of a row: dict from `replicate_of` of each to (row, value)."""
    finished = [one for one in row.replicates or [row] if one.status == "finished"]
    finished = [one for one in finished if math.isfinite(one.metrics.get(metric, math.nan))]
    return {replicate_of(one): (one, one.metrics[metric]) for one in finished}
