"""curves.png, the picture of a run."""

import io
import math
import warnings
from typing import Any

SMALL_PLOTS = ("learning_rate", "gradient_norm", "samples_per_second")


def plot_curves(history, best):
    """Return a picture of the loss and the monitored metric over the epochs, and below them of SMALL_PLOTS.

    Args:
        history: list of dicts, one per epoch, with "epoch", "train_<result>", "val_<result>" and keys of SMALL_PLOTS.
        best: dict with "epoch", the one to mark, and "monitor", the metric.

    Returns:
        bytes of a PNG file.
    """
    from matplotlib.figure import Figure

    metrics = [key.removeprefix("val_") for key in history[-1] if key.startswith("val_") and key != "val_loss"]
    names = ["loss", best["monitor"]] if best["monitor"] != "loss" else ["loss", *metrics[:1]]
    small = [name for name in SMALL_PLOTS if any(name in row for row in history)]
    figure = Figure(figsize=(max(7, 5 * len(names)), 5.4 if small else 3.6), layout="constrained")
    rows: Any = figure.subfigures(2, 1, height_ratios=[2, 1]) if small else [figure]
    for axes, name in zip(rows[0].subplots(1, len(names), squeeze=False)[0], names, strict=True):
        plot(axes, history, f"train_{name}", color="tab:gray", label="train")
        plot(axes, history, f"val_{name}", color="tab:blue", label="val")
        for row in history:
            if row["epoch"] == best["epoch"]:
                value = row.get(f"val_{name}", math.nan)
                axes.plot(row["epoch"], value, "o", color="tab:orange", label=f"best epoch {row['epoch']}: {value:.4g}")
        axes.set(title=name, xlabel="epoch")
        axes.legend()
    for axes, name in zip(rows[-1].subplots(1, len(small), squeeze=False)[0] if small else (), small, strict=True):
        plot(axes, history, name, color="tab:green")
        axes.set_title(name.replace("_", " "), fontsize="medium")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    return png(figure)


def plot(axes, history, key, **style):
    """Draw the values of a history under a key; where a row has none there is a gap."""
    from matplotlib.ticker import MaxNLocator

    epochs, values = [row["epoch"] for row in history], [row.get(key, math.nan) for row in history]
    axes.plot(epochs, values, marker="o" if len(epochs) == 1 else None, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.grid(alpha=0.3)


def png(figure):
    """Return a matplotlib figure as the bytes of a PNG file."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks are drawn as boxes
        figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
