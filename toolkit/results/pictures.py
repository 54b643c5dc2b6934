"""Draw results.png: a metric against each hyperparameter, and the learning curves of the best experiments."""

import math

from toolkit.core.curves import png
from toolkit.core.text import shorten
from toolkit.results.rows import read_curves
from toolkit.results.tables import as_text

MOST_PANELS = 6  # hyperparameters with a panel of their own
MOST_CATEGORIES = 12  # category names on an axis
FEW_VALUES = 6  # a number that takes at most this many values is drawn as categories
LOG_RANGE = 30  # an axis is logarithmic if its largest value is at least this many times the smallest
MOST_CURVES = 10
BEST = "#d55e00"  # vermilion: distinguishable from all of viridis, also for color-blind readers


def plot_results(table):
    """Return a picture of the rows of a ResultsTable, as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    rows = [row for row in table.rows if row.has(table.metric)]
    axes = {name: axis_of([row.params.get(name) for row in rows]) for name in table.hyperparameters}
    names = [name for name, axis in axes.items() if len(set(axis["places"])) > 1][:MOST_PANELS]
    scale = "log" if table.mode == "min" and is_wide([row.metrics[table.metric] for row in rows]) else "linear"
    heights = [3.1 * math.ceil(len(names) / 3), 3.6] if names else [3.6]
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    *above, below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    if names:
        panels = above[0].subplots(math.ceil(len(names) / 3), 3, squeeze=False, sharey=True).flatten()
        for panel, name in zip(panels, names, strict=False):
            draw_panel(panel, axes[name], rows, table)
            panel.set(xlabel=shorten(name, 40), ylabel=table.metric, yscale=scale)
        for panel in panels[len(names) :]:
            panel.remove()
    curves = below.subplots()
    for row in rows[:MOST_CURVES][::-1]:  # the best is drawn last
        (values,) = read_curves(row, [f"val_{table.metric.removeprefix('test_')}"])
        style = {"color": BEST, "linewidth": 2.5} if row is table.best else {}
        curves.plot(range(1, len(values) + 1), values, marker=".", label=shorten(row.name, 58), **style)
    curves.set(xlabel="epoch", ylabel=table.metric, yscale=scale, title="learning curves (validation) of the best rows")
    curves.locator_params(axis="x", integer=True, min_n_ticks=1)
    if rows:
        below.legend(reverse=True, loc="outside right upper", fontsize=7.5, frameon=False)
    return png(figure)


def draw_panel(panel, axis, rows, table):
    """Draw the metric against a hyperparameter, one dot per row, hollow if it is not finished, with 95% intervals."""
    styles = {
        "finished": {"fmt": "o", "color": "tab:blue"},
        "not finished": {"fmt": "o", "color": "0.5", "mfc": "none"},
        "best": {"fmt": "*", "color": BEST, "markersize": 13},
    }
    kinds = ["best" if r is table.best else "finished" if r.status == "finished" else "not finished" for r in rows]
    for kind, style in styles.items():
        drawn = [i for i, of_row in enumerate(kinds) if of_row == kind]
        heights = [rows[i].metrics[table.metric] for i in drawn]
        widths = [rows[i].half_widths.get(table.metric, math.nan) for i in drawn]
        panel.errorbar([axis["places"][i] for i in drawn], heights, widths, ecolor="0.75", alpha=0.7, **style)
    if axis["scale"] == "category":
        ticks = range(0, len(axis["labels"]), math.ceil(len(axis["labels"]) / MOST_CATEGORIES))
        panel.set_xticks(ticks, [shorten(axis["labels"][tick], 14) for tick in ticks], rotation=20, ha="right")
    else:
        panel.set_xscale(axis["scale"])
    panel.margins(0.1)
    panel.grid(alpha=0.3)


def axis_of(values):
    """Return the axis for the values of a hyperparameter (None if missing): a dict.

    "scale" is "linear", "log" or "category"; "places" has the positions of the values, NaN for a missing number;
    "labels" has the names of the categories.
    """
    known = [value for value in values if value is not None]
    are_numbers = all(type(value) in (int, float) and math.isfinite(value) for value in known)
    is_grid = len(set(map(as_text, known))) <= FEW_VALUES and len(values) >= 2 * len(set(map(as_text, known)))
    if known and are_numbers and (is_wide(known) or not is_grid):
        places = [math.nan if value is None else value for value in values]
        return {"scale": "log" if is_wide(known) else "linear", "places": places, "labels": []}
    ordered = sorted(values, key=lambda value: (0, value) if type(value) in (int, float) else (1, as_text(value)))
    labels = list(dict.fromkeys(map(as_text, ordered)))
    return {"scale": "category", "places": [labels.index(as_text(value)) for value in values], "labels": labels}


def is_wide(values):
    """Return True if the values are positive and so different that they need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) >= LOG_RANGE * min(values)
