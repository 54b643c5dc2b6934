"""Batches moved to the device of the model, one ahead of the one that is being used."""

import functools

import torch

from toolkit.core.forward_pass import device_of
from toolkit.core.resumable_batches import ZeroWeightBatch
from toolkit.core.trees import describe, tensors, tree_map
from utils import UserError


def device_batches(batches, model):
    """Yield (inputs, labels, num_samples, is_last) for each batch. The next batch is copied while one is in use.

    Args:
        batches: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: nn.Module; its parameters say which device the tensors are moved to.

    `num_samples` is the number of samples that the loss of the batch is the mean over, an int or a scalar tensor: the
    length of the first tensor of the labels (of the inputs if there are none). If that tensor is a table of integers,
    such as a tag for each word of each sentence, it is the number of its entries that are neither -1 (padding in
    CS230's code) nor -100 (torch's `ignore_index`).

    Raises:
        UserError: a batch is not a pair. This, and any error of the loader, is raised when the batches before are used.
    """
    device = device_of(model)
    mover = None if device.type == "cpu" else DeviceMover(device)
    batches, held, error = iter(batches), None, None
    while True:
        try:
            batch = next(batches, None)
        except Exception as caught:  # raised below, when the batch before has been used
            batch, error = None, caught
        moved = mover(batch) if mover else batch
        if held is not None:  # the batch before, now that this one is being copied
            yield *held, batch is None and error is None
        if error is not None:
            raise error
        if batch is None:
            return
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader is {describe(batch)}; it should be a pair (inputs, labels), or net.py "
                f"should have a function unpack_batch(batch) that returns such a pair"
            )
        inputs, labels = moved
        first = labels if isinstance(labels, torch.Tensor) else next(iter(tensors(labels) or tensors(inputs)), None)
        num_samples = len(first) if first is not None and first.ndim else 1
        if first is not None and first.ndim > 1 and first.dtype == torch.int64:
            num_samples = ((first != -1) & (first != -100)).sum()
        held = inputs, labels, 0 if isinstance(batch, ZeroWeightBatch) else num_samples


def batches_on_device(batches, model):
    """Yield the pairs (inputs, labels) of `batches` on the device of `model`; see `device_batches`."""
    for inputs, labels, *_ in device_batches(batches, model):
        yield inputs, labels


class DeviceMover:
    """Moves batches to a GPU; on CUDA in a stream of its own, so that a copy overlaps with the step before it."""

    def __init__(self, device):
        self.device = device
        self.stream = None  # the stream that the previous batch was copied in

    def __call__(self, batch):
        """Return the batch on the device. It is ready when this is called for the next batch, or for None."""
        if self.device.type != "cuda":
            # on MPS a non-blocking copy reads memory that may be in use again: pytorch/pytorch issue 189690
            return tree_map(lambda tensor: tensor.to(self.device), batch)
        if self.stream is not None:  # the GPU waits for the copy before this one; the CPU does not
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        if all(tensor.device == self.device for tensor in tensors(batch)):
            return batch
        self.stream = copy_stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which may still read that memory
        with torch.cuda.stream(self.stream):
            return tree_map(lambda tensor: tensor.to(self.device, non_blocking=True), batch)


@functools.cache  # one for all epochs: a stream keeps the memory that was used in it
def copy_stream(device):
    """Return the CUDA stream in which batches are copied to a GPU."""
    return torch.cuda.Stream(device)
