"""Batches moved to the device of the model, one ahead of the one that is being used."""

import functools
import itertools
from collections.abc import Mapping

import torch

from toolkit.core.forward_pass import device_of
from toolkit.core.sized_batches import SizedBatch, size_of
from toolkit.core.trees import describe, is_pair, map_parts, tensors
from utils import UserError


def device_batches(batches, model, expected_size=None):
    """Yield (inputs, labels, num_samples, is_last) for each batch. The next batch is copied while one is in use.

    Args:
        batches: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: nn.Module; its parameters say which device the tensors are moved to.
        expected_size: function from the number of a batch to the number of samples that the loader puts into it, or
            None if that is not known; by default that of `batches`, if they are a `Batches`. See `number_of_samples`.

    Raises:
        UserError: a batch is not a pair, or its number of samples is not clear. This, and any error of the loader, is
            raised when the batches before are used.
    """
    expected_size = expected_size or getattr(batches, "expected_size", lambda number: None)
    device = device_of(model)
    mover = None if device.type == "cpu" else DeviceMover(device)
    batches, held, error = iter(batches), None, None  # `held`: the latest batch, while the next one is loaded
    for number in itertools.count():
        try:
            batch = next(batches, None)
        except Exception as caught:  # raised below, after the batch before has been used
            batch, error = None, caught
        moved = mover(batch) if mover else batch
        if held is not None:  # now this batch is being copied
            yield *held, batch is None and error is None
        if error is not None:
            raise error
        if batch is None:
            return
        if not is_pair(batch):
            raise UserError(
                f"a batch of the data loader is {describe(batch)}; it should be a pair (inputs, labels), or net.py "
                f"should have a function unpack_batch(batch) that returns such a pair"
            )
        held = *moved, size_of(batch, expected_size(number))


def batches_on_device(batches, model):
    """Yield the pairs (inputs, labels) of `batches` on the device of `model`."""
    sized = (SizedBatch(batch) if is_pair(batch) else batch for batch in batches)  # without looking for their sizes
    for inputs, labels, *_ in device_batches(sized, model):
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
            return to_device(batch, self.device)
        if self.stream is not None:  # the GPU waits for the copy before this one; the CPU does not
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        devices = {tensor.device for tensor in tensors(batch)}
        if devices == {self.device}:
            return batch
        self.stream = copy_stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which may still read that memory
        with torch.cuda.stream(self.stream):
            return to_device(batch, self.device, non_blocking=True)


def to_device(tree, device, **options):
    """Return a part of a batch on a device; other objects than tensors are moved by their method `to`, if any."""
    if isinstance(tree, Mapping | tuple | list):
        return map_parts(lambda part: to_device(part, device, **options), tree)
    return tree.to(device, **options) if hasattr(tree, "to") and not isinstance(tree, type) else tree


@functools.cache  # one for all epochs: a stream keeps the memory that was used in it
def copy_stream(device):
    """Return the CUDA stream in which batches are copied to a GPU."""
    return torch.cuda.Stream(device)
