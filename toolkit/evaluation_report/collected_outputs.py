"""The samples of a split as an evaluation saw them: outputs, labels, names, and the inputs of some of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Subset

from toolkit.core.memory import available_memory
from toolkit.core.resumable_batches import has_sample_indices, resumable_batches
from toolkit.core.totals import is_flat, to_numpy
from toolkit.core.trees import tensors, tree_cat, tree_map

SHARE_OF_MEMORY = 0.25  # of what is free, that the outputs may take


class Collector:
    """Keeps the outputs and labels of a split: a metric that takes batch after batch and gives no result.

    Attributes:
        outputs, labels: the trees of tensors of all batches, in main memory, as metrics get them.
        lengths: int64 (samples,), how many rows of the outputs each sample has: a sentence may have one a token.
        why_not: why there are none, or "".
    """

    def __init__(self):
        self.reset()

    def reset(self):
        self.batches, self.rows, self.why_not = [], [], "there was no batch"
        self.outputs, self.labels, self.lengths = None, None, torch.empty(0, dtype=torch.int64)
        self.free = SHARE_OF_MEMORY * available_memory()

    def update(self, outputs, labels):
        batch = tree_map(lambda tensor: torch.from_numpy(to_numpy(tensor)), (outputs, labels))
        self.free -= sum(tensor.nbytes for tensor in tensors(batch))
        if self.free > 0:
            self.batches.append(batch)
            self.rows.append(rows_of_samples(*batch))
        else:
            self.batches.clear()

    def compute(self):
        if self.free <= 0:
            self.why_not = f"its outputs take more than {SHARE_OF_MEMORY:.0%} of the free memory"
        elif any(rows is None for rows in self.rows):
            self.why_not = "it cannot be told which rows of the outputs and labels belong to one sample"
        elif self.batches:
            outputs, labels = map(list, zip(*self.batches, strict=True))
            flat = [label.reshape(-1) for label in labels] if all(map(is_flat, outputs, labels)) else labels
            try:
                outputs, self.lengths = tree_cat(outputs), torch.cat(self.rows)
                self.labels = tree_cat(labels if same_shapes(labels) else flat)
                self.outputs, self.why_not = outputs, ""
            except RuntimeError:
                self.why_not = "the outputs or labels of its batches differ in shape"
        self.batches = []
        return {}

    def take(self, indices):
        """The outputs and labels of the samples at `indices`, int64 (n,), in that order."""
        count, lengths = len(self.lengths), self.lengths[indices]
        first = (self.lengths.cumsum(0) - self.lengths)[indices]
        rows = (first - lengths.cumsum(0) + lengths).repeat_interleave(lengths) + torch.arange(int(lengths.sum()))
        return tree_map(lambda t: t[indices] if len(t) == count else t[rows], (self.outputs, self.labels))


def same_shapes(trees):
    """Whether the tensors of all trees are alike behind their first dimension."""
    return len({tuple(t.shape[1:] for t in tensors(tree)) for tree in trees}) == 1


def rows_of_samples(outputs, labels):
    """How many rows of the outputs each sample of a batch has, int64 (B,); None where that cannot be told.

    One, where all tensors are of one length. More, where there is a row for each entry of a table of labels (as in
    CS230's named-entity recognition), or where one of the labels says how many, whose sum is the length of the others.
    """
    sizes = {len(t) if t.ndim else 0 for t in tensors((outputs, labels))}
    if len(sizes) == 1:
        return torch.ones(sizes.pop(), dtype=torch.int64)
    if is_flat(outputs, labels):
        return torch.full((len(labels),), labels.numel() // len(labels))
    return next((t for t in tensors(labels) if are_lengths(t) and sizes == {len(t), int(t.sum())}), None)


def are_lengths(tensor):
    """Whether a tensor may say how many rows each sample has."""
    return tensor.ndim == 1 and tensor.dtype == torch.int64 and bool((tensor >= 0).all())


def places_in_dataset(dataloader, seed, count):
    """Where in the dataset the `count` samples of an evaluation are, int64 array, in the order that they came in.

    None where that cannot be told: the loader is no plain DataLoader, or its sampler gives no indices.
    """
    keys = resumable_batches(dataloader, seed).keys
    if not keys or not all(map(has_sample_indices, keys)):
        return None
    places = np.concatenate([torch.as_tensor(key).cpu().numpy() for key in keys])
    return places if len(places) == count else None


def names_of(dataset):
    """The names of a dataset's samples, a sequence: its attribute `items` (or CS230's `filenames`); None without."""
    if isinstance(dataset, Subset):
        names = names_of(dataset.dataset)
        return None if names is None else [names[index] for index in dataset.indices]
    names = getattr(dataset, "items", getattr(dataset, "filenames", None))
    # what a dataset calls so may be something else, such as a method
    return names if isinstance(names, Sequence | np.ndarray) and len(names) == len(dataset) else None



def inputs_at(dataloader, seed, positions):
    """Yield the inputs of the samples that came at `positions` of an evaluation, each a batch of one.

    As they were loaded then, random numbers included; `places_in_dataset` must have found where they are.
    """
    batches = resumable_batches(dataloader, seed)
    ends = np.cumsum([len(key) for key in batches.keys])
    for position in positions:
        number = int(np.searchsorted(ends, position, side="right"))
        key = batches.keys[number]
        first = int(position - ends[number]) + len(key)
        yield batches.load_batch(0, number, first, key[first : first + 1])[0]
