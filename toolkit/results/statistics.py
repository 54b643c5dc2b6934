"""How sure a mean over replicates is, and whether two configurations differ."""

import numpy as np


def mean_and_interval(values, num_folds=None):
    """The mean of replicates and the half-width of its 95% confidence interval, by Student's t.

    The training sets of two folds overlap, so their results are not independent. The variance of their mean is not 1/n
    of theirs, but 1/n + (size of the validation split)/(size of the training split) of it, where that
    ratio is 1/(num_folds - 1) (Nadeau and Bengio, 2003, "Inference for the Generalization Error", Machine Learning 52).

    Args:
        values: floats, one a replicate.
        num_folds: of the cross-validation that the replicates are folds of; None: they differ in the seed alone.

    Returns:
        (mean, half_width): half_width is None for a single value.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # infinity is a result, too
        mean = float(values.mean())
        if len(values) < 2:
            return mean, None
        from scipy.special import stdtrit

        return mean, float(stdtrit(len(values) - 1, 0.975)) * standard_error(values, num_folds)


def paired_test(differences, num_folds=None):
    """Student's t-test of whether the mean of paired differences is zero, corrected for folds as above.

    Args:
        differences: floats, one a pair, two or more.
        num_folds: as for `mean_and_interval`.

    Returns:
        The two-sided p-value; None where all differences are the same, which says nothing of how they spread.
    """
    from scipy.special import stdtr

    differences = np.asarray(differences, dtype=np.float64)
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return None
    t = differences.mean() / standard_error(differences, num_folds)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def standard_error(values, num_folds=None):
    """The standard error of the mean of two or more replicates, for folds with the correction above."""
    overlap = 1 / (num_folds - 1) if num_folds else 0
    return float(np.sqrt(values.var(ddof=1) * (1 / len(values) + overlap)))


def holm(p_values):
    """Adjust p-values for how many there are (Holm, 1979, "A Simple Sequentially Rejective Multiple Test Procedure").

    Args:
        p_values: list of floats.

    Returns:
        The adjusted ones, in the same order: those below 0.05 are significant together at the level 0.05.
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.arange(len(order), 0, -1) * np.asarray(p_values)[order]))
    return adjusted.tolist()
