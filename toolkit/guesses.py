"""What can be said of outputs and labels without knowing the task: which belong together, what a guess would be."""

import itertools
import math

import torch
from torch import nn

from toolkit.trees import tensors, tree_map


def matched(outputs, labels):
    """The first tensors of outputs and labels that are of the same samples.

    Returns:
        (output, label, kind), or None where none are: "classes" (dimension 1 of the output has a score for each),
        "binary" (labels 0 and 1 of one score), "numbers".
    """
    for label, output in itertools.product(tensors(labels), tensors(outputs)):
        each = output.ndim == label.ndim + 1 and output.shape[:1] + output.shape[2:] == label.shape
        flat = output.ndim == 2 and len(output) == label.numel()
        if not label.is_floating_point() and (each or flat) and output.shape[1] > 1:
            return output, label, "classes"
        is_table = label.shape == output.shape and output.ndim == 2 and output.shape[1] > 1
        if is_table and ((label == 1).sum(1) == 1).all() and label.sum() == len(label):
            return output, label.argmax(1), "classes"  # that were one-hot
        if label.numel() == output.numel():
            return output, label, "binary" if ((label == 0) | (label == 1)).all() else "numbers"
    return None


def instead(outputs, output, other):
    """The tree `outputs` with another tensor in the place of `output`, of which a gradient could be computed."""
    return tree_map(lambda tensor: other.detach().requires_grad_() if tensor is output else tensor, outputs)


def guess_of(output, label, kind):
    """What a model would give that knows nothing of the sample, a tensor like `output`."""
    if kind == "numbers":
        return label.float().mean(0).expand(label.shape).reshape(output.shape)
    if kind == "classes" and are_shares(output.exp()):
        return torch.full_like(output, -math.log(output.shape[1]))
    if kind == "classes":
        return torch.full_like(output, 1 / output.shape[1] if are_shares(output) else 0)
    return torch.full_like(output, middle_of(output))


def shares_of(output, label, kind):
    """What a model would give that knows how frequent labels are (at each place), as if its last biases were set to it.

    Of numbers, what one gives that is off by 1, or by what a sigmoid is at its start.
    """
    if kind == "numbers":
        has_sigmoid = middle_of(output) and middle_of(label)
        return torch.full_like(output, 0.5) if has_sigmoid else guess_of(output, label, kind) + 1
    if kind == "binary":
        shares = label.float().mean(0).clamp(0.001, 0.999).expand(label.shape).reshape(output.shape)
        return shares if middle_of(output) else shares.logit()
    counted = is_class(output, label)
    counts = nn.functional.one_hot(label.long() * counted, output.shape[1]) * counted.unsqueeze(-1)  # (B, ..., C)
    counts = counts.reshape(-1, output.shape[1]) if output.ndim == 2 else counts
    shares = (counts.sum(0) / counts.sum((0, -1)).clamp(min=1).unsqueeze(-1)).clamp(min=1e-6)  # (..., C)
    shares = shares.movedim(-1, 0).expand(output.shape)
    return shares if are_shares(output) else shares.log()


def right_of(output, label, kind):
    """What a model would give that is right, of numbers or probabilities of classes; of others the output itself."""
    if kind == "numbers":
        return label.reshape(output.shape).to(output.dtype)
    if kind == "binary" or not are_shares(output):
        return output
    label = label.long().clamp(0, output.shape[1] - 1).view(len(output), 1, *output.shape[2:])
    return torch.zeros_like(output).scatter_(1, label, 1)


def is_class(output, label):
    """Which labels are one of a class, not of padding: a tensor of bool."""
    return (label >= 0) & (label < output.shape[1])


def are_shares(output):
    """Whether dimension 1 of a tensor, (B, C, ...), holds probabilities."""
    return bool(output.min() >= 0 and ((output.sum(1) - 1).abs() < 1e-2).all())


def middle_of(output):
    """The score from which on a class is chosen: 0 of logits, 0.5 of probabilities."""
    return 0.5 if output.min() >= 0 and output.max() <= 1 else 0.0


def share_right(output, label, kind):
    """The share of the labels, those of padding left out, that an output gives, a float."""
    if kind == "classes":
        return (output.argmax(1).reshape(label.shape) == label)[is_class(output, label)].float().mean().item()
    return ((output.reshape(label.shape) > middle_of(output)) == (label > 0.5)).float().mean().item()
