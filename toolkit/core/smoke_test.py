"""One batch of each split, tried before anything is written, to find what does not fit together."""

import copy
import logging
import math
import re
import warnings

import numpy as np
import torch
from torch.nn import functional

from toolkit.core import processes
from toolkit.core.device_batches import device_batches
from toolkit.core.explanations import describe_all, first_line
from toolkit.core.forward_pass import autocast, forward_pass
from toolkit.core.learning_rate_schedule import refuse_long_warmup
from toolkit.core.metrics import compute_metric, is_streaming
from toolkit.core.monitor import monitored
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.sized_batches import mark_batch
from toolkit.core.totals import Totals, to_numpy
from toolkit.core.trees import tensors, tree_cat, tree_map
from toolkit.core.user_code import place_of, place_of_definition
from utils import UserError

MOST_BATCHES = 30  # that a metric is tried on, if it fails for fewer
OF_FEW_SAMPLES = (ValueError, ArithmeticError, LookupError)  # errors of a metric that more samples may cure


class IsNaN(ArithmeticError):
    """The result of a metric is NaN."""


def smoke_test(model, loss_fn, dataloaders, metrics, params, warn=logging.warning):
    """Put one batch of each split through model, loss and metrics; warn of a doubtful loss or metric.

    The model is in evaluation mode. Neither the model nor a loss with a state is changed. `warn` is called if the loss
    is doubtful.

    Returns:
        The names of the results that an evaluation will have, a list.

    Raises:
        UserError: a batch is not a pair, shapes, types or labels do not fit together, the loss cannot be minimised, a
            metric fails or returns no number, `params.monitor` is not the name of a result, or the warm-up is longer
            than the run.
    """
    model.eval()
    module = getattr(loss_fn, "module", None)
    state = copy.deepcopy(module.state_dict()) if module is not None else None
    for split, dataloader in dataloaders.items():
        batches = tried_batches(model, loss_fn, dataloader, params)
        if (first := next(batches, None)) is None:
            raise UserError(f"the data loader of {split} gave no batch")
        outputs, labels, loss, num_samples = first
        if processes.world_size() > 1 and split == "train" and params.parallel == "ddp":
            params.add_facts({"has_unused_parameters": processes.has_unused_parameters(model, loss)})
        totals = Totals(split, {}, 1, params)
        totals.update(outputs, labels, loss, num_samples)
        names = list(totals.compute())
        tried = [mark_batch(tree_map(torch.Tensor.detach, (outputs, labels)), num_samples)]
        if split == next(iter(dataloaders)):
            check_loss(loss_fn, *tried[0], num_samples, warn)
        for name, metric in metrics.items():
            names += try_metric(name, metric, split, tried, batches, params)
    processes.reshard(model)
    if module is not None:
        module.load_state_dict(state)
    monitored(params, names)
    if "train" in dataloaders:
        refuse_long_warmup(params, len(dataloaders["train"]))
    return list(dict.fromkeys(names))


def tried_batches(model, loss_fn, dataloader, params):
    """Yield (outputs, labels, loss, num_samples) for each batch of a split."""
    batches = resumable_batches(dataloader, params.seed).batches(epoch=0)
    for number, batch in enumerate(batches):  # one at a time: device_batches takes the next one before it yields one
        size = batches.expected_size(number)
        inputs, labels, num_samples, _ = next(device_batches([batch], model, lambda _, size=size: size))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using a target size")  # check_loss refuses it
            outputs, loss = forward_pass(model, loss_fn, inputs, labels, autocast(params, model))
        yield outputs, labels, loss, num_samples


def check_loss(loss_fn, outputs, labels, num_samples, warn):
    """Find a loss that compares each output to all labels, is a sum over the batch, or applies softmax twice."""
    place = place_of_definition(getattr(loss_fn, "fn", loss_fn))
    if shapes := broadcast_shapes(loss_fn, outputs, labels):
        raise UserError(f"{place}: loss_fn compares each output to all labels: {shapes}")
    if is_sum_over_batch(loss_fn, outputs, labels, num_samples):
        warn("%s: the loss is a sum over the batch, which grows with batch_size; return its mean", place)
    if applies_softmax_twice(loss_fn, outputs, labels):
        warn("%s: loss_fn applies a softmax, but Net did so already; Net should return logits", place)


@torch.no_grad()
def is_sum_over_batch(loss_fn, outputs, labels, num_samples):
    """Return True if the loss of a batch is the sum of the losses of its halves, and not their mean."""
    parts = tensors((outputs, labels))
    if not isinstance(num_samples, int) or num_samples < 2 or any(t.shape[:1] != (num_samples,) for t in parts):
        return False
    half = num_samples // 2
    try:
        first = loss_fn(*tree_map(lambda t: t[:half], (outputs, labels)))
        second = loss_fn(*tree_map(lambda t: t[half:], (outputs, labels)))
        whole, mean = loss_fn(outputs, labels), (half * first + (num_samples - half) * second) / num_samples
    except Exception:  # a loss for whole batches
        return False
    return bool(torch.isclose(whole, first + second, rtol=1e-3)) and not torch.isclose(whole, mean, rtol=0.1)


