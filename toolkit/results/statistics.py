"""Confidence intervals of means over replicates, and tests of whether two configurations differ."""

import numpy as np


def mean_and_interval(values, num_folds=None):
    """Return the mean of the `values` of replicates, and half the width of its 95% confidence interval (Student's t).

    The half width is None for a single value. `num_folds` is None if the replicates differ only in seed. If they are
    folds of a cross-validation, their training sets overlap, so the results are not independent: the mean has the
    variance (1/n + n_val/n_train) s^2 instead of s^2/n, where n_val/n_train = 1/(num_folds - 1) (Nadeau and Bengio,
    2003, "Inference for the Generalization Error", Machine Learning 52).
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a value may be infinite
        mean = float(values.mean())
        if len(values) < 2:
            return mean, None
        from scipy.special import stdtrit

        return mean, float(stdtrit(len(values) - 1, 0.975)) * standard_error(values, num_folds)


def paired_test(differences, num_folds=None):
    """Return the two-sided p-value of Student's t-test on two or more paired differences, corrected for folds as above.

    It is None if all differences are equal, because their spread is then unknown.
    """
    from scipy.special import stdtr

    differences = np.asarray(differences, dtype=np.float64)
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return None
    t = differences.mean() / standard_error(differences, num_folds)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def standard_error(values, num_folds):
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
