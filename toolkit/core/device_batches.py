"""The batches of an epoch, on the device of the model."""

import functools

import torch

from toolkit.core import processes
from toolkit.core.resumable_batches import ZeroWeightBatch, joined, resumable_batches
from toolkit.core.stop_signals import check_for_stop
from toolkit.core.trees import describe, tensors, tree_map
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
    move = DeviceMover(next((p.device for p in model.parameters()), torch.device("cpu")))
    run, held = steps.run if steps is not None else None, None  # held: the latest one, until the next has been loaded
    if run is not None:
        batches = run.batches(dataloader, tally)
    elif seed is not None:
        batches = resumable_batches(dataloader, seed).batches(epoch=0)
    else:
        batches = joined(dataloader) if model.training else dataloader
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise UserError(
                f"a batch of the data loader should be a pair (inputs, labels), not {describe(batch)}; "
                f"batches of another form need a function unpack_batch(batch) -> (inputs, labels) in net.py"
            )
        moved = move(tuple(batch))
        if held is not None:
            yield from one_step(*held, False, steps, tally)
        held = moved, not isinstance(batch, ZeroWeightBatch)
    move.wait()
    if held is not None:
        yield from one_step(*held, True, steps, tally)
    if run is not None:
        run.end_steps()
    elif not model.training:
        processes.reshard(model)


class DeviceMover:
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
