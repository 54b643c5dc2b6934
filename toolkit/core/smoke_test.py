"""One batch of each split, tried before anything is written, to find what does not fit together."""

import copy
import itertools

import torch

from toolkit.core import processes
from toolkit.core.device_batches import device_batches
from toolkit.core.forward_pass import autocast, forward_pass
from toolkit.core.metrics import compute_metric, is_streaming
from toolkit.core.monitor import monitored
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.totals import Totals, to_numpy
from toolkit.core.trees import tree_map
from utils import UserError


def smoke_test(model, loss_fn, dataloaders, metrics, params):
    """Put one batch of each split through model, loss and metrics.

    The model is in evaluation mode. Neither the model nor a loss with a state is changed.

    Returns:
        The names of the results that an evaluation will have, a list.

    Raises:
        UserError: a batch is not a pair, the loss cannot be minimised, a metric returns no number, or `params.monitor`
            is not the name of a result.
    """
    model.eval()
    module = getattr(loss_fn, "module", None)
    state = copy.deepcopy(module.state_dict()) if module is not None else None
    for split, dataloader in dataloaders.items():
        batches = resumable_batches(dataloader, params.seed).batches(epoch=0)
        inputs, labels, num_samples, _ = next(
            device_batches(itertools.islice(batches, 1), model, batches.expected_size)
        )
        outputs, loss = forward_pass(model, loss_fn, inputs, labels, autocast(params, model))
        if processes.world_size() > 1 and split == "train" and params.parallel == "ddp":
            params.add_facts({"has_unused_parameters": processes.has_unused_parameters(model, loss)})
        totals = Totals(split, {}, 1, params)
        totals.update(outputs, labels, loss, num_samples)
        names = list(totals.compute())
        outputs, labels = (tree_map(torch.Tensor.detach, tree) for tree in (outputs, labels))
        for name, metric in metrics.items():
            names += try_metric(name, metric, outputs, labels, params)
    processes.reshard(model)
    if module is not None:
        module.load_state_dict(state)
    monitored(params, names)
    return list(dict.fromkeys(names))


def try_metric(name, metric, outputs, labels, params):
    """Return the names of the results of a metric, a list, by computing it for one batch."""
    try:
        if is_streaming(metric):
            metric.reset()
            metric.update(outputs, labels)
        return list(compute_metric(name, metric, tree_map(to_numpy, outputs), tree_map(to_numpy, labels), params))
    except UserError:
        raise
    except Exception:  # one batch may be too little for it, if it has one class only, for example
        return [name, params.monitor or name]  # the monitored result may be one of those that it returns
