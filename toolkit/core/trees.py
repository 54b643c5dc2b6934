"""Nested tuples, lists and dicts of tensors: what a task may use for inputs, labels and outputs."""

from collections import namedtuple

import numpy as np
import torch


def tree_map(fn, tree):
    """`tree` with `fn` applied to each of its tensors; what is not a tensor stays as it is."""
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: tree_map(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_map(fn, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(tree_map(fn, value) for value in tree)
    return tree


def tensors(tree):
    """The tensors of `tree`, in order, as a list."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    found = []

    def note(tensor):
        found.append(tensor)
        return tensor

    tree_map(note, tree)
    return found


def tree_cat(trees):
    """Trees of one structure as one: tensors joined along their first dimension, lists without tensors end to end.

    Args:
        trees: non-empty list of trees; tensors of shape (batch, ...).

    Raises:
        RuntimeError: the tensors differ in more than their first dimension.
    """
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat([t.reshape(1) if t.ndim == 0 else t for t in trees])
    if isinstance(first, dict):
        return {key: tree_cat([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple | list) and tensors(first):
        joined = [tree_cat(list(values)) for values in zip(*trees, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    if isinstance(first, tuple | list):
        return [item for tree in trees for item in tree]
    return first


def batch_size(tree):
    """How many samples a batch holds: the first dimension of its first tensor (1 where that is a single number)."""
    found = tensors(tree)
    return len(found[0]) if found and found[0].ndim else 1


def to_plain(tree):
    """`tree` as a checkpoint holds it: of tensors, numbers, strings, tuples, lists and dicts alone. See `from_plain`.

    Raises:
        TypeError: it holds something else.
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
    """The tree that `to_plain` made `plain` of."""
    if isinstance(plain, dict):
        if "$device" in plain:
            return plain["tensor"].to(plain["$device"])
        if "$numpy" in plain:
            array = plain["$numpy"].numpy()
            return array if array.ndim else array[()]
        if "$namedtuple" in plain:
            fields = {name: from_plain(value) for name, value in plain["fields"].items()}
            return namedtuple(plain["$namedtuple"], fields)(**fields)
        return {key: from_plain(value) for key, value in plain.items()}
    if isinstance(plain, tuple | list):
        return type(plain)(from_plain(value) for value in plain)
    return plain


def describe(value):
    """What a value is, in the words of an error message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with the keys {list(value)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
