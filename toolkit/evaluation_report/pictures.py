"""The pictures of an evaluation: what is taken for what, how sure the model is, what it is most wrong about."""

import io
import warnings

import numpy as np

from toolkit.core.text import shorten
from toolkit.core.trees import tensors

MOST_CLASSES_WITH_COUNTS = 25
MOST_CLASSES_WITH_NAMES = 100
COLUMNS = 6  # of the contact sheet
MARK = "#d55e00"  # vermilion


def png(figure):
    """A figure as the bytes of a PNG file."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that its font lacks are drawn as boxes
        figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def confusion(report):
    """The confusion matrix: its colours are shares of the true class; few classes have their counts in it, too."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts, names = report.confusion, [shorten(name, 20) for name in report.names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.5 * len(names), 3, 12))
    figure = Figure(figsize=(side + 2, side + 0.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true", title=f"{counts.sum():,} predictions")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(names) <= MOST_CLASSES_WITH_NAMES:
        font = min(10, 500 / len(names))
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=font)
        axes.set_yticks(range(len(names)), names, fontsize=font)
    for row, column in np.argwhere(counts) if len(names) <= MOST_CLASSES_WITH_COUNTS else ():
        color = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize="small")
    return png(figure)


def reliability(report):
    """How often predictions are right against how probable the model calls them, and how many there are of each."""
    from matplotlib.figure import Figure

    counts, right, probability = report.bins
    width = 1 / len(counts)
    middle = (np.arange(len(counts)) + 0.5) * width
    figure = Figure(figsize=(4.8, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.bar(middle, np.nan_to_num(right), width, color="tab:blue", edgecolor="white", label="share that is right")
    upper.plot([0, 1], [0, 1], "--", color="0.4", label="as it should be")
    upper.plot(probability, right, ".", color=MARK, label="mean probability")
    upper.set(ylim=(0, 1), ylabel="right", title=f"expected calibration error {report.error:.4f}")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    lower.bar(middle, counts, width, color="tab:gray", edgecolor="white")
    lower.set(xlim=(0, 1), xlabel="probability of the prediction", ylabel="predictions")
    return png(figure)


def mistakes(report, inputs):
    """A contact sheet of the most probable wrong predictions; None where there is none, or the inputs are no images.

    Args:
        report: the Report.
        inputs: iterable of the inputs of its `worst`, each a batch of one.
    """
    from matplotlib.figure import Figure

    images = [image_of(batch) for batch in inputs]
    if not images or any(image is None for image in images):
        return None
    columns = min(COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2.6 * lines))
    figure.subplots_adjust(0.02, 0.1 / lines, 0.98, 1 - 0.18 / lines, wspace=0.1, hspace=0.35)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, row in zip(panels, images, report.worst, strict=False):
        item, label, prediction = (report.columns[name][row] for name in ("item", "label", "prediction"))
        panel.imshow(image, cmap="gray", interpolation="nearest" if max(image.shape) < 100 else None)
        title = f"true: {shorten(label, 18)}\nsaid: {shorten(prediction, 12)}, {report.probabilities[row]:.1%}"
        panel.set_title(title, fontsize=10)
        panel.text(0.5, -0.03, shorten(str(item), 32), transform=panel.transAxes, ha="center", va="top", fontsize=6)
    return png(figure)


def image_of(inputs):
    """The image in a batch of one, as matplotlib draws it: an array (H, W) or (H, W, 3); None where there is none."""
    pixels = next(iter(tensors(inputs)), None)
    if pixels is None or pixels.ndim != 4:
        return None
    pixels = pixels[0].cpu()
    pixels = pixels.permute(1, 2, 0) if pixels.shape[0] in (1, 3) else pixels  # (H, W, C)
    if pixels.shape[2] not in (1, 3):
        return None
    if pixels.is_floating_point():  # normalised in some way: from the darkest to the lightest
        low, high = pixels.amin(), pixels.amax()
        pixels = (pixels - low).float() / max(float(high - low), 1e-12)
    return pixels.squeeze(2).numpy()


def residuals(report):
    """Of a regression, the residuals (label minus prediction) over the predictions, and how they are distributed.

    Where a sample has several numbers, each has a colour of its own.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    differences = report.labels - report.predictions  # (R, numbers)
    finite = differences[np.isfinite(differences)]
    left.plot(report.predictions, differences, ".", markersize=4, alpha=0.5)
    left.set(xlabel="prediction", ylabel="label minus prediction")
    left.grid(alpha=0.3)
    if len(finite):
        left.set_title(f"mean {finite.mean():.3g}, standard deviation {finite.std():.3g}")
    right.hist(finite, bins=30, orientation="horizontal")
    right.set_xlabel("count")
    for axes in (left, right):
        axes.axhline(0, color="0.4", linestyle="--")
    return png(figure)
