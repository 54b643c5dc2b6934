"""A batch of each split, tried before an epoch is spent."""

import copy

import torch

from toolkit.core import processes
from toolkit.core.device_batches import batches_on_device
from toolkit.core.metrics import is_streaming, results_of
from toolkit.core.monitor import monitored
from toolkit.core.precision import autocast
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.totals import Totals, to_numpy
from toolkit.core.trees import tree_map
from utils import UserError


def smoke_test(model, loss_fn, dataloaders, metrics, params):
    """Put one batch of each split through model, loss and metrics, to find what does not fit before an epoch is spent.

    The model is in evaluation mode; neither it nor a loss with a state is changed.

    Returns:
        The names of the results that an evaluation will have, a list.

    Raises:
        UserError: a batch is not a pair, the loss cannot be minimised, a metric gives no number, or `params.monitor`
            names no result.
    """
    model.eval()
    module = getattr(loss_fn, "module", None)
    state = copy.deepcopy(module.state_dict()) if module is not None else None
    for split, dataloader in dataloaders.items():
        batches = resumable_batches(dataloader, params.seed).batches(epoch=0)
        ((inputs, labels),) = batches_on_device([next(batches)], model)
        with autocast(params, model):
            outputs = model(inputs)
            loss = loss_fn(outputs, labels)
        if processes.world_size() > 1 and split == "train" and params.parallel == "ddp":
            params.add_facts({"has_unused_parameters": processes.has_unused_parameters(model, loss)})
        tally = Totals(split, {}, [None], params)
        tally.update(outputs, labels, loss)
        outputs, labels = (tree_map(torch.Tensor.detach, tree) for tree in (outputs, labels))
        arrays = tree_map(to_numpy, outputs), tree_map(to_numpy, labels)
        names = tally.compute()
        for name, metric in metrics.items():
            try:
                if is_streaming(metric):
                    metric.reset()
                    metric.update(outputs, labels)
                names |= results_of(name, metric, *arrays, params)
            except UserError:
                raise
            except Exception:  # one batch may be too little for it: of one class alone, say
                names |= {name: None, params.monitor or name: None}  # which may be one of those that it gives
    processes.reshard(model)
    if module is not None:
        module.load_state_dict(state)
    monitored(params, names)
    return list(names)
