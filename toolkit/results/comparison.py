"""Compare experiments: find what varies, choose the metric, merge replicates, test differences from a baseline."""

import difflib
import math
import re
from collections import Counter

from toolkit.core.monitor import MODES
from toolkit.core.text import identity
from toolkit.results.rows import STATUSES, Row
from toolkit.results.statistics import holm, mean_and_interval, paired_test
from utils import UserError

REPLICATED = ("seed", "fold")  # the hyperparameters in which replicates differ
IN_NAMES = re.compile(r"(^|[,_/ -])(seed|fold)[=_-]?\d+")


def varying(rows, without=()):
    """Return the names of the hyperparameters that differ between rows, in the order of the files.

    A missing value counts as different, except in a run that failed before its defaults were known.
    """
    names = []
    for name in dict.fromkeys(name for row in rows for name in row.params if name not in without):
        known = [row for row in rows if name in row.params or row.status != "failed"]
        if len({identity(row.params.get(name)) for row in known}) > 1:
            names.append(name)
    return names


def choose_metric(rows, name=None, mode=None):
    """Return (name, mode, notes): the metric by which the rows are sorted, "max" or "min", and lines to print.

    By default, it is the metric that selected the best checkpoint of most rows, and its mode is that of the experiments
    or of the metric's name. The name is None if no row has a metric. A name or a mode that is unknown is a UserError.
    """
    known = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        problem = f"no experiment has this metric{f' (did you mean {near[0]}?)' if near else ''}"
        raise UserError(f"--metric {name}: {problem}; known: {', '.join(known) or 'none yet'}")
    if not known:
        return None, None, []
    monitors, notes = [row.monitor for row in rows if row.monitor[0] in row.metrics], []
    if name is None:
        names = Counter(monitor for monitor, _ in monitors).most_common()
        name = names[0][0] if names else known[0]
        if len(names) > 1:
            in_rows = ", ".join(f"by {monitor} in {number} rows" for monitor, number in names)
            notes.append(f"The best checkpoint was selected {in_rows}")
    if mode is None:
        plain = name.removeprefix("test_")
        modes = Counter(direction for monitor, direction in monitors if monitor == plain and direction).most_common(1)
        mode = modes[0][0] if modes else MODES.get(plain)
    if mode is None:
        raise UserError(f"--metric {name}: is a higher or a lower value better? Add --mode max or --mode min")
    return name, mode, notes


def rank(rows, metric, mode):
    """Return the rows sorted by a metric, best first; rows in which it is missing or not finite come last."""
    sign = -1 if mode == "max" else 1
    return sorted(rows, key=lambda row: (sign * row.metrics[metric] if row.has(metric) else math.inf, row.name))


def merge_replicates(rows):
    """Return (rows, notes): one row for all rows that differ only in seed and fold, and lines to print.

    Rows with the same seed and fold are not replicates of each other, because something else, such as the code,
    differs between them. They are kept apart by their names without seed and fold.
    """
    groups = {}
    for row in rows:
        values = {k: identity(v) for k, v in row.params.items() if k not in REPLICATED and v is not None}
        groups.setdefault(tuple(sorted(values.items())), []).append(row)
    parts = []
    for group in groups.values():
        by_name = {}
        for row in group:
            by_name.setdefault(IN_NAMES.sub("", row.name) if has_duplicates(group) else "", []).append(row)
        for part in by_name.values():
            parts += [[row] for row in part] if has_duplicates(part) else [part]
    taken, notes = {part[0].name for part in parts if len(part) == 1}, []
    return [part[0] if len(part) == 1 else merge(part, taken, notes) for part in parts], notes


def has_duplicates(rows):
    """Return True if two of the rows have the same seed and fold."""
    return len({replicate_key(row) for row in rows}) < len(rows)


def replicate_key(row):
    """Return (seed, fold, num_folds) of a row; the last two are None without cross-validation."""
    num_folds = row.params.get("num_folds") or None
    fold = row.params.get("fold") if num_folds or "num_folds" not in row.params else None
    return identity(row.params.get("seed")), identity(fold), identity(num_folds)


