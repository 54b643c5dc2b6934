"""A batch of each split, tried before an epoch is spent."""

import copy

import torch

from toolkit import parallel
from toolkit.loop.batches import batches_on_device
from toolkit.loop.metrics import is_streaming, results_of
from toolkit.loop.monitor import monitored
from toolkit.loop.order import order_of
from toolkit.loop.precision import precision_of
from toolkit.loop.tally import Tally, to_numpy
from toolkit.trees import tree_map
from utils import UserError


def try_one_batch(model, loss_fn, dataloaders, metrics, params):
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
        batches = order_of(dataloader, params.seed).batches(epoch=0)
        ((inputs, labels),) = batches_on_device([next(batches)], model)
        with precision_of(params, model):
            outputs = model(inputs)
            loss = loss_fn(outputs, labels)
        if parallel.count() > 1 and split == "train" and params.parallel == "ddp":
            params.add_facts({"has_unused_parameters": parallel.leaves_out(model, loss)})
        tally = Tally(split, {}, [None], params)
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
    parallel.after_forward(model)
    if module is not None:
        module.load_state_dict(state)
    monitored(params, names)
    return list(names)
