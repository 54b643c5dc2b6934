"""What this template costs beside other ways of the same, measured on this machine.

python benchmarks/bench.py                # all, in under ten minutes on two cores; writes results.md and .png
python benchmarks/bench.py epoch mlp      # some, by name; prints only
python benchmarks/bench.py start --rounds 11

Each round does both ways, one after the other; a ratio is ours by theirs of one round. `pip install -r
benchmarks/requirements.txt` (or `make bench`) gets what only the comparisons need; what is missing is left out.
"""

import argparse
import datetime
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ENVIRONMENT = dict(os.environ)

import toolkit.core  # noqa: E402, F401  # isort: skip (before torch, for which it sets how threads wait)

import loops  # noqa: E402, F401
import numpy as np  # noqa: E402
import processes  # noqa: E402, F401
import torch  # noqa: E402
from beside import COMPARISONS, measure  # noqa: E402
from tabulate import tabulate  # noqa: E402

from utils import write_whole  # noqa: E402

for name in os.environ.keys() - ENVIRONMENT.keys():  # what toolkit sets for torch is not to help the other side
    del os.environ[name]

FOLDER = Path(__file__).resolve().parent
ABOVE, BELOW = "#c44e52", "#3b6fb6"  # colours of ratios above and below their limit
LEFT = 0.02  # the least ratio that is drawn
ELSEWHERE = """
Two comparisons take longer and are commands of their own: `python benchmarks/sweep.py` (a sweep beside one train.py
after the other) and `python benchmarks/ner.py` (named entities beside CS230's loop).
"""


def in_unit(value, unit):
    """A cost in words."""
    if unit == "s" and abs(value) < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}"


def table(results):
    """The results as a table in Markdown."""
    rows = []
    for name, result in results.items():
        about = result.comparison
        row = {
            "name": name,
            "what": about.what,
            "beside": about.beside,
            "ratio": result.problem,
            "spread": "",
            "aim": f"{about.limit:g}",
        }
        if not result.problem:
            costs = {side: in_unit(np.median(getattr(result, side)), about.unit) for side in ("ours", "theirs")}
            row |= {
                "ratio": f"{result.ratio:.2f}",
                "spread": f"{min(result.ratios):.2f} to {max(result.ratios):.2f}",
            } | costs
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)


def machine():
    """What was measured on, in a line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux
        pass
    return (
        f"{name}, {torch.get_num_threads()} cores; Python {platform.python_version()}, torch {torch.__version__}; "
        f"{datetime.date.today():%d %B %Y}"
    )


def draw(results, path):
    """Draw a ratio, its spread and its limit for each comparison as a line of dots."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    drawn = {name: result for name, result in results.items() if not result.problem}
    figure = Figure(figsize=(9.6, 0.52 * len(drawn) + 1.5), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="0.75", linewidth=1, zorder=0)
    for place, result in enumerate(drawn.values()):
        about = result.comparison
        colour = BELOW if result.ratio <= about.limit else ABOVE
        lowest, highest = np.clip([min(result.ratios), max(result.ratios)], LEFT, None)  # a delay may be none
        axes.plot([lowest, highest], [place, place], color=colour, alpha=0.35, linewidth=6, solid_capstyle="round")
        axes.plot(max(result.ratio, LEFT), place, "o", color=colour, markersize=8)
        axes.plot(about.limit, place, "|", color="0.15", markersize=16, markeredgewidth=2)
        axes.annotate(
            f"{result.ratio:.2f}",
            (1.02, place),
            fontsize=9,
            color=colour,
            va="center",
            xycoords=("axes fraction", "data"),
        )
        for words, colour, line in ((about.what, "0.1", 0), (f"beside {about.beside}".replace("`", ""), "0.5", 1)):
            axes.annotate(
                words,
                (-0.02, place),
                (0, 1 - 11 * line),
                fontsize=8,
                color=colour,
                ha="right",
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
            )
    axes.set_yticks([])
    axes.plot([], [], "|", color="0.15", markersize=12, markeredgewidth=2, linestyle="none", label="the limit aimed at")
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(left=0.9 * LEFT)
    axes.xaxis.set_major_locator(ticker.FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ours by theirs: median, lowest and highest of the rounds (less is better)", fontsize=9)
    axes.grid(axis="x", color="0.92")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.legend(loc="lower left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of {', '.join(COMPARISONS)}")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.names) - COMPARISONS.keys():
        parser.error(f"no such comparison: {', '.join(sorted(unknown))}; there are {', '.join(COMPARISONS)}")
    logging.disable(logging.WARNING)  # what the runs say of themselves
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for name in args.names or COMPARISONS:
            print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
            results[name] = measure(COMPARISONS[name], Path(place), args.rounds)
            print(results[name].problem or f"{results[name].ratio:.2f}", file=sys.stderr, flush=True)
    how = f"{args.rounds} rounds; the ratio is the median of the rounds', the spread the lowest and the highest."
    text = f"{table(results)}\n\n{how} {machine()}\n"
    print(text)
    if not args.names:
        write_whole(FOLDER / "results.md", f"# What it costs, side by side\n\n{text}{ELSEWHERE}")
        draw(results, FOLDER / "results.png")


if __name__ == "__main__":
    main()
