"""Metrics: functions of all outputs and labels of a split, or objects that take batch after batch."""

import inspect
from typing import Any

import torch

from toolkit.core.trees import describe
from utils import UserError


def is_streaming(metric):
    """Whether a metric has torchmetrics' protocol: update, compute and reset."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def takes_params(fn):
    """Whether a loss or a metric wants `params`: a third positional argument of that name, or without a default."""
    try:
        arguments = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and (positional[2].name == "params" or positional[2].default is inspect.Parameter.empty)


def results_of(name, metric, outputs, labels, params):
    """What one of the metrics gives for a split: a dict from name to float.

    Raises:
        UserError: it is neither a number nor a dict of numbers.
    """
    if is_streaming(metric):
        for part in parts_of(metric):
            if hasattr(part, "sync_on_compute"):  # torchmetrics: each process has all that there is, or nothing
                part.sync_on_compute = False
        value = metric.compute()
    else:
        value = metric(outputs, labels, params) if takes_params(metric) else metric(outputs, labels)
    values = value if isinstance(value, dict) else {name: value}
    return {str(key): as_number(name, number) for key, number in values.items()}


def as_number(name, value):
    """The value of a metric as a float.

    Raises:
        UserError: it is not one number.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"metrics[{name!r}] should give one number for the split, not {describe(value)}") from None


def probabilities_of(scores):
    """The probabilities that scores of classes, a float tensor (N, C), stand for: their softmax, or they themselves.

    The latter where they are probabilities already: none negative, and their sum 1.
    """
    are_some = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-3)
    return scores if are_some else scores.softmax(1)


def metric_state(metric):
    """The state of a streaming metric: its attributes, or what its state_dict gives; of an nn.Module, both."""
    if isinstance(metric, torch.nn.Module):
        torchmetrics = [module for module in parts_of(metric) if hasattr(module, "persistent")]
        for module in torchmetrics:
            module.persistent(True)  # its state is to be part of the state_dict
        held = {} if torchmetrics else {k: v for k, v in vars(metric).items() if not k.startswith("_")}
        return {"state_dict": dict(metric.state_dict()), "attributes": held}
    if hasattr(metric, "state_dict"):
        return {"state_dict": metric.state_dict()}
    return {"attributes": dict(vars(metric))}


def parts_of(metric) -> list[Any]:
    """The modules that a metric is made of, if it is one."""
    return list(metric.modules()) if isinstance(metric, torch.nn.Module) else []


def load_metric_state(metric, state):
    """Give a streaming metric the state that `metric_state` gave."""
    if "state_dict" in state:
        metric.load_state_dict(state["state_dict"])
    vars(metric).update(state.get("attributes", {}))
