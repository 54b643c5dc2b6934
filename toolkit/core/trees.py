"""Nested tuples, lists and dicts of tensors ("trees"): a task may use them for inputs, labels and outputs."""

import copy
import sys
from collections import namedtuple
from collections.abc import Mapping, MutableMapping

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence


class PerSample(list):
    """A list with one item per sample: those of several batches are joined end to end."""


def tree_map(fn, tree):
    """Return `tree` with `fn` applied to each tensor; everything else stays as it is."""
    return fn(tree) if isinstance(tree, torch.Tensor) else map_parts(lambda part: tree_map(fn, part), tree)


def map_parts(fn, tree):
    """Return a mapping, tuple or list with `fn` applied to each of its values; anything else stays as it is."""
    if isinstance(tree, Mapping):
        return like(tree, {key: fn(value) for key, value in tree.items()})
    return like(tree, [fn(value) for value in tree]) if isinstance(tree, tuple | list) else tree


def like(tree, values):
    """Return a copy of a mapping, tuple or list that holds `values`; of the same class, such as a namedtuple."""
    if type(tree) in (dict, list):
        return values
    if isinstance(tree, Mapping):
        mapping = copy.copy(tree) if isinstance(tree, MutableMapping) else {}  # UserDict, transformers' ModelOutput
        for key, value in values.items():
            mapping[key] = value
        return mapping
    if isinstance(tree, PackedSequence):
        return PackedSequence(values[0], tree.batch_sizes, *values[2:])  # its batch_sizes have to stay on the CPU
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def tensors(tree):
    """Return the tensors of `tree`, in order, as a list."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [tensor for part in parts_of(tree) for tensor in tensors(part)]


def parts_of(tree):
    """Return the values of a mapping, tuple or list; nothing for anything else."""
    return tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()


def tree_cat(trees):
    """Concatenate trees of one structure: tensors and arrays along their first dimension, `PerSample` lists and lists
    without tensors end to end. A number or string is that of the first tree.

    Raises:
        RuntimeError: tensors differ in more than their first dimension, or the structure cannot be concatenated.
    """
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.cat([t.reshape(1) if t.ndim == 0 else t for t in trees])
    if isinstance(first, np.ndarray):
        return np.concatenate([np.atleast_1d(array) for array in trees])
    if isinstance(first, Mapping) and all(tree.keys() == first.keys() for tree in trees):
        return like(first, {key: tree_cat([tree[key] for tree in trees]) for key in first})
    if isinstance(first, tuple | list) and not isinstance(first, PackedSequence):
        if any(isinstance(tree, PerSample) for tree in trees):
            return PerSample(item for tree in trees for item in tree)
        if not any(isinstance(part, torch.Tensor | np.ndarray | Mapping | tuple | list) for part in first):
            return [item for tree in trees for item in tree]
        if all(len(tree) == len(first) for tree in trees):
            return like(first, [tree_cat(values) for values in zip(*trees, strict=True)])
    if isinstance(first, int | float | str | np.generic) or all(tree is first or tree == first for tree in trees):
        return first
    raise RuntimeError(f"{describe(first)} cannot be concatenated with those of other batches")


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
    if type(tree) is dict:
        return {to_plain(key): to_plain(value) for key, value in tree.items()}
    if isinstance(tree, Mapping):
        return {"$mapping": [type(tree).__module__, type(tree).__name__], "items": to_plain(dict(tree))}
    if isinstance(tree, PerSample):
        return {"$per_sample": [to_plain(value) for value in tree]}
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
        if "$per_sample" in plain:
            return PerSample(from_plain(plain["$per_sample"]))
        if "$mapping" in plain:
            module, name = plain["$mapping"]
            kind, items = getattr(sys.modules.get(module), name, None), from_plain(plain["items"])
            return kind(items) if isinstance(kind, type) and issubclass(kind, Mapping) else items
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
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {list(value)}"
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{length}"
