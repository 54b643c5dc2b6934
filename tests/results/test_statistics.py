"""Intervals and tests, beside scipy's and published numbers."""

import math

import numpy as np
import pytest
from scipy import stats

from toolkit.results.statistics import holm, mean_and_interval, paired_test


def test_the_interval_of_seeds_is_students():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10):
        values = rng.normal(size=n)
        mean, half_width = mean_and_interval(values)
        low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    assert mean_and_interval([0.9]) == (0.9, None)


def test_folds_have_the_wider_interval_of_nadeau_and_bengio():
    values = [0.90, 0.92, 0.91, 0.95, 0.89]
    _, of_seeds = mean_and_interval(values)
    _, of_folds = mean_and_interval(values, num_folds=5)
    assert of_folds / of_seeds == pytest.approx(math.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(1)
    intervals = [mean_and_interval(rng.normal(0.5, 0.1, size=4)) for _ in range(4000)]
    assert sum(abs(mean - 0.5) < half for mean, half in intervals) / 4000 == pytest.approx(0.95, abs=0.012)


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(0.1, 1, size=(2, 6))
    assert paired_test(ours - theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert paired_test(ours - theirs, num_folds=6) > paired_test(ours - theirs)


def test_differences_that_are_all_the_same_say_nothing_of_their_spread():
    assert paired_test([0.0, 0.0, 0.0]) is None
    assert paired_test([0.01, 0.01]) is None
    assert paired_test([0.9 - 0.8, 0.5 - 0.4]) is None  # rounding apart


def test_infinity_among_the_results_ends_nothing():
    assert mean_and_interval([math.inf, 1.0])[0] == math.inf


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
