"""The batches of an epoch, each a function of (seed, epoch, number) alone, from any number on: what exact resuming is.

What a batch holds, and every random number that is drawn while it is loaded or trained on, depends on nothing that went
before. So a run that begins in the middle of an epoch gets what it would have got, without luck and without loading
again what is done; for any number of worker processes.
"""

import copy
import functools
import itertools
import logging
import os
import random
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from toolkit.task import UnpackedBatches, unpacked
from utils import UserError

ORDER, LOADER, MODEL = range(3)  # streams of random numbers: for the order of an epoch, a batch's items, a batch's step
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
DEEPEST = 5  # levels of attributes, below a dataset or model, at which generators of its own are looked for
LONGEST = 100  # items of a list or dict that are looked through for them
MPS = torch.backends.mps.is_available()


def order_of(dataloader, seed):
    """The EpochOrder of a data loader: of a plain one always the same, whose worker processes may persist."""
    order = getattr(dataloader, "_epoch_order", None) or EpochOrder(dataloader, seed)
    if order.can_skip and order.seed == seed:
        dataloader._epoch_order = order
        return order
    return EpochOrder(dataloader, seed)


class EpochOrder:
    """The batches of a data loader in an order, and with random numbers, that are a function of (seed, epoch).

    A torch `DataLoader` is gone through from any batch on at no cost: its sampler gives the order of the whole epoch
    when the epoch begins, and the random generators (torch, numpy, random, and those that dataset and sampler have of
    their own) are seeded anew for each batch, in the process that loads it. Any other iterable of batches is gone
    through from its beginning, what is done passed over.

    Args:
        dataloader: iterable of batches.
        seed: int.
    """

    def __init__(self, dataloader, seed):
        self.seed = seed
        self.unpack_batch = dataloader.unpack_batch if isinstance(dataloader, UnpackedBatches) else None
        inner = dataloader.dataloader if isinstance(dataloader, UnpackedBatches) else dataloader
        self.can_skip = type(inner) is DataLoader and not isinstance(inner.dataset, IterableDataset)
        if self.can_skip:
            self.sampler = NumberedBatches(inner._index_sampler, seed)
            self.seeded = copy.copy(inner)  # with every option that it has
            name = "sampler" if inner.batch_sampler is None else "batch_sampler"
            vars(self.seeded).update({"dataset": SeededBatches(inner.dataset, seed), name: self.sampler})
            self.seeded._iterator = None  # its own persistent workers
        else:
            self.inner, self.generators = inner, generators_of(inner)

    def batches(self, epoch, start=0):
        """Yield the batches of an epoch, an int, from number `start` on."""
        if self.can_skip:
            self.sampler.epoch, self.sampler.start = epoch, start
            in_this_process = self.seeded.num_workers == 0 and not self.seeded.pin_memory
            batches = self._loaded_here() if in_this_process else iter(self.seeded)
        else:
            batches = itertools.islice(self._from_the_beginning(epoch), start, None)
        return batches if self.unpack_batch is None else unpacked(batches, self.unpack_batch)

    def _loaded_here(self):
        """What `iter(self.seeded)` gives where there are no workers, in less time."""
        dataset, collate = self.seeded.dataset, self.seeded.collate_fn
        load = dataset.__getitem__ if self.seeded.batch_sampler is None else dataset.__getitems__
        for key in self.sampler:
            yield collate(load(key))

    @staticmethod
    def check_replay(done, changed):
        """Say that `done` batches will be gone over; with another number of workers they may not be those that were.

        Raises:
            UserError: num_workers is among `changed`, a dict by name of [then, now].
        """
        if "num_workers" in changed:
            raise UserError(
                f"num_workers: a data loader that is not a plain DataLoader cannot go on with another number in the "
                f"middle of an epoch; put back {changed['num_workers'][0]} until the epoch is over"
            )
        logging.info("The data loader is not a plain DataLoader: going over %d batches that are done", done)

    def _from_the_beginning(self, epoch):
        seed_all(self.seed, epoch, 0, ORDER, self.generators)
        if (
            getattr(self.inner, "_iterator", None) is not None
        ):  # a DataLoader's workers that persist remember their draws
            self.inner._iterator = None
        batches = iter(self.inner)
        for number in itertools.count():
            seed_all(self.seed, epoch, number, LOADER)
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


class NumberedBatches:
    """A sampler that gives (epoch, number, indices) for each batch of `epoch`, from number `start` on."""

    def __init__(self, sampler, seed):
        self.sampler, self.seed = sampler, seed
        self.generators = generators_of(sampler)
        self.epoch, self.start = 0, 0

    def __iter__(self):
        epoch, start = self.epoch, self.start
        seed_all(self.seed, epoch, 0, ORDER, self.generators)
        for sampler in (self.sampler, getattr(self.sampler, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        order = list(self.sampler)  # all of it now: what a sampler draws must not mix with what the steps draw
        return iter([(epoch, number, order[number]) for number in range(start, len(order))])

    def __len__(self):
        return len(self.sampler)


class SeededBatches(Dataset):
    """A dataset that seeds all random generators before it loads a batch, whichever process it does so in."""

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed
        self.generators, self.process = [], None

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):  # of a loader with batch_size=None, where an item is a batch
        return self.dataset[self._begin(key)]

    def __getitems__(self, key):
        indices = self._begin(key)
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def _begin(self, key):
        if self.process != os.getpid():  # a worker has its own ones
            self.generators, self.process = generators_of(self.dataset), os.getpid()
        epoch, number, indices = key
        seed_all(self.seed, epoch, number, LOADER, self.generators)
        return indices

    def __getattr__(self, name):  # for a worker_init_fn, which reads and sets the dataset's attributes
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name, value):
        if name in ("dataset", "seed", "generators", "process"):
            vars(self)[name] = value
        else:
            setattr(self.dataset, name, value)


def seed_all(seed, epoch, number, stream, generators=()):
    """Seed torch, numpy, random and `generators` as a function of the other arguments, ints.

    For each batch: takes some microseconds, where `torch.manual_seed` takes more than a hundred.
    """
    mixed = mix_in(mix_in(mix(seed, epoch), number), stream)
    value = mixed >> 1
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)
    elif MPS:
        torch.mps.manual_seed(value)
    for place, generator in enumerate(generators, start=1):
        value = mix_in(mixed, place) >> 1
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
