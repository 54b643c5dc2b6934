"""The batches of an epoch, on the device of the model."""

import torch

from toolkit.trees import batch_size, describe, tree_cat, tree_map
from utils import UserError


def batches_on_device(dataloader, model):
    """Yield the (inputs, labels) of `dataloader`, moved to the device of `model`.

    In training, a last batch of one sample is joined to the batch before it (where their shapes allow it): batch
    normalisation has no variance of a single sample, and dropping it would leave that sample out.

    Args:
        dataloader: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: an nn.Module.

    Raises:
        UserError: a batch is not a pair.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    held = []  # the latest batch, handed out once the next one has shown that it is not a lone last sample
    for batch in dataloader:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader should be a pair (inputs, labels), not {describe(batch)}; "
                f"batches of another form need a function unpack_batch(batch) -> (inputs, labels) in net.py"
            )
        held.append(tree_map(lambda tensor: tensor.to(device, non_blocking=True), tuple(batch)))
        if len(held) == 2 and model.training and batch_size(held[1]) == 1 < batch_size(held[0]):
            held = join(held)
        if len(held) == 2:
            yield held.pop(0)
    yield from held


def join(batches):
    """A list of one batch made of `batches`, or `batches` as they are where their shapes do not fit."""
    try:
        return [tree_cat(batches)]
    except RuntimeError:
        return batches