def merge(replicates, taken, notes):
    """Return one Row with the means over the finished `replicates`; add its name to `taken`, and lines to `notes`."""
    first = replicates[0]
    names = {IN_NAMES.sub("", row.name).strip(",_-/ ") for row in replicates}
    name = names.pop() if len(names) == 1 else ""
    if not name or name in taken:
        name = f"{first.name} and {len(replicates) - 1} more"
    taken.add(name)
    params = {k: v for k, v in first.params.items() if k not in REPLICATED}
    merged = Row(name, first.folder, params, monitor=first.monitor, replicates=replicates)
    merged.status = max((row.status for row in replicates), key=STATUSES.index)
    merged.why = next((row.why for row in replicates if row.status == merged.status), "")
    if epochs := [row.epochs for row in replicates if row.epochs is not None]:
        merged.epochs = sum(epochs) / len(epochs)
    if looks := [row.looks for row in replicates if row.looks is not None]:
        merged.looks = sum(looks)
    for metric in dict.fromkeys(metric for row in merged.finished for metric in row.metrics):
        having = [row for row in merged.finished if metric in row.metrics]
        values = means_per_fold(having, [row.metrics[metric] for row in having])
        merged.metrics[metric], half_width = mean_and_interval(values, number_of_folds(having))
        if half_width is not None and math.isfinite(half_width):
            merged.half_widths[metric] = half_width
        if len(having) < len(merged.finished):
            notes.append(f"{name}: only {len(having)} of {len(merged.finished)} finished replicates have {metric}")
    return merged


def number_of_folds(rows):
    """Return the number of folds if the rows are folds of a cross-validation, else None."""
    folds = {fold if isinstance(fold := row.params.get("fold"), int) else None for row in rows}
    if len(folds) < 2:
        return None
    num_folds = rows[0].params.get("num_folds")
    return num_folds if isinstance(num_folds, int) and num_folds > 1 else len(folds)


def means_per_fold(rows, values):
    """Return the values of replicates; in a cross-validation with several seeds, the mean over the seeds of each fold.

    All seeds share the same folds, so another seed is not another sample of the data.
    """
    folds, is_cross_validation = {}, number_of_folds(rows) is not None
    for row, value in zip(rows, values, strict=True):
        key = identity(row.params.get("fold")) if is_cross_validation else len(folds)
        folds.setdefault(key, []).append(value)
    return [sum(group) / len(group) for group in folds.values()]


def compare(rows, baseline, metric):
    """Compare a metric of each row with that of a baseline, the name of a row or of a replicate merged into it.

    Set `difference` and `p_value` of each row, from finished replicates that are paired by seed and fold. Return lines
    to print below the table. An unknown baseline is a UserError.
    """
    owner = {replicate.name: row for row in rows for replicate in row.replicates} | {row.name: row for row in rows}
    if baseline not in owner:
        near = difflib.get_close_matches(baseline, owner, n=3, cutoff=0.3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"--baseline {baseline}: no such row{hint}")
    if metric is None:
        raise UserError(f"--baseline {baseline}: no experiment has a metric to compare yet")
    base, tested, untested = owner[baseline], [], []
    theirs = values_of(base, metric)
    for row in (row for row in rows if row is not base):
        ours = values_of(row, metric)
        pairs = [key for key in ours if key in theirs]
        differences = [ours[key][1] - theirs[key][1] for key in pairs]
        if differences:
            row.difference = sum(differences) / len(differences)
        paired = [ours[key][0] for key in pairs]
        differences = means_per_fold(paired, differences)
        row.p_value = paired_test(differences, number_of_folds(paired)) if len(differences) > 1 else None
        (untested if row.p_value is None else tested).append(row)
    for row, p_value in zip(tested, holm([row.p_value for row in tested]), strict=True):
        row.p_value = p_value
    lines = [
        f"difference: mean {metric} minus that of {base.name}, over finished replicates paired by seed and fold; "
        f"p: paired t-test, Holm-adjusted (rows compared: {len(tested)})"
    ]
    if untested:
        lines.append(
            f"no p-value, because fewer than two seeds or folds finished both there and in {base.name}, or all "
            f"differences are equal: {', '.join(row.name for row in untested)}"
        )
    return lines


def values_of(row, metric):
    """Return the finite values of a metric in the finished replicates of a row: {replicate_key: (row, value)}."""
    return {replicate_key(member): (member, member.metrics[metric]) for member in row.finished if member.has(metric)}
