"""Confidence intervals of the results of an evaluation."""

import math
import time
import warnings

import numpy as np
import torch

from toolkit.core.metrics import compute_metric, is_streaming
from toolkit.core.totals import to_numpy
from toolkit.core.trees import tree_map

RESAMPLES = 1000
SECONDS = 60.0  # no intervals if the resamples would take longer
CLOSE = 1e-4  # relative rounding difference of a value of all samples at once from one summed over batches


@torch.inference_mode()
def bootstrap_intervals(collected, results, metrics, loss_fn, params):
    """Return 95% confidence intervals, by resampling the samples of a split.

    They are intervals of the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapter 13). An interval that does not contain the result is moved until its median is the result: a macro F1, for
    example, may be lower in all resamples, because each of them lacks some samples of small classes.
    `scipy.stats.bootstrap` returns NaN if a metric is undefined for a single resample, such as one without a class.

    Args:
        collected: the CollectedOutputs of the split.
        results: dict from name to float, as `evaluate` returned it for `metrics`, `loss_fn` and `params`.

    Returns:
        dict from name to [low, high], or None if RESAMPLES would take too long. A result has no interval if all
        resamples give the same value, most give none, or all samples at once give another value (a loss that is not a
        mean over samples).
    """
    count, functions, names, drawn = len(collected.lengths), {}, [], []
    for name, metric in {"loss": loss_fn, **metrics}.items():
        at_once = values_of(name, metric, (collected.outputs, collected.labels), params)
        same = [k for k, v in at_once.items() if math.isclose(v, results.get(k, math.nan), rel_tol=CLOSE, abs_tol=1e-9)]
        names += same
        functions |= {name: metric} if same else {}
    started, random = time.monotonic(), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while names and count > 1 and len(drawn) < RESAMPLES:
            samples, values = collected.take(torch.from_numpy(random.integers(count, size=count))), {}
            for name, metric in functions.items():
                values |= values_of(name, metric, samples, params)
            drawn.append(values)
            if time.monotonic() - started > SECONDS * max(len(drawn), 10) / RESAMPLES:
                return None
    intervals = {}
    for name in names:
        values = [values[name] for values in drawn if math.isfinite(values.get(name, math.nan))]
        low, median, high = np.quantile(values or [0.0], [0.025, 0.5, 0.975]).tolist()
        if low < high and 2 * len(values) > len(drawn):
            shift = 0.0 if low <= results[name] <= high else results[name] - median
            ends = np.array([low + shift, high + shift])
            is_share = min(values) >= 0 and max(results[name], *values) <= 1
            intervals[name] = (ends.clip(0, 1) if is_share else ends).tolist()
    return intervals


def values_of(name, metric, samples, params):
    """Return the results of a metric, or of the loss, for samples (outputs, labels); {} if it is undefined for them."""
    try:
        if name != "loss" and not is_streaming(metric):
            return compute_metric(name, metric, *tree_map(to_numpy, samples), params)
        samples = tree_map(lambda t: t.to(getattr(params, "device", "cpu")), samples)
        if name == "loss":
            loss = metric(*samples)
            return {key: float(value) for key, value in {"loss": loss, **getattr(loss, "parts", {})}.items()}
        metric.reset()
        metric.update(*samples)
        return compute_metric(name, metric, None, None, params)
    except Exception:
        return {}
