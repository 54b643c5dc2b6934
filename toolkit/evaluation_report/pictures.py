"""Pictures of an evaluation as the bytes of PNG files: confusion matrix, calibration, worst mistakes, residuals."""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from toolkit.core.curves import png
from toolkit.core.text import shorten
from toolkit.core.trees import tensors
from toolkit.evaluation_report.predictions import BINS

MOST_CLASSES_WITH_COUNTS = 25
MOST_CLASSES_WITH_NAMES = 100
COLUMNS = 6  # of the picture of mistakes


def confusion(counts, class_names):
    """Draw the confusion matrix `counts`, colored by share of the true class (scikit-learn has no such display)."""
    names = [shorten(name, 20) for name in class_names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.5 * len(names), 3, 12))
    figure = Figure(figsize=(side + 2, side + 0.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{counts.sum():,} predictions")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(names) <= MOST_CLASSES_WITH_NAMES:
        font = min(10, 500 / len(names))
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=font)
        axes.set_yticks(range(len(names)), names, fontsize=font)
    if len(names) <= MOST_CLASSES_WITH_COUNTS:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize="small")
    return png(figure)


def reliability(probabilities, right, error):
    """Draw a reliability diagram, and the number of predictions in each bin; arguments as for `calibration_error`."""
    accuracy, probability = calibration_curve(right, probabilities, n_bins=BINS)
    figure = Figure(figsize=(4.8, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], "--", color="0.4", label="perfect calibration")
    upper.plot(probability, accuracy, "o-", color="tab:blue", label="accuracy in a bin", clip_on=False)
    upper.set(ylim=(0, 1), ylabel="accuracy", title=f"expected calibration error {error:.4f}")
    upper.legend(fontsize="small")
    upper.grid(alpha=0.3)
    lower.hist(probabilities, bins=BINS, range=(0, 1), color="tab:gray", edgecolor="white")
    lower.set(xlim=(0, 1), xlabel="probability of the predicted class", ylabel="predictions")
    return png(figure)


def mistakes(rows, inputs):
    """Draw wrong predictions, rows of Predictions, with their `inputs`, batches of one; None if these are no images."""
    images = [image_of(batch) for batch in inputs]
    if not images or any(image is None for image in images):
        return None
    columns = min(COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2.6 * lines))
    figure.subplots_adjust(0.02, 0.1 / lines, 0.98, 1 - 0.18 / lines, wspace=0.1, hspace=0.35)
    for number, (image, row) in enumerate(zip(images, rows, strict=True), 1):
        panel = figure.add_subplot(lines, columns, number)
        panel.set_axis_off()
        panel.imshow(image, cmap="gray", interpolation="nearest" if max(image.shape) < 100 else None)
        prediction = f"{shorten(row['prediction'], 14)}, {row['probability']:.1%}"
        panel.set_title(f"label: {shorten(row['label'], 18)}\npredicted: {prediction}", fontsize=8)
        item = shorten(str(row["item"]), 32)
        panel.text(0.5, -0.03, item, transform=panel.transAxes, ha="center", va="top", fontsize=6)
    return png(figure)


def image_of(inputs):
    """Return the image in a batch of one for matplotlib, an array (H, W) or (H, W, 3); None if it is no image."""
    pixels = next(iter(tensors(inputs)), None)
    if pixels is None or pixels.ndim != 4:
        return None
    pixels = pixels[0].cpu()
    pixels = pixels.permute(1, 2, 0) if pixels.shape[0] in (1, 3) else pixels  # (H, W, C)
    if pixels.shape[2] not in (1, 3):
        return None
    if pixels.is_floating_point():  # normalized in an unknown way: scale the darkest to 0, the brightest to 1
        low, high = pixels.amin(), pixels.amax()
        pixels = (pixels - low).float() / max(float(high - low), 1e-12)
    return pixels.squeeze(2).numpy()


def residuals(labels, predictions):
    """Draw the residuals of a regression over its predictions, and their histogram; both arrays are (R, numbers)."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    differences = labels - predictions
    finite = differences[np.isfinite(differences)]
    left.plot(predictions, differences, ".", markersize=4, alpha=0.5)
    left.set(xlabel="prediction", ylabel="label minus prediction")
    left.grid(alpha=0.3)
    if len(finite):
        left.set_title(f"mean {finite.mean():.3g}, standard deviation {finite.std():.3g}")
    right.hist(finite, bins=30, orientation="horizontal")
    right.set_xlabel("count")
    for axes in (left, right):
        axes.axhline(0, color="0.4", linestyle="--")
    return png(figure)
