"""Scores of a classifier: precision, recall and F1 of each class, and the calibration of its probabilities."""

import numpy as np

BINS = 15  # of the calibration error


def scores_of_classes(predictions):
    """Return the scores of each class and the confusion matrix.

    Returns:
        classes: list of dicts with "class", "precision", "recall", "f1" and "support"; None for an undefined score,
            such as the precision of a class that is never predicted.
        confusion: int array (classes, classes), one row per true class.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    pair, numbers = (predictions.labels, predictions.predictions), range(len(predictions.class_names))
    confusion = confusion_matrix(*pair, labels=numbers)
    scores = precision_recall_fscore_support(*pair, labels=numbers, zero_division=np.nan)[:3]
    scores += (confusion.sum(axis=1),)  # theirs is not an integer if no prediction is right
    keys = ("class", "precision", "recall", "f1", "support")
    rows = zip(predictions.class_names, *(score.tolist() for score in scores), strict=True)
    return [dict(zip(keys, [None if v != v else v for v in row], strict=True)) for row in rows], confusion


def calibration(probabilities, right):
    """Return the expected calibration error: the mean gap between predicted probability and accuracy, over 15 bins.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.

    Args:
        probabilities: float array (R,), of the predicted classes.
        right: bool array (R,), True where the prediction is right.

    Returns:
        error: float in [0, 1].
        bins: three arrays (15,): the number of predictions, their accuracy, their mean probability (NaN if empty).
    """
    bins = np.clip(np.ceil(probabilities * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (right, probabilities)]
    error = np.abs(sums[0] - sums[1]).sum() / len(bins)
    with np.errstate(invalid="ignore"):
        return float(error), (counts, sums[0] / counts, sums[1] / counts)
