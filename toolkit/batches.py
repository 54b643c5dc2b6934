"""The batches of an epoch, on the device of the model."""

import functools

import torch

from toolkit.order import order_of
from toolkit.stop import check_for_stop
from toolkit.trees import batch_size, describe, tensors, tree_cat, tree_map
from utils import UserError


def batches_on_device(dataloader, model, run=None, tally=None, seed=None):
    """Yield the (inputs, labels) of `dataloader`, moved to the device of `model`.

    In training, a last batch of one sample is joined to the batch before it (where their shapes allow it): batch
    normalisation has no variance of a single sample, and dropping it would leave that sample out.

    Args:
        dataloader: iterable of pairs (inputs, labels), each a tensor or nested tuples, lists and dicts of tensors.
        model: an nn.Module.
        run: the Run that this is an epoch of: it says where in the epoch to begin, and saves on the way.
        tally: what sums up the epoch, for `run` to save and restore.
        seed: without `run`: what is drawn at random while loading is a function of this and the number of the batch.

    Raises:
        UserError: a batch is not a pair.
    """
    move = Mover(next((p.device for p in model.parameters()), torch.device("cpu")))
    held, counts = [], []  # the latest batch, handed out once the next one has shown that it is not a lone last sample
    if run is not None:
        batches = run.batches(dataloader, tally)
    else:
        batches = dataloader if seed is None else order_of(dataloader, seed).batches(epoch=0)
    for batch in batches:
        check_for_stop()
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader should be a pair (inputs, labels), not {describe(batch)}; "
                f"batches of another form need a function unpack_batch(batch) -> (inputs, labels) in net.py"
            )
        held.append(move(tuple(batch)))
        counts.append(1)
        if len(held) == 2 and model.training and batch_size(held[1]) == 1 < batch_size(held[0]):
            move.wait()
            held, counts = join(held, counts)
        if len(held) == 2:
            yield from one_step(held.pop(0), counts.pop(0), run)
    move.wait()
    for batch, count in zip(held, counts, strict=True):
        yield from one_step(batch, count, run)
    if run is not None:
        run.end_steps()


class Mover:
    """Moves batches to a device; to a CUDA GPU in a stream of its own: the next one is copied while a step computes.

    Args:
        device: the torch.device.
    """

    def __init__(self, device):
        self.device, self.stream, self.has_streams = device, None, device.type == "cuda"
        # on MPS a copy that does not wait reads memory that may be in use again: pytorch/pytorch issue 189690
        self.to_device = lambda tensor: tensor.to(device, non_blocking=self.has_streams)

    def __call__(self, batch):
        """The batch on the device; it is there once `wait` was called, or the next batch is moved."""
        if not self.has_streams:
            return tree_map(self.to_device, batch)
        self.wait()  # before the next copy begins, which the step of the batch before is not to wait for
        if all(tensor.device == self.device for tensor in tensors(batch)):
            return batch
        self.stream = copy_stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # it may still read what is overwritten now
        with torch.cuda.stream(self.stream):
            return tree_map(self.to_device, batch)

    def wait(self):
        """Let what the GPU is given to compute from now on wait for the batches that were moved; the CPU goes on."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


@functools.cache  # one for all epochs: a stream keeps the memory that was used in it
def copy_stream(device):
    """The stream in which batches are copied to a GPU."""
    return torch.cuda.Stream(device)


def one_step(batch, count, run):
    """Yield a batch for a step, made of `count` batches of the loader, and tell `run` when it begins and ends."""
    if run is not None:
        run.begin_step()
    yield batch
    if run is not None:
        run.end_step(count)


def join(batches, counts):
    """Lists of one batch made of `batches` and of the sum of `counts`, or both as they are where shapes do not fit."""
    try:
        return [tree_cat(batches)], [sum(counts)]
    except RuntimeError:
        return batches, counts
