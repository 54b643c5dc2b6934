"""Metrics: functions of all outputs and labels of a split, or objects that are updated batch by batch."""

import inspect

import torch

from toolkit.core.trees import describe
from utils import UserError


def is_streaming(metric):
    """Return True if a metric follows torchmetrics' protocol: update, compute and reset."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def takes_params(fn):
    """Return True if a loss or metric has a third positional argument called `params`, or without a default."""
    try:
        arguments = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and (positional[2].name == "params" or positional[2].default is inspect.Parameter.empty)


def compute_metric(name, metric, outputs, labels, params):
    """Return the results of one metric for a split, a dict from name to float.

    Raises:
        UserError: the metric returns neither a number nor a dict of numbers.
    """
    if is_streaming(metric):
        for part in modules_of(metric):
            if hasattr(part, "sync_on_compute"):  # torchmetrics: rank 0 has all the data already
                part.sync_on_compute = False
        value = metric.compute()
    else:
        value = metric(outputs, labels, params) if takes_params(metric) else metric(outputs, labels)
    values = value if isinstance(value, dict) else {name: value}
    results = {}
    for key, number in values.items():
        try:
            results[str(key)] = float(number)
        except (TypeError, ValueError):
            found = describe(number)
            raise UserError(f"metrics[{name!r}] should return one number for the split, not {found}") from None
    return results


def probabilities_of(scores):
    """Return the class probabilities of scores, a float tensor (N, C): their softmax.

    Scores that are probabilities already (none negative, with sum 1) are returned as they are.
    """
    are_probabilities = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-3)
    return scores if are_probabilities else scores.softmax(1)


def metric_state(metric):
    """Return the state of a streaming metric, a dict: its state_dict if it has one, else its attributes.

    An nn.Module that is not of torchmetrics gives both.
    """
    if isinstance(metric, torch.nn.Module):
        torchmetrics = [module for module in modules_of(metric) if hasattr(module, "persistent")]
        for module in torchmetrics:
            module.persistent(True)  # makes its state part of the state_dict
        attributes = {} if torchmetrics else {k: v for k, v in vars(metric).items() if not k.startswith("_")}
        return {"state_dict": dict(metric.state_dict()), "attributes": attributes}
    if hasattr(metric, "state_dict"):
        return {"state_dict": metric.state_dict()}
    return {"attributes": dict(vars(metric))}


def modules_of(metric):
    """Return the modules that a metric consists of, a list; empty if it is not an nn.Module."""
    return list(metric.modules()) if isinstance(metric, torch.nn.Module) else []


def load_metric_state(metric, state):
    """Load into a streaming metric what `metric_state` returned."""
    if "state_dict" in state:
        metric.load_state_dict(state["state_dict"])
    vars(metric).update(state.get("attributes", {}))
