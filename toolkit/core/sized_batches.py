"""The number of samples in a batch, the shards of a batch, and a last batch of one sample."""

import contextlib
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from toolkit.core import processes
from toolkit.core.trees import PerSample, describe, is_pair, map_parts, parts_of, tree_cat
from utils import UserError


class SizedBatch(tuple):
    """A batch (inputs, labels) whose number of samples is known, so that it is not derived from its tensors.

    It is 0 for a batch that has fewer samples than there are processes, so that this one has none of them: the batch
    then holds one sample of another process, because all processes must take part in a step.
    """

    def __new__(cls, batch, num_samples=None):
        self = super().__new__(cls, batch)
        self.num_samples = num_samples
        return self


def size_of(batch, expected=None):
    """Return the number of samples in a batch (inputs, labels)."""
    return batch.num_samples if isinstance(batch, SizedBatch) else number_of_samples(*batch, expected)


def shard_of_batch(batch, expected):
    """Return this process's shard of a batch (inputs, labels); `expected` as for `number_of_samples`."""
    if not is_pair(batch):
        return batch  # refused later, with a message
    size = size_of(batch, expected)
    first, end = processes.shard_of(size)
    chosen = slice(first, end) if first < end else slice(0, 1)
    return SizedBatch((take(part, chosen, size) for part in mark_batch(batch, size)), end - first)


def join_last_sample(batches, expected=None):
    """Yield `batches`; a last batch of one sample is joined to the one before it if the shapes allow it."""
    held = []  # the latest batch, or the latest two while the second one may be joined to the first
    try:
        for batch in batches:
            are_pairs = all(map(is_pair, [*held, batch]))
            if not (len(held) == 1 and are_pairs and size_of(batch, expected) == 1 < size_of(held[0], expected)):
                yield from held
                held = []
            held.append(batch)
    except Exception:
        yield from held  # batches that were loaded before the error are not lost
        raise
    if len(held) == 2:
        with contextlib.suppress(RuntimeError):
            sizes = [size_of(batch, expected) for batch in held]
            held = [SizedBatch(tree_cat(list(map(mark_batch, held, sizes))), sum(sizes))]
    yield from held


def number_of_samples(inputs, labels, expected=None):
    """Return the number of samples in a batch: the length of the labels, if they are a tensor or a dict of such ones.

    Otherwise it is the one number that fits both inputs and labels, see `possible_sizes`. If there are several or none,
    it is `expected`, the number of samples that the loader puts into this batch.

    Raises:
        UserError: that is not known either.
    """
    is_tensor = isinstance(labels, torch.Tensor | np.ndarray)
    of_labels, of_inputs = possible_sizes(labels), possible_sizes(inputs)
    if len(of_labels) == 1 and (is_tensor or isinstance(labels, Mapping)):
        return of_labels.pop()
    both = of_labels & of_inputs
    if len(both) == 1:
        return both.pop()
    if expected is not None:
        return expected
    sizes = both or of_labels | of_inputs | ({1} if is_tensor else set())  # a scalar may be the label of one sample
    if len(sizes) == 1:
        return sizes.pop()
    could_be = f"it could be {' or '.join(map(str, sorted(sizes)))}" if sizes else "no tensor shows it"
    raise UserError(
        f"the number of samples in a batch is not clear, {could_be}: the inputs are {describe(inputs)}, the labels "
        f"{describe(labels)}; add a function unpack_batch(batch) to net.py that returns (inputs, labels, number)"
    )


def possible_sizes(tree):
    """Return the set of the numbers of samples that a part of a batch may hold; empty if it does not say.

    A tensor or array has one sample per row. The entries of a mapping or namedtuple hold all samples each. A list or
    tuple either has an item for each sample, or all its items hold all samples.
    """
    if isinstance(tree, torch.Tensor | np.ndarray):
        return {len(tree)} if tree.ndim else set()
    if isinstance(tree, PackedSequence):
        return {int(tree.batch_sizes[0])}
    is_object = not isinstance(tree, Mapping | tuple | list)  # a batch of torch_geometric, perhaps
    if is_object and isinstance(getattr(tree, "num_graphs", None), int):
        return {tree.num_graphs}
    found = [sizes for sizes in map(possible_sizes, parts_of(tree)) if sizes]
    common = set.intersection(*found) if found else set()
    if isinstance(tree, tuple | list) and not hasattr(tree, "_fields"):
        return common | {len(tree)}
    return common or set().union(*found)  # some entries may be of the whole batch, such as a weight per class


def mark_batch(parts, size):
    """Return `parts`, such as (inputs, labels) of a batch of `size` samples, as `mark_samples` does, as a list.

    If one of them is a list of one item per sample, so are the others with as many items.
    """
    parts = [mark_samples(part, size) for part in parts]
    if not any(isinstance(part, PerSample) for part in parts):
        return parts
    return [PerSample(part) if type(part) in (tuple, list) and len(part) == size else part for part in parts]


def mark_samples(tree, size):
    """Return `tree`, of a batch of `size` samples, with each list or tuple of one item per sample as a PerSample."""
    if isinstance(tree, tuple | list) and len(tree) == size and not hasattr(tree, "_fields"):
        hold_all = [size in sizes for sizes in map(possible_sizes, tree) if sizes]  # items that may hold all samples
        is_mixed = any(hold_all) and not all(hold_all)  # an item of one sample can have that length by chance
        if not any(hold_all) or (is_mixed and type(tree) is list):
            return PerSample(tree)
    return map_parts(lambda part: mark_samples(part, size), tree)


def take(tree, chosen, size):
    """Return the samples in the slice `chosen` of a part of a batch of `size` samples."""
    if isinstance(tree, torch.Tensor | np.ndarray):
        return tree[chosen] if tree.ndim and len(tree) == size else tree
    return PerSample(tree[chosen]) if isinstance(tree, PerSample) else map_parts(lambda p: take(p, chosen, size), tree)
