"""What can be said of outputs and labels without knowing the task: which belong together, what a guess would be."""

import itertools
import math

import torch
from torch import nn

from toolkit.core.trees import tensors, tree_map

SHIFTS = 5  # ways to exchange the classes that are tried


class Match:
    """The first tensors of outputs and labels that are of the same samples, and what some models would give for them.

    Args:
        outputs, labels: of a batch.
        loss_fn: the loss of the two.

    Attributes:
        output, label: the tensors; of one-hot labels the classes.
        kind: "classes" (dimension 1 of the output has a score for each), "binary" (labels 0 and 1 of one score),
            "numbers"; None where no tensors are of the same samples, or none in a way that is known.
    """

    def __init__(self, outputs, labels, loss_fn):
        self.outputs, self.labels, self.loss_fn, self.label, self.kind = outputs, labels, loss_fn, torch.empty(0), None
        for label, (self.place, self.output) in itertools.product(tensors(labels), enumerate(tensors(outputs))):
            self.kind, self.label = kind_of(self.output, label)
            if self.kind == "classes" and not self._are_scores():
                self.kind = None
            if self.kind:
                break

    def _are_scores(self):
        """Whether the loss changes where the classes of the output are exchanged, but not those of the labels.

        That of embeddings does not: those of one class should be near each other, wherever that is.
        """
        count = self.output.shape[1]
        classes = self.label.long() % count  # of any label, for one that is out of range ends a process on a GPU
        labels = tree_map(lambda t: classes.to(t.dtype) if t is self.label else t, self.labels)
        with torch.no_grad():
            right, *others = (
                self._loss(self._likely((classes + shift) % count), labels).item()
                for shift in range(min(count, SHIFTS))
            )
        outside = max(min(others) - right, right - max(others))  # how far it is from all others
        return not outside <= max(others) - min(others) + 1e-3 * abs(right)

    def loss(self, output):
        """The loss of the batch with another tensor in the place of the output."""
        return self._loss(output, self.labels)

    def _loss(self, output, labels):
        torch.manual_seed(0)  # it may draw at random
        output = output.detach().requires_grad_()  # as it is in training
        return self.loss_fn(tree_map(lambda t: output if t is self.output else t, self.outputs), labels)

    def _likely(self, classes):
        """An output that gives each of some classes a share of 0.9."""
        count, places = self.output.shape[1], classes.reshape(len(self.output), 1, *self.output.shape[2:])
        shares = torch.full_like(self.output, 0.1 / count).scatter_(1, places, 0.9 + 0.1 / count)
        return shares if are_shares(self.output) else shares.log()

    @property
    def uniform(self):
        """What a model would give that knows nothing of the sample, a tensor like the output."""
        if self.kind == "numbers":
            return self.label.float().mean(0).expand(self.label.shape).reshape(self.output.shape)
        if self.kind == "binary":
            return torch.full_like(self.output, middle_of(self.output))
        count = self.output.shape[1]
        uniform = 1 / count if are_shares(self.output) else -math.log(count) if are_shares(self.output.exp()) else 0
        return torch.full_like(self.output, uniform)

    @property
    def frequent(self):
        """What a model would give that knows how frequent labels are (at each place), as if its last biases were that.

        Of numbers, what one gives that is off by 1, or by what a sigmoid is at its start.
        """
        output, label = self.output, self.label
        if self.kind == "numbers":
            has_sigmoid = middle_of(output) and middle_of(label)
            return torch.full_like(output, 0.5) if has_sigmoid else self.uniform + 1
        if self.kind == "binary":
            shares = label.float().mean(0).clamp(0.001, 0.999).expand(label.shape).reshape(output.shape)
            return shares if middle_of(output) else shares.logit()
        counts = nn.functional.one_hot(label.long() * self.counted, output.shape[1]) * self.counted.unsqueeze(-1)
        counts = counts.reshape(-1, output.shape[1]) if output.ndim == 2 else counts  # (B, ..., C)
        shares = (counts.sum(0) / counts.sum((0, -1)).clamp(min=1).unsqueeze(-1)).clamp(min=1e-6)  # (..., C)
        shares = shares.movedim(-1, 0).expand(output.shape)
        return shares if are_shares(output) else shares.log()

    @property
    def right(self):
        """What a model would give that is right, of numbers or probabilities of classes; else the output itself."""
        if self.kind == "numbers":
            return self.label.reshape(self.output.shape).to(self.output.dtype)
        is_known = self.kind == "classes" and are_shares(self.output)
        return self._likely(self.label.long().clamp(0, self.output.shape[1] - 1)) if is_known else self.output

    def share_right(self, outputs):
        """The share of the labels, those of padding left out, that other outputs for this batch give, a float."""
        output = tensors(outputs)[self.place]
        if self.kind == "classes":
            return (output.argmax(1).reshape(self.label.shape) == self.label)[self.counted].float().mean().item()
        return ((output.reshape(self.label.shape) > middle_of(output)) == (self.label > 0.5)).float().mean().item()

    @property
    def counted(self):
        """Which labels are one of a class, not of padding: a tensor of bool."""
        return (self.label >= 0) & (self.label < self.output.shape[1])


def kind_of(output, label):
    """(kind, label) as a Match has them of an output and a label."""
    if not output.is_floating_point():
        return None, label
    each = output.ndim == label.ndim + 1 and output.shape[:1] + output.shape[2:] == label.shape
    flat = output.ndim == 2 and len(output) == label.numel()
    if not label.is_floating_point() and (each or flat) and output.shape[1] > 1:
        return "classes", label
    is_table = label.shape == output.shape and output.ndim == 2 and output.shape[1] > 1
    if is_table and ((label == 1).sum(1) == 1).all() and label.sum() == len(label):  # one-hot
        return "classes", label.argmax(1)
    if label.numel() == output.numel():
        return "binary" if ((label == 0) | (label == 1)).all() else "numbers", label
    return None, label


def are_shares(output):
    """Whether dimension 1 of a tensor, (B, C, ...), holds probabilities."""
    return bool(output.min() >= 0 and ((output.sum(1) - 1).abs() < 1e-2).all())


def middle_of(output):
    """The score from which on a class is chosen: 0 of logits, 0.5 of probabilities."""
    return 0.5 if output.min() >= 0 and output.max() <= 1 else 0.0
