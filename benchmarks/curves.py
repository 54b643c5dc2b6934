"""Curves on log-log axes: a table with their slopes, and a picture. For growth.py."""

import math
import statistics
from typing import NamedTuple

from tabulate import tabulate

FITTED = 3  # sizes, the largest ones, that the slope is fitted to


class Point(NamedTuple):
    """A measurement: the `value` of a curve, in `unit`, where there are `size` of what grows, in words."""

    what: str
    curve: str
    unit: str
    size: int
    value: float


def curves_of(points):
    """Points as a dict from (what, curve, unit) to a dict from size to value."""
    curves = {}
    for *curve, size, value in points:
        curves.setdefault(tuple(curve), {})[size] = value
    return curves


def slope(values):
    """The slope on log-log axes at the largest sizes: 1 where twice as many take twice as long."""
    pairs = [(math.log(size), math.log(value)) for size, value in sorted(values.items())[-FITTED:] if value > 0]
    return statistics.linear_regression(*zip(*pairs, strict=True)).slope if len(pairs) > 1 else math.nan


def as_table(points):
    """The curves as a table in Markdown."""
    sizes = sorted({point.size for point in points})
    rows = []
    for curve, values in curves_of(points).items():
        cells = [f"{values[size]:.3g}" if size in values else "" for size in sizes]
        rows.append([*curve, *cells, f"{slope(values):.2f}"])
    headers = ["number of", "what", "unit", *(f"{size:,}" for size in sizes), "slope"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def plot(points, path):
    """Draw a panel for each thing that grows and each unit, with a line of slope 1 to compare with."""
    from matplotlib.figure import Figure

    panels = {}
    for (what, curve, unit), values in curves_of(points).items():
        panels.setdefault((what, unit), {})[curve] = {size: value for size, value in values.items() if value > 0}
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in axes[len(panels) :]:
        panel.remove()
    for panel, ((what, unit), curves) in zip(axes, panels.items(), strict=False):
        for curve, values in curves.items():
            panel.plot(values.keys(), values.values(), "o-", label=curve, markersize=4)
        ends = [max(values.items()) for values in curves.values() if values]
        size, value = max(ends, key=lambda end: end[1])  # where the line of slope 1 ends, too
        first = min(size for values in curves.values() for size in values)
        panel.plot([first, size], [value * first / size, value], ":", color="0.6", label="slope 1", zorder=1)
        lowest, highest = (f(v for values in curves.values() for v in values.values()) for f in (min, max))
        panel.set(xscale="log", yscale="log", ylim=(lowest / 3, highest * 3), xlabel=what, ylabel=unit)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)
