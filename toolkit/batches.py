"""The batches of an epoch, on the device of the model."""

import torch

from toolkit import parallel
from toolkit.order import Company, joined, order_of
from toolkit.stop import check_for_stop
from toolkit.trees import describe, tree_map
from utils import UserError


def batches_on_device(dataloader, model, steps=None, tally=None, seed=None):
    """Yield the (inputs, labels) of `dataloader`, moved to the device of `model`; of several processes, its part.

    Args:
        dataloader: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: an nn.Module.
        steps: the Steps that are done with them, which are told when a batch begins and ends; their run, if there is
            one, says where in the epoch to begin.
        tally: what sums up the epoch.
        seed: without a run: what is drawn at random while loading is a function of this and the number of the batch.

    Raises:
        UserError: a batch is not a pair.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    run, held = steps.run if steps is not None else None, None  # held: the latest one, until the next has been loaded
    if run is not None:
        batches = run.batches(dataloader, tally)
    elif seed is not None:
        batches = order_of(dataloader, seed).batches(epoch=0)
    else:
        batches = joined(dataloader) if model.training else dataloader
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader should be a pair (inputs, labels), not {describe(batch)}; "
                f"batches of another form need a function unpack_batch(batch) -> (inputs, labels) in net.py"
            )
        moved = tree_map(lambda tensor: tensor.to(device, non_blocking=True), tuple(batch))
        if held is not None:
            yield from one_step(*held, False, steps, tally)
        held = moved, not isinstance(batch, Company)
    if held is not None:
        yield from one_step(*held, True, steps, tally)
    if run is not None:
        run.end_steps()
    elif not model.training:
        parallel.after_forward(model)


def one_step(batch, counts, is_last, steps, tally):
    """Yield a batch, and tell `steps` and `tally` what it is, when it begins and ends; see `Steps.begin`."""
    if steps is None or steps.run is None:
        check_for_stop()
    if tally is not None:
        tally.counts = counts
    if steps is not None:
        steps.begin(*batch, is_last, counts)
    yield batch
    if steps is not None:
        steps.end()
