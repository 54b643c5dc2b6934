"""results.png: a metric against each hyperparameter, the learning curves of the best, parallel coordinates."""

import contextlib
import csv
import io
import math
import os
from dataclasses import dataclass, replace

import numpy as np

from toolkit.core.text import shorten
from toolkit.results.tables import as_text

MOST_PANELS = 6  # hyperparameters with a panel of their own
MOST_AXES = 10  # of the parallel coordinates, with the metric
MOST_LINES = 500  # of the parallel coordinates
MOST_CATEGORIES = 12  # that are named on an axis
FEW_VALUES = 6  # of a number, which are drawn as categories
MOST_CURVES = 10
MISSING = -0.1  # where a line crosses an axis of the parallel coordinates that it has no value on
BEST = "#d55e00"  # vermilion, which those who do not tell red from green tell from all of viridis


def plot_results(table, mode):
    """Draw the rows of a table.

    Args:
        table: ResultsTable whose `metric` is drawn.
        mode: "max" or "min", whichever of it is better.

    Returns:
        The picture as the bytes of a PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in table.rows if math.isfinite(row.metrics.get(table.metric, math.nan))]
    space = table.results.search_space
    axes = [Axis.of_hyperparameter(name, rows, space.get(name)) for name in table.hyperparameters]
    axes = [axis for axis in axes if len(set(axis.positions)) > 1]  # what varies only in rows without the metric is out
    metric = Axis.of_metric(table.metric, rows, mode)
    panel_rows = math.ceil(min(len(axes), MOST_PANELS) / 3)
    heights = [3.1 * panel_rows] * bool(axes) + [3.6] + [3.8] * (len(axes) > 1)
    figure = Figure(figsize=(13, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if axes:
        draw_panels(next(parts), axes[:MOST_PANELS], metric, rows, table.best)
    draw_curves(next(parts), rows[:MOST_CURVES], metric, table.best)
    if len(axes) > 1:
        draw_parallel(next(parts), [*axes[: MOST_AXES - 1], metric], rows, table.best)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


@dataclass
class Axis:
    """Where the rows stand on an axis.

    `positions` are the values of the rows, NaN where one is missing, or the numbers of their categories; `ticks` are
    pairs (position, label), None where matplotlib is to choose; `scale` is "linear" or "log".
    """

    name: str
    positions: list
    scale: str = "linear"
    ticks: list | None = None
    is_categorical: bool = False

    @classmethod
    def of_hyperparameter(cls, name, rows, space):
        """The axis of a hyperparameter; `space` is what search_space.json says of it, or None."""
        values = [row.params.get(name) for row in rows]
        known = [value for value in values if value is not None]
        is_number = all(type(value) in (int, float) and math.isfinite(value) for value in known)
        if known and is_number and not isinstance(space, list):
            few = sorted(set(known)) if len(set(known)) <= FEW_VALUES else []
            is_log = bool(space.get("log")) and min(known) > 0 if isinstance(space, dict) else spans_orders(known)
            if is_log or isinstance(space, dict) or not few or len(values) < 2 * len(few):
                ticks = [(value, f"{value:.4g}") for value in few] if is_log and few else None
                positions = [math.nan if value is None else value for value in values]
                return cls(name, positions, "log" if is_log else "linear", ticks)
        categories = sorted(set(map(as_text, values)), key=lambda text: (text == "-", *natural(text)))
        places = {text: place for place, text in enumerate(categories)}
        step = math.ceil(len(categories) / MOST_CATEGORIES)
        ticks = [(place, shorten(text, 14)) for text, place in places.items()][::step]
        return cls(name, [places[as_text(value)] for value in values], ticks=ticks, is_categorical=True)

    @classmethod
    def of_metric(cls, name, rows, mode):
        """The axis of the metric; a loss that spans two orders of magnitude gets a log scale."""
        values = [row.metrics[name] for row in rows]
        return cls(name, values, "log" if mode == "min" and spans_orders(values) else "linear")

    @property
    def fractions(self):
        """The positions from 0 at the lowest to 1 at the highest, an array; MISSING where there is none."""
        places = np.log(self.positions) if self.scale == "log" else np.asarray(self.positions, dtype=np.float64)
        low, high = np.nanmin(places), np.nanmax(places)
        fractions = (places - low) / (high - low) if high > low else places - low + 0.5
        return np.where(np.isnan(fractions), MISSING, fractions)


def draw_panels(part, axes, metric, rows, best):
    """The metric against each hyperparameter: a dot a row, hollow where it is not finished, the best marked."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    columns = min(len(axes), 3)
    panels = part.subplots(math.ceil(len(axes) / columns), columns, squeeze=False, sharey=True).flatten()
    for panel in panels[::columns]:
        panel.set_ylabel(metric.name)
    for panel in panels[len(axes) :]:
        panel.remove()
    heights = np.array(metric.positions)
    widths = np.array([row.half_widths.get(metric.name, math.nan) for row in rows])
    finished = np.array([row.status == "finished" for row in rows])
    with_bars = len(rows) <= 100 and not np.isnan(widths).all()
    key = "".join(["; bars: 95% confidence"] * with_bars + ["; hollow: not finished"] * (not finished.all()))
    part.suptitle(f"{metric.name} of {len(rows):,} rows, by hyperparameter{key}", fontsize=12)
    size, alpha = (30, 0.8) if len(rows) <= 100 else (10, 0.5) if len(rows) <= 1000 else (4, 0.3)
    for panel, axis in zip(panels, axes, strict=False):
        places = np.array(axis.positions, dtype=np.float64)
        if axis.is_categorical and len(set(axis.positions)) < len(rows):  # side by side
            places += np.random.default_rng(0).uniform(-0.15, 0.15, len(places))
        if with_bars:
            panel.errorbar(places, heights, widths, fmt="none", ecolor="0.75", elinewidth=1, zorder=1)
        panel.scatter(places[finished], heights[finished], size, "tab:blue", alpha=alpha, linewidths=0, zorder=2)
        panel.scatter(places[~finished], heights[~finished], size, "none", edgecolors="0.5", alpha=alpha, zorder=2)
        for i in (i for i, row in enumerate(rows) if row is best):
            panel.plot(places[i], heights[i], "*", color=BEST, markersize=13, markeredgecolor="white", zorder=3)
        panel.set(xscale=axis.scale, yscale=metric.scale, ymargin=0.1)
        panel.set_xlabel(shorten(axis.name, 40))
        if axis.ticks:
            panel.xaxis.set_major_locator(FixedLocator([place for place, _ in axis.ticks]))
            panel.xaxis.set_major_formatter(FixedFormatter([label for _, label in axis.ticks]))
            panel.xaxis.set_minor_locator(NullLocator())
            if sum(len(label) + 2 for _, label in axis.ticks) > 36:
                for label in panel.get_xticklabels():
                    label.set(rotation=30, ha="right", rotation_mode="anchor")
        if axis.is_categorical:
            panel.set_xlim(-0.5, max(axis.positions) + 0.5)
        panel.grid(alpha=0.3)


