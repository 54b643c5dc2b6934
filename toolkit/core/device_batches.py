"""Batches moved to the device of the model, one ahead of the one that is being used."""

import functools

import torch

from toolkit.core.resumable_batches import ZeroWeightBatch
from toolkit.core.trees import batch_size, describe, tensors, tree_map
from utils import UserError


class DeviceBatches:
    """An iterator over (inputs, labels, num_samples) on a device. The next batch is copied while one is in use.

    Args:
        batches: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: nn.Module; its parameters say which device it is.

    Raises:
        UserError: a batch is not a pair. This, and any error of the loader, is raised when the batches before are used.
    """

    def __init__(self, batches, model):
        self.batches = iter(batches)
        self.mover = DeviceMover(next((p.device for p in model.parameters()), torch.device("cpu")))
        self.error = None
        self.following = self._load()

    @property
    def is_exhausted(self):
        """True when no batch is left."""
        if self.error is not None:
            raise self.error
        return self.following is None

    def __iter__(self):
        return self

    def __next__(self):
        if self.is_exhausted:
            raise StopIteration
        current, self.following = self.following, None
        try:
            self.following = self._load()
        except Exception as error:
            self.error = error  # `current` is not lost
        return current

    def _load(self):
        batch = next(self.batches, None)
        if batch is None:
            self.mover.wait()
            return None
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader is {describe(batch)}; it should be a pair (inputs, labels), or net.py "
                f"should have a function unpack_batch(batch) that returns such a pair"
            )
        inputs, labels = self.mover(tuple(batch))
        return inputs, labels, 0 if isinstance(batch, ZeroWeightBatch) else count_samples(inputs, labels)


def batches_on_device(batches, model):
    """Yield the pairs (inputs, labels) of `batches` on the device of `model`; see DeviceBatches."""
    for inputs, labels, _ in DeviceBatches(batches, model):
        yield inputs, labels


class DeviceMover:
    """Moves batches to a device; on CUDA in a stream of its own, so that a copy overlaps with the step before it.

    Args:
        device: torch.device.
    """

    def __init__(self, device):
        self.device, self.stream, self.has_streams = device, None, device.type == "cuda"

    def __call__(self, batch):
        """Return the batch on the device. It is ready once `wait` was called, or the next batch is moved."""
        if not self.has_streams:
            # on MPS a non-blocking copy reads memory that may be in use again: pytorch/pytorch issue 189690
            return tree_map(lambda tensor: tensor.to(self.device), batch)
        self.wait()  # before the next copy starts, for which the step of the previous batch need not wait
        if all(tensor.device == self.device for tensor in tensors(batch)):
            return batch
        self.stream = copy_stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which may still read that memory
        with torch.cuda.stream(self.stream):
            return tree_map(lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def wait(self):
        """Let everything that the GPU is given from now on wait for the copies; the CPU does not wait."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


@functools.cache  # one for all epochs: a stream keeps the memory that was used in it
def copy_stream(device):
    """Return the CUDA stream in which batches are copied to a GPU."""
    return torch.cuda.Stream(device)


def count_samples(inputs, labels):
    """Return the number of samples that the loss of a batch is the mean over, an int or a scalar tensor.

    This is the first dimension of the first tensor of the labels (of the inputs if there are none). If that tensor is a
    table of integers, such as a tag for each word of each sentence, it is the number of its entries that are neither
    -1 (padding in CS230's code) nor -100 (torch's `ignore_index`).
    """
    first = next(iter(tensors(labels) or tensors(inputs)), None)
    if first is None or first.ndim < 2 or first.dtype != torch.int64:
        return batch_size(first)
    return ((first != -1) & (first != -100)).sum()
