"""Pictures of a run."""

import io
import math


def plot_curves(history, best):
    """The loss and one metric over the epochs, train and val, the best epoch marked.

    Args:
        history: list of dicts, one an epoch, with "epoch" and, by name, "train_<result>" and "val_<result>".
        best: dict with the "epoch" to mark and the "monitor", the metric that is shown beside the loss.

    Returns:
        The picture as the bytes of a PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metrics = [key.removeprefix("val_") for key in history[-1] if key.startswith("val_") and key != "val_loss"]
    names = ["loss", best["monitor"]] if best["monitor"] != "loss" else ["loss", *metrics[:1]]
    width = 5 * len(names)  # inches
    figure = Figure(figsize=(width, 3.6))
    figure.subplots_adjust(left=0.65 / width, right=1 - 0.15 / width, bottom=0.14, top=0.91, wspace=0.18)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) == 1 else None
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, color in (("train", "tab:gray"), ("val", "tab:blue")):
            values = [row.get(f"{split}_{name}", math.nan) for row in history]  # nan: a metric that came later
            axes.plot(epochs, values, color=color, label=split, marker=marker)
        if best["epoch"] in epochs:
            value = values[epochs.index(best["epoch"])]
            axes.plot(best["epoch"], value, "o", color="tab:orange", label=f"best epoch {best['epoch']}: {value:.4g}")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.grid(alpha=0.3)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
