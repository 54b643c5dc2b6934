"""Confidence intervals of an evaluation's results."""

import math
import time
import warnings

import numpy as np
import torch

from toolkit.core.metrics import is_streaming, results_of
from toolkit.core.totals import to_numpy
from toolkit.core.trees import tree_map

RESAMPLES = 1000
FEWEST_RESAMPLES = 100  # with fewer, the outer 5% are too few to be useful
SECONDS = 10.0  # time limit of the resampling
CLOSE = 1e-4  # relative; a value computed in one piece differs by rounding from one that is summed over batches


@torch.inference_mode()
def bootstrap_intervals(collected, results, metrics, loss_fn, params):
    """Return 95% confidence intervals of results: the percentile bootstrap over the samples of the split.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. A result has no interval if its
    function gives another value for all samples at once (a loss that is not a mean over samples), or if all resamples
    give the same value. `scipy.stats.bootstrap` has no time limit, and gives NaN as soon as a metric is undefined for
    one of the resamples, such as one without a rare class.

    Args:
        collected: the CollectedOutputs of the split.
        results: dict from name to float, as `evaluate` returned it.
        metrics, loss_fn, params: as `evaluate` got them.

    Returns:
        intervals: dict from name to [low, high].
        resamples: the number of resamples, an int; less than RESAMPLES if the time limit was reached.
    """
    functions, names = {}, []
    for name, metric in {"loss": loss_fn, **metrics}.items():
        whole = values_of(name, metric, (collected.outputs, collected.labels), params)
        same = [k for k, v in whole.items() if math.isclose(v, results.get(k, math.nan), rel_tol=CLOSE, abs_tol=1e-9)]
        names += same
        functions |= {name: metric} if same else {}
    count, drawn, started, random = len(collected.lengths), [], time.monotonic(), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while names and count > 1 and len(drawn) < RESAMPLES and time.monotonic() - started < SECONDS:
            samples = collected.take(torch.from_numpy(random.integers(count, size=count)))
            values = [values_of(name, metric, samples, params) for name, metric in functions.items()]
            drawn.append({key: value for found in values for key, value in found.items()})
    intervals = {}
    for name in names:
        values = [values[name] for values in drawn if math.isfinite(values.get(name, math.nan))]
        low, high = np.quantile(values, [0.025, 0.975]).tolist() if len(values) >= FEWEST_RESAMPLES else (0, 0)
        if low < high:
            intervals[name] = [low, high]
    return intervals, len(drawn)


def values_of(name, metric, samples, params):
    """Return the values of a metric, or of the loss, for samples (outputs, labels); none if it is undefined for them."""
    try:
        if name != "loss" and not is_streaming(metric):
            return results_of(name, metric, *tree_map(to_numpy, samples), params)
        samples = tree_map(lambda t: t.to(getattr(params, "device", "cpu")), samples)
        if name == "loss":
            loss = metric(*samples)
            return {key: float(value) for key, value in {"loss": loss, **getattr(loss, "parts", {})}.items()}
        metric.reset()
        metric.update(*samples)
        return results_of(name, metric, None, None, params)
    except Exception:
        return {}
