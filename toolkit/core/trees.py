"""Nested tuples, lists and dicts of tensors ("trees"): a task may use them for inputs, labels and outputs."""

from collections import namedtuple

import numpy as np
import torch


def tree_map(fn, tree):
    """Return `tree` with `fn` applied to each tensor; everything else stays as it is."""
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: tree_map(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return sequence_like(tree, [tree_map(fn, value) for value in tree])
    return tree


def sequence_like(tree, values):
    """Return a tuple, namedtuple or list of the type of `tree` that holds `values`."""
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def tensors(tree):
    """Return the tensors of `tree`, in order, as a list."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def tree_cat(trees):
    """Concatenate trees of one structure: tensors along their first dimension, lists without tensors end to end.

    Anything else, such as a number or None, is that of the first tree.

    Raises:
        RuntimeError: the tensors differ in more than their first dimension.
    """
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat([t.reshape(1) if t.ndim == 0 else t for t in trees])
    if isinstance(first, dict):
        return {key: tree_cat([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple | list) and tensors(first):
        return sequence_like(first, [tree_cat(values) for values in zip(*trees, strict=True)])
    if isinstance(first, tuple | list):
        return [item for tree in trees for item in tree]
    return first


def batch_size(tree):
    """Return the number of samples in a batch: the first dimension of its first tensor, or 1 if that is a scalar."""
    found = tensors(tree)
    return len(found[0]) if found and found[0].ndim else 1


def to_plain(tree):
    """Return `tree` as checkpoints store it: only tensors, numbers, strings, tuples, lists and dicts; see `from_plain`.

    Raises:
        TypeError: it contains something else.
    """
    if tree is None or type(tree) in (bool, int, float, str, bytes):
        return tree
    if isinstance(tree, torch.Tensor):
        on_cpu = tree.device.type == "cpu"
        return tree.detach() if on_cpu else {"$device": tree.device.type, "tensor": tree.detach().cpu()}
    if isinstance(tree, np.ndarray | np.generic):
        return {"$numpy": torch.from_numpy(np.array(tree))}
    if isinstance(tree, dict):
        return {to_plain(key): to_plain(value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {"$namedtuple": type(tree).__name__, "fields": to_plain(dict(zip(tree._fields, tree, strict=True)))}
    if type(tree) in (tuple, list):
        return type(tree)(to_plain(value) for value in tree)
    raise TypeError(f"a {type(tree).__name__}")


def from_plain(plain):
    """Return the tree that `to_plain` has converted to `plain`."""
    if isinstance(plain, dict):
        if "$device" in plain:
            return plain["tensor"].to(plain["$device"])
        if "$numpy" in plain:
            return plain["$numpy"].numpy()[()]  # an array, or a numpy scalar
        if "$namedtuple" in plain:
            fields = from_plain(plain["fields"])
            return namedtuple(plain["$namedtuple"], fields)(**fields)
        return {key: from_plain(value) for key, value in plain.items()}
    if isinstance(plain, tuple | list):
        return type(plain)(from_plain(value) for value in plain)
    return plain


def is_pair(batch):
    """Return True if a batch is a tuple or list of two, as (inputs, labels) is."""
    return isinstance(batch, tuple | list) and len(batch) == 2


def describe(value):
    """Return what a value is, for an error message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with the keys {list(value)}"
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}"
