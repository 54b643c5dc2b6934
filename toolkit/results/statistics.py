"""Confidence intervals of means over replicates, and tests of whether two configurations differ."""

import numpy as np


def mean_and_interval(values, num_folds=None):
    """Return the mean of replicates and half the width of its 95% confidence interval (Student's t).

    The training sets of two folds overlap, so their results are not independent. Their mean then has the variance
    (1/n + n_val/n_train) s^2 instead of s^2/n, where n_val/n_train = 1/(num_folds - 1) (Nadeau and Bengio, 2003,
    "Inference for the Generalization Error", Machine Learning 52).

    Args:
        values: floats, one per replicate.
        num_folds: number of folds if the replicates are folds of a cross-validation; None if they differ only in seed.

    Returns:
        (mean, half_width): half_width is None for a single value.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a value may be infinite
        mean = float(values.mean())
        if len(values) < 2:
            return mean, None
        from scipy.special import stdtrit

        return mean, float(stdtrit(len(values) - 1, 0.975)) * standard_error(values, num_folds)


def paired_test(differences, num_folds=None):
    """Test whether the mean of paired differences is zero: Student's t-test, corrected for folds as above.

    Args:
        differences: two or more floats, one per pair.
        num_folds: as for `mean_and_interval`.

    Returns:
        The two-sided p-value; None if all differences are equal, because their spread is then unknown.
    """
    from scipy.special import stdtr

    differences = np.asarray(differences, dtype=np.float64)
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return None
    t = differences.mean() / standard_error(differences, num_folds)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def standard_error(values, num_folds=None):
    """Return the standard error of the mean of two or more replicates, corrected for folds as above."""
    overlap = 1 / (num_folds - 1) if num_folds else 0
    return float(np.sqrt(values.var(ddof=1) * (1 / len(values) + overlap)))


def holm(p_values):
    """Return p-values adjusted for multiple comparisons, in the same order.

    Source: Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(order), 0, -1) * np.asarray(p_values)[order]))
    return adjusted.tolist()
