"""Collect the outputs and labels of a split while it is evaluated."""

import torch

from toolkit.core.memory import available_memory
from toolkit.core.sized_batches import number_of_samples
from toolkit.core.totals import is_flat, to_numpy
from toolkit.core.trees import tensors, tree_cat, tree_map
from utils import UserError

SHARE_OF_MEMORY = 0.25  # of the free memory, for the collected outputs


class CollectedOutputs:
    """The outputs and labels of a split, collected batch by batch like a metric that has no value of its own.

    Attributes:
        outputs, labels: those of all batches, in main memory, in the form in which metrics get them.
        lengths: int64 (samples,), the number of output rows of each sample: 1, or one per token of a sentence.
        problem: the reason why nothing was collected, or "".
    """

    def __init__(self):
        self.reset()

    def reset(self):
        self.batches, self.problem, self.outputs, self.labels, self.lengths = [], "", None, None, None
        self.free = SHARE_OF_MEMORY * available_memory()  # bytes that may still be collected

    def update(self, outputs, labels):
        """Keep the outputs and labels of a batch; drop all that was collected if they take too much memory."""
        batch = tree_map(lambda tensor: torch.from_numpy(to_numpy(tensor)), (outputs, labels))
        self.free -= sum(tensor.nbytes for tensor in tensors(batch))
        if self.free > 0:
            self.batches.append((*batch, rows_per_sample(*batch)))
        else:
            self.batches.clear()

    def compute(self):
        """Join the batches, or set `problem`. Return {}, the results of a metric without a value."""
        outputs, labels, lengths = zip(*self.batches, strict=True) if self.batches else ((), (), ())
        self.batches = []
        if self.free <= 0:
            self.problem = f"its outputs take more than {SHARE_OF_MEMORY:.0%} of the free memory"
            return {}
        shapes = {tuple(t.shape[1:] for t in tensors(label)) for label in labels}
        if len(shapes) > 1 and all(map(is_flat, outputs, labels)):
            labels = [label.reshape(-1) for label in labels]
        try:
            self.outputs, self.labels, self.lengths = tree_cat(outputs), tree_cat(labels), torch.cat(lengths)
        except (RuntimeError, TypeError):  # shapes differ; a batch without lengths
            self.problem = "it is not clear which rows of the outputs and labels belong to one sample"
        return {}

    def take(self, indices):
        """Return the outputs and labels of the samples at `indices`, int64 (n,), in that order."""
        count, lengths = len(self.lengths), self.lengths[indices]
        first = (self.lengths.cumsum(0) - self.lengths)[indices]
        rows = (first - lengths.cumsum(0) + lengths).repeat_interleave(lengths) + torch.arange(int(lengths.sum()))
        return tree_map(lambda t: t[indices] if len(t) == count else t[rows], (self.outputs, self.labels))


def rows_per_sample(outputs, labels):
    """Return the number of output rows of each sample in a batch, int64 (B,), or None if that is not clear."""
    try:
        size = number_of_samples(outputs, labels)
    except UserError:  # lists with an item for each sample, of a detector
        return None
    sizes = {len(t) if t.ndim else 0 for t in tensors((outputs, labels))}
    if sizes == {size}:
        return torch.ones(size, dtype=torch.int64)
    if is_flat(outputs, labels):  # one row for each entry of a table of labels, as in CS230's NER
        return torch.full((len(labels),), labels.numel() // len(labels))
    # one of the label tensors may hold lengths, which add up to the length of the others
    return next((t for t in tensors(labels) if may_be_lengths(t) and sizes == {len(t), int(t.sum())}), None)


def may_be_lengths(tensor):
    """Return True if a tensor may hold the number of rows of each sample."""
    return tensor.ndim == 1 and tensor.dtype == torch.int64 and bool((tensor >= 0).all())
