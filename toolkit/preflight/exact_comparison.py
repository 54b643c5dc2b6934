"""Bit by bit comparison of nested structures."""

import torch

OWN_DRAWS = """likely cause: the items or order of the data loader depend on what was loaded before, as with a random \
generator that the code keeps to itself; draw from torch, numpy or random"""
NOT_DETERMINISTIC = """likely cause: an operation that is not deterministic on this device, or something that no seed \
governs, such as the time"""
UNKNOWN = "likely cause: something that model, loss or optimizer keep, and that is not in their state_dict"


def pairs(one, other, path):
    """Yield (path, value, other value) for all that two nested dicts, lists and tuples hold."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from pairs(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, (value, other_value) in enumerate(zip(one, other, strict=True)):
            yield from pairs(value, other_value, f"{path}/{index}")
    else:
        yield path, one, other


def same(one, other):
    """Whether two values are the same, bit by bit; NaN is the same as NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(as_bits(one), as_bits(other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def as_bits(tensor):
    """The bytes of a tensor as integers."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def unsaved_values(thing):
    """The numbers, strings and tensors that a model, loss or optimizer keeps outside its state_dict, a dict by path."""
    modules = thing.named_modules() if isinstance(thing, torch.nn.Module) else [("", thing)]
    values = {}
    for name, module in modules:
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        held = {k: v for k, v in own.items() if isinstance(v, int | float | str | torch.Tensor)}
        unsaved = getattr(module, "_non_persistent_buffers_set", ())
        held |= {k: v for k, v in getattr(module, "_buffers", {}).items() if k in unsaved and v is not None}
        values |= {f"{name}.{k}".strip("."): v.clone() if isinstance(v, torch.Tensor) else v for k, v in held.items()}
    return values
