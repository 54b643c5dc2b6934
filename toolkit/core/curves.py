"""Pictures of a run."""

import io
import math
import warnings
from typing import Any

BELOW = {"learning_rate": "learning rate", "gradient_norm": "gradient norm", "samples_per_second": "samples per second"}


def plot_curves(history, best):
    """The loss and one metric over the epochs, train and val, the best epoch marked; below them what the training did.

    Args:
        history: list of dicts, one an epoch, with "epoch" and, by name, "train_<result>" and "val_<result>", perhaps
            "learning_rate", "gradient_norm" and "samples_per_second".
        best: dict with the "epoch" to mark and the "monitor", the metric that is shown beside the loss.

    Returns:
        The picture as the bytes of a PNG file.
    """
    from matplotlib.figure import Figure

    metrics = [key.removeprefix("val_") for key in history[-1] if key.startswith("val_") and key != "val_loss"]
    names = ["loss", best["monitor"]] if best["monitor"] != "loss" else ["loss", *metrics[:1]]
    below = [name for name in BELOW if any(name in row for row in history)]
    figure = Figure(figsize=(max(7, 5 * len(names)), 5.4 if below else 3.6), layout="constrained")
    rows: Any = figure.subfigures(2, 1, height_ratios=[2, 1]) if below else [figure]
    for axes, name in zip(rows[0].subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, color in (("train", "tab:gray"), ("val", "tab:blue")):
            plot(axes, history, f"{split}_{name}", color=color, label=split)
        value = next((row.get(f"val_{name}", math.nan) for row in history if row["epoch"] == best["epoch"]), None)
        if value is not None:
            axes.plot(best["epoch"], value, "o", color="tab:orange", label=f"best epoch {best['epoch']}: {value:.4g}")
        axes.set(title=name, xlabel="epoch")
        axes.legend()
    for axes, name in zip(rows[-1].subplots(1, len(below), squeeze=False)[0] if below else (), below, strict=True):
        plot(axes, history, name, color="tab:green")
        axes.set_title(BELOW[name], fontsize="medium")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    return png(figure)


def png(figure):
    """Return a matplotlib figure as the bytes of a PNG file."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters that the font lacks are drawn as boxes
        figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def plot(axes, history, key, **style):
    """Draw the values of a history under a key; where a row has none there is a gap."""
    from matplotlib.ticker import MaxNLocator

    epochs, values = [row["epoch"] for row in history], [row.get(key, math.nan) for row in history]
    axes.plot(epochs, values, marker="o" if len(epochs) == 1 else None, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.grid(alpha=0.3)