@torch.no_grad()
def applies_softmax_twice(loss_fn, outputs, labels):
    """Return True if outputs (N, C) are probabilities, and their loss is the cross entropy of logits."""
    try:  # on the CPU: on a GPU, labels that are no classes would end the process
        scores, classes = outputs.float().cpu(), labels.cpu()
        of_logits, sums = functional.cross_entropy(scores, classes), scores.sum(1)
    except Exception:  # another task
        return False
    are_probabilities = bool((scores >= 0).all()) and torch.allclose(sums, torch.ones(()), atol=1e-2)
    return are_probabilities and bool(torch.isclose(loss_fn(outputs, labels).float().cpu(), of_logits, rtol=1e-3))


def broadcast_shapes(fn, outputs, labels):
    """Return the shapes as text if `fn` of outputs (N, 1) and labels (N,) changes when both are (N,); else None.

    It also tries outputs (N,) and labels (N, 1).
    """
    shapes = [tuple(each.shape) if isinstance(each, torch.Tensor | np.ndarray) else () for each in (outputs, labels)]
    row, column = sorted(shapes, key=len)
    if len(row) != 1 or column != (*row, 1) or row[0] < 2:
        return None
    flat = [each.reshape(-1) for each in (outputs, labels)]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            alike = np.isclose(float(fn(outputs, labels)), float(fn(*flat)), rtol=1e-4, equal_nan=True)
    except Exception:  # a function for one of the two shapes alone
        return None
    found = f"labels are {shapes[1]} and outputs {shapes[0]}"
    return None if alike else f"{found}; remove the dimension of 1, as outputs.squeeze(-1) does"


def try_metric(name, metric, split, tried, batches, params):
    """Return the names of the results of a metric, a list, by computing it for one batch, or for more if that fails.

    Args:
        name, metric: as in `metrics` of net.py.
        split: "train", "val" or "test".
        tried: list of (outputs, labels) of the first batches; it is extended by those that are taken from `batches`.
        batches: iterator over the further batches of the split.
        params: hyperparameters.

    Raises:
        UserError: it returns no number, or it fails for another reason than too few samples.
    """
    results, error = compute_on(tried, name, metric, params)
    most = MOST_BATCHES if processes.world_size() == 1 else 1  # model(inputs) may wait for the other processes
    while isinstance(error, OF_FEW_SAMPLES) and len(tried) < most and (batch := next(batches, None)):
        tried.append(mark_batch(tree_map(torch.Tensor.detach, batch[:2]), batch[3]))
        results, error = compute_on(tried, name, metric, params, otherwise=error)
    place = place_of_definition(metric)
    if error is None:
        shapes = None if is_streaming(metric) else broadcast_shapes(metric, *tree_map(to_numpy, tried[0]))
        if shapes:
            raise UserError(f"{place}: metrics[{name!r}] compares each output to all labels: {shapes}")
        return list(results)
    is_wrong = not isinstance(error, OF_FEW_SAMPLES) or (most > 1 and next(batches, None) is None)
    if isinstance(error, IsNaN):  # perhaps only because one class is not predicted yet
        centered = [(tree_map(lambda t: t.float() - t.float().mean(0), outputs), labels) for outputs, labels in tried]
        is_wrong &= isinstance(compute_on(centered, name, metric, params)[1], IsNaN)
        message = f"{place}: metrics[{name!r}] is nan"
    else:
        message = f"{place_of(error) or place}: metrics[{name!r}] raised {type(error).__name__}: {first_line(error)}"
    if re.search(r"ndarray|'dim'|Tensor", str(error)) and not is_streaming(metric):
        message += "; metrics get numpy arrays: axis instead of dim, np.mean(a == b), ..."
    if is_wrong:
        raise UserError(f"{message} (outputs: {describe_all(tried[0][0])}; labels: {describe_all(tried[0][1])})")
    logging.warning("%s for the first %d batches of %s; training continues", message, len(tried), split)
    return [*results, name, params.monitor or name]  # the monitored result may be one of those that it returns


def compute_on(batches, name, metric, params, otherwise=None):
    """Return (results, error) of a metric for a list of (outputs, labels); the error is None, what it raised, or IsNaN.

    If the batches cannot be concatenated, the error is `otherwise`.
    """
    outputs, labels = map(list, zip(*batches, strict=True))
    arrays = [None, None]
    try:
        if not is_streaming(metric):
            arrays = [tree_map(to_numpy, tree_cat(trees)) for trees in (outputs, labels)]
    except RuntimeError:
        return {}, otherwise
    try:
        if is_streaming(metric):
            metric.reset()
            for batch in batches:
                metric.update(*batch)
        results = compute_metric(name, metric, *arrays, params)
        return results, IsNaN() if results and all(map(math.isnan, results.values())) else None
    except UserError:
        raise
    except Exception as error:
        return {}, error
