"""Random generators, seeded as a function of (seed, epoch, number of the batch, place in it): what makes runs exact."""

import functools
import itertools
import random
import sys

import numpy as np
import torch
from torch import nn

ORDER, LOADER, MODEL = range(3)  # streams of random numbers: for the order of an epoch, a batch's items, a batch's step
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DEEPEST = 5  # levels of attributes, below a dataset or model, at which generators of its own are looked for
LONGEST = 100  # items of a list or dict that are looked through for them
MPS = torch.backends.mps.is_available()


def seed_all(seed, epoch, number, stream, generators=(), place=0):
    """Seed torch, numpy, random and `generators` as a function of the other arguments, ints.

    For each batch, or item of it: takes some microseconds, where `torch.manual_seed` takes more than a hundred.
    """
    mixed = mix_in(mix_in(mix(seed, epoch), number), stream)
    if place:
        mixed = mix_in(mixed, place)
    value = mixed >> 1
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)
    elif MPS:
        torch.mps.manual_seed(value)
    for number, generator in enumerate(generators, start=1):
        value = mix_in(mixed, -number) >> 1
        if isinstance(generator, torch.Generator):
            generator.manual_seed(value)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(value).state
        else:
            generator.seed(value & 0xFFFFFFFF)


@functools.lru_cache
def mix(*numbers):
    """A number below 2**64 that looks random, as a function of `numbers`."""
    return functools.reduce(mix_in, numbers, 0)


def mix_in(mixed, number):
    """What `mix` gives with a further number: a step of splitmix64 (Steele, Lea, Flood 2014)."""
    mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return mixed ^ mixed >> 31


def generators_of(thing):
    """The random generators that an object keeps in attributes, its parts' too, or its model/ module has, as a list."""
    found, seen = {}, set()

    def look(value, depth):
        if isinstance(value, GENERATORS):
            found[id(value)] = value
        elif depth > 0 and id(value) not in seen:
            seen.add(id(value))
            for part in parts(value):
                look(part, depth - 1)
            module = type(value).__module__
            if module.startswith("model."):
                look([part for part in vars(sys.modules[module]).values() if isinstance(part, GENERATORS)], 1)

    look(thing, DEEPEST)
    return list(found.values())


def parts(value):
    """What an object holds: its attributes, or its first items; of an nn.Module, the attributes of all its modules."""
    if isinstance(value, dict | list | tuple):
        return list(itertools.islice(value.values() if isinstance(value, dict) else value, LONGEST))
    if isinstance(value, nn.Module):
        return [attribute for module in value.modules() for attribute in vars(module).values()]
    return [] if isinstance(value, type) else list(getattr(value, "__dict__", {}).values())
