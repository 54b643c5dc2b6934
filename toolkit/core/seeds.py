"""Random generators, seeded as a function of (seed, epoch, batch, place in the batch): this makes resuming exact."""

import functools
import itertools
import random
import sys
from types import CellType, FunctionType, MemberDescriptorType, ModuleType

import numpy as np
import torch
from torch import nn

ORDER, LOADER, MODEL = range(3)  # streams of random numbers: order of an epoch, loading of items, training on a batch
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
MAX_DEPTH = 20  # levels of attributes below a dataset or model that are searched for generators
MAX_ITEMS = 100  # items of a list or dict that are searched
MAX_OBJECTS = 10_000  # that are searched in all
SEEDED = [id(g) for g in (torch.default_generator, np.random.rand.__self__, random.random.__self__)]  # in any case
LEAVES = (str, bytes, int, float, type(None), np.ndarray, torch.Tensor, type, ModuleType)  # have no generator in them


def seed_all(seed, epoch, number, stream, generators=(), place=0):
    """Seed torch (on every device), numpy, random and `generators` as a function of the other arguments.

    This is called for each batch or item, so it must be fast: `torch.manual_seed` alone would take 100 microseconds.

    Args:
        seed, epoch, number: int; `number` is that of the batch in its epoch.
        stream: ORDER, LOADER or MODEL.
        generators: further random generators, as `generators_of` finds them.
        place: int, place of an item in its batch, or rank of a process.
    """
    mixed = mix(seed, epoch, number, stream, place) if place else mix(seed, epoch, number, stream)
    value = mixed >> 1
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)
    elif has_mps():
        torch.mps.manual_seed(value)
    for index, generator in enumerate(generators, start=1):
        value = mix(-index, mixed=mixed) >> 1
        if isinstance(generator, torch.Generator):
            generator.manual_seed(value)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(value).state
        else:
            generator.seed(value & 0xFFFFFFFF)


has_mps = functools.cache(torch.backends.mps.is_available)


def mix(*numbers, mixed=0):
    """Return an int below 2**64 that looks random and is a function of `numbers`: splitmix64 (Steele et al. 2014)."""
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed


def generators_of(thing):
    """Return the random generators that a dataset or model keeps in its attributes or its model/ module, as a list."""
    found, seen = {}, {}

    def search(value, depth):
        if isinstance(value, GENERATORS):
            found[id(value)] = value
        elif depth > 0 and id(value) not in seen and not isinstance(value, LEAVES) and len(seen) < MAX_OBJECTS:
            seen[id(value)] = value
            module = type(value).__module__
            shared = vars(sys.modules[module]).values() if module.startswith("model.") else ()
            for part in [*contents_of(value), *(part for part in shared if isinstance(part, GENERATORS))]:
                search(part, depth - 1)

    search(thing, MAX_DEPTH)
    return [generator for generator in found.values() if id(generator) not in SEEDED]


def contents_of(value):
    """Return what an object keeps: its attributes, items or slots, or what a function has in its closure and defaults.

    Of a long list or dict, these are the first items; of an nn.Module, the attributes of all its modules.
    """
    if isinstance(value, dict | list | tuple):
        return itertools.islice(value.values() if isinstance(value, dict) else value, MAX_ITEMS)
    if isinstance(value, nn.Module):
        return [attribute for module in value.modules() for attribute in vars(module).values()]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        return cells + list(value.__defaults__ or ())
    parts = list(getattr(value, "__dict__", {}).values())
    for kind in type(value).__mro__:  # slots are descriptors of the class; so are the parts of a partial function
        members = [member for member in vars(kind).values() if isinstance(member, MemberDescriptorType)]
        parts += [part for member in members if (part := getattr(value, member.__name__, None)) is not None]
        parts += [part for part in vars(kind).values() if isinstance(part, GENERATORS)]  # attributes of the class
    return parts