def draw_curves(part, rows, metric, best):
    """The metric of the validation over the epochs, a line a row, beside the names."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    name = metric.name.removeprefix("test_")
    panel, drawn = part.subplots(), []
    for place, row in enumerate(rows):
        (values,) = curves_of(row, [f"val_{name}"])
        if values:
            color = BEST if row is best else colormaps["viridis"](0.05 + 0.85 * place / MOST_CURVES)
            label = shorten(row.name, 58) + (" *" if row is best else "")
            style = {"linewidth": 2.5, "zorder": 3} if row is best else {"linewidth": 1.3, "zorder": 2}
            marker = "o" if len(values) == 1 else None
            panel.plot(range(1, len(values) + 1), values, color=color, label=label, marker=marker, **style)
            drawn.append(values)
    wide = metric.scale == "log" and spans_orders([value for values in drawn for value in values])
    panel.set(xlabel="epoch", ylabel=name, yscale="log" if wide else "linear")
    best_ones = f" of the best {len(drawn)}" if len(drawn) > 1 else ""
    panel.set_title(f"learning curves (validation){best_ones}", fontsize=12)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.grid(alpha=0.3)
    if drawn:
        part.legend(loc="outside right upper", fontsize=7.5, frameon=False)
    else:
        panel.text(0.5, 0.5, "no history.csv", transform=panel.transAxes, ha="center", color="0.5")


def curves_of(row, names):
    """Columns of history.csv, a list for each of `names`, empty where there is none.

    Of replicates they are the means over the epochs that all have.
    """
    tables = []
    for one in row.replicates or [row]:
        if one.status == "finished" or not row.replicates:
            path = os.path.join(one.folder, "history.csv")
            missing = contextlib.suppress(OSError, ValueError, csv.Error)  # or broken
            with missing, open(path, encoding="utf-8", newline="") as file:
                tables.append(list(csv.DictReader(file)))
    curves = []
    for name in names:
        columns = []
        for table in tables:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # without that metric, or cut short
                columns.append([float(line[name]) for line in table])
        curves.append([sum(values) / len(values) for values in zip(*columns, strict=False)])
    return curves


def draw_parallel(part, axes, rows, best):
    """A line a row, best first, through its hyperparameters to its metric: the darker the better, the best on top."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    panel = part.subplots()
    axes = [replace(axis, positions=axis.positions[:MOST_LINES]) for axis in axes]
    axes = [axis for axis in axes if not np.isnan(axis.positions).all()]
    lines = np.stack([axis.fractions for axis in axes], axis=1)
    shown = f"the best {len(lines)} of {len(rows):,} rows" if len(lines) < len(rows) else "all rows"
    panel.set_title(f"parallel coordinates of {shown}, the darker the better", fontsize=12, pad=24)
    colors = colormaps["viridis"](0.9 * abs(lines[:, -1] - lines[0, -1]))
    alpha = 0.9 if len(lines) <= 50 else 0.4
    points = [np.column_stack([range(len(axes)), line]) for line in lines]
    panel.add_collection(LineCollection(points[::-1], colors=colors[::-1], alpha=alpha, linewidths=1))
    for i in (i for i, row in enumerate(rows[: len(lines)]) if row is best):
        panel.plot(range(len(axes)), lines[i], color=BEST, linewidth=2.5, zorder=3)
    for place, axis in enumerate(axes):
        panel.axvline(place, color="0.3", linewidth=1, zorder=1)
        for height, label in ticks_of(axis):
            panel.annotate(
                label,
                (place, height),
                (4, 0),
                textcoords="offset points",
                fontsize=7.5,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )
        panel.text(place, 1.06, shorten(axis.name, int(90 / len(axes)) + 2), fontsize=9, ha="center", va="bottom")
    margin = 0.05 * len(axes)  # for the names and labels of the outer axes
    panel.set(xlim=(-margin, len(axes) - 1 + margin), ylim=(MISSING - 0.03, 1.05))
    panel.set_axis_off()


def ticks_of(axis):
    """The labels of an axis of the parallel coordinates: a list of (fraction, label)."""
    places, fractions = np.asarray(axis.positions, dtype=np.float64), axis.fractions
    if axis.is_categorical:
        heights = dict(zip(places, fractions, strict=True))
        return [(heights[place], label) for place, label in axis.ticks if place in heights]
    low, high = np.nanmin(places), np.nanmax(places)
    missing = [(MISSING, "-")] if np.isnan(places).any() else []
    if low == high:
        return [(0.5, f"{low:.4g}"), *missing]
    steps = np.linspace(0, 1, 5)
    values = low * (high / low) ** steps if axis.scale == "log" else low + (high - low) * steps
    return [(step, f"{value:.3g}") for step, value in zip(steps, values, strict=True)] + missing


def spans_orders(values):
    """Whether positive values span two orders of magnitude, and not by a few near zero alone."""
    if not values or min(values) <= 0 or max(values) < 100 * min(values):
        return False
    low, high = np.quantile(values, [0.05, 0.95], method="nearest")
    return bool(high >= 40 * low)


def natural(text):
    """A key that sorts numbers by their value and before other texts."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
