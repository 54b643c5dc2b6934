"""Draw results.png: a metric against each hyperparameter, and the learning curves of the best experiments."""

import math

import numpy as np

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
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in table.rows if math.isfinite(row.metrics.get(table.metric, math.nan))]
    axes = [(name, *positions_of([row.params.get(name) for row in rows])) for name in table.hyperparameters]
    axes = [axis for axis in axes if len(set(axis[1])) > 1][:MOST_PANELS]  # it may vary only in rows not drawn
    is_log = table.mode == "min" and is_wide([row.metrics[table.metric] for row in rows])
    heights = [3.1 * math.ceil(len(axes) / 3), 3.6] if axes else [3.6]
    figure = Figure(figsize=(13, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    if axes:
        draw_panels(parts[0], axes, rows, table, is_log)
    draw_curves(parts[-1], rows[:MOST_CURVES], table, is_log)
    return png(figure)


def positions_of(values):
    """Return (positions, scale, labels) for the values of a hyperparameter (None if missing) on an axis.

    The positions are numbers, NaN for a missing value; the scale is that of `scale_of`; the labels name categories.
    """
    scale = scale_of(values)
    if scale != "category":
        return [math.nan if value is None else value for value in values], scale, []
    numbers = sorted(value for value in values if type(value) in (int, float))
    others = sorted(as_text(value) for value in values if type(value) not in (int, float))
    labels = list(dict.fromkeys([*map(as_text, numbers), *others]))
    return [labels.index(as_text(value)) for value in values], scale, labels


def scale_of(values):
    """Return "linear", "log" or "category" for the values of a hyperparameter (None if missing)."""
    known = [value for value in values if value is not None]
    if not known or not all(type(value) in (int, float) and math.isfinite(value) for value in known):
        return "category"
    if is_wide(known):
        return "log"
    is_grid = len(set(known)) <= FEW_VALUES and len(values) >= 2 * len(set(known))
    return "category" if is_grid else "linear"


def draw_panels(part, axes, rows, table, is_log):
    """Draw the metric against each hyperparameter, one dot per row, hollow if it is not finished."""
    columns = min(len(axes), 3)
    panels = part.subplots(math.ceil(len(axes) / columns), columns, squeeze=False, sharey=True).flatten()
    for panel in panels[::columns]:
        panel.set_ylabel(table.metric)
    for panel in panels[len(axes) :]:
        panel.remove()
    heights = np.array([row.metrics[table.metric] for row in rows])
    widths = np.array([row.half_widths.get(table.metric, math.nan) for row in rows])
    finished = np.array([row.status == "finished" for row in rows])
    best = np.array([row is table.best for row in rows])
    with_bars = len(rows) <= 100 and not np.isnan(widths).all()
    title = f"{table.metric} of {len(rows):,} rows, by hyperparameter{'; bars: 95% confidence' if with_bars else ''}"
    part.suptitle(title + ("" if finished.all() else "; hollow: not finished"), fontsize=12)
    size, alpha = (30, 0.8) if len(rows) <= 100 else (10, 0.5) if len(rows) <= 1000 else (4, 0.3)
    for panel, (name, positions, scale, labels) in zip(panels, axes, strict=False):
        places = np.array(positions, dtype=np.float64)
        if labels:
            shown = range(0, len(labels), math.ceil(len(labels) / MOST_CATEGORIES))
            texts = [shorten(labels[place], 14) for place in shown]
            slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, texts)) > 24 else {}
            panel.set_xticks(shown, texts, **slanted)
            panel.set_xlim(-0.5, len(labels) - 0.5)
            if len(labels) < len(rows):  # spread the dots of one category sideways
                places += np.random.default_rng(0).uniform(-0.15, 0.15, len(places))
        if with_bars:
            panel.errorbar(places, heights, widths, fmt="none", ecolor="0.75", elinewidth=1, zorder=1)
        panel.scatter(places[finished], heights[finished], size, "tab:blue", alpha=alpha, linewidths=0, zorder=2)
        panel.scatter(places[~finished], heights[~finished], size, "none", edgecolors="0.5", alpha=alpha, zorder=2)
        panel.plot(places[best], heights[best], "*", color=BEST, markersize=13, markeredgecolor="white", zorder=3)
        if scale == "log":
            panel.set_xscale("log")
        panel.set(xlabel=shorten(name, 40), yscale="log" if is_log else "linear", ymargin=0.1)
        panel.grid(alpha=0.3)


def draw_curves(part, rows, table, is_log):
    """Draw the metric on the validation split over the epochs, one line per row."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    name = table.metric.removeprefix("test_")
    panel, drawn = part.subplots(), []
    for place, row in enumerate(rows):
        (values,) = read_curves(row, [f"val_{name}"])
        if values:
            is_best = row is table.best
            color = BEST if is_best else colormaps["viridis"](0.05 + 0.85 * place / MOST_CURVES)
            label = shorten(row.name, 58) + (" *" if is_best else "")
            width, marker = 2.5 if is_best else 1.3, "o" if len(values) == 1 else None
            epochs = range(1, len(values) + 1)
            panel.plot(epochs, values, color=color, label=label, marker=marker, linewidth=width, zorder=2 + is_best)
            drawn.append(values)
    is_log = is_log and is_wide([value for values in drawn for value in values])
    panel.set(xlabel="epoch", ylabel=name, yscale="log" if is_log else "linear")
    which = f" of the best {len(drawn)}" if len(drawn) > 1 else ""
    panel.set_title(f"learning curves (validation){which}", fontsize=12)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.grid(alpha=0.3)
    if drawn:
        part.legend(loc="outside right upper", fontsize=7.5, frameon=False)
    else:
        panel.text(0.5, 0.5, "no history.csv", transform=panel.transAxes, ha="center", color="0.5")


def is_wide(values):
    """Return True if the values are positive and so different that they need a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) >= LOG_RANGE * min(values)
