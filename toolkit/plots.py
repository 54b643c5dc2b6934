"""Pictures of a run."""

import io


def plot_curves(history, metric, best_epoch):
    """Loss and one metric over the epochs, train and val, the best epoch marked.

    Args:
        history: list of dicts, one an epoch, with "epoch", "train_loss", "val_loss", "train_<metric>", "val_<metric>".
        metric: name of the metric to show beside the loss, or None for the loss alone.
        best_epoch: the epoch to mark.

    Returns:
        The picture as the bytes of a PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = ["loss"] + ([metric] if metric else [])
    figure = Figure(figsize=(5 * len(names), 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) == 1 else None
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, color in (("train", "tab:gray"), ("val", "tab:blue")):
            values = [row[f"{split}_{name}"] for row in history]
            axes.plot(epochs, values, color=color, label=split, marker=marker)
        if best_epoch in epochs:
            value = history[epochs.index(best_epoch)][f"val_{name}"]
            axes.plot(best_epoch, value, "o", color="tab:orange", label=f"best epoch {best_epoch}: {value:.4g}")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
