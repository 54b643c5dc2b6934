"""The batches of an epoch, each a function of (seed, epoch, number) alone, from any number on: what exact resuming is.

What a batch holds, and every random number that is drawn while it is loaded or trained on, depends on nothing that went
before. So a run that begins in the middle of an epoch gets what it would have got, without luck and without loading
again what is done; for any number of worker processes.
"""

import contextlib
import copy
import itertools
import logging
import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from toolkit.core import processes
from toolkit.core.seeds import LOADER, ORDER, generators_of, seed_all
from toolkit.core.trees import batch_size, describe, tensors, tree_cat, tree_map
from utils import UserError


def resumable_batches(dataloader, seed):
    """The ResumableBatches of a data loader: of a plain one always the same, whose worker processes may persist."""
    order = getattr(dataloader, "_epoch_order", None) or ResumableBatches(dataloader, seed)
    if order.can_skip and order.seed == seed:
        dataloader._epoch_order = order
        return order
    return ResumableBatches(dataloader, seed)


class ResumableBatches:
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

    def batches(self, epoch, start=0, joins=False):
        """Yield the batches of an epoch, an int, from number `start` on; of several processes, this one's part of each.

        With `joins`, a last batch of one sample is made part of the one before it (where their shapes allow it): batch
        normalisation has no variance of a single sample, and to drop it would leave that sample out.
        """
        if self.can_skip:
            self.sampler.draw(epoch, start, joins)
            in_this_process = self.seeded.num_workers == 0 and not self.seeded.pin_memory
            batches = self._loaded_here() if in_this_process else iter(self.seeded)
        else:
            batches = self._from_the_beginning(epoch)
        if self.unpack_batch is not None:
            batches = unpacked(batches, self.unpack_batch)
        if not self.can_skip:
            batches = itertools.islice(joined(batches) if joins else batches, start, None)
        return batches if processes.world_size() == 1 else self._parts(batches, start)

    def _parts(self, batches, start):
        for number, batch in enumerate(batches, start):
            if not (self.can_skip and is_divisible(self.sampler.order[number])):
                yield shard_of_batch(batch)
            else:
                first, end = processes.shard_of(len(self.sampler.order[number]))
                yield batch if first < end else ZeroWeightBatch(batch)

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
        if getattr(self.inner, "_iterator", None) is not None:  # workers that persist remember their draws
            self.inner._iterator = None
        batches = iter(self.inner)
        for number in itertools.count():
            seed_all(self.seed, epoch, number, LOADER)
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


class ZeroWeightBatch(tuple):
    """A batch that is not this process's, which has no part in it, but that it computes while the others do theirs."""


def shard_of_batch(batch):
    """The part of a batch, a pair of trees of tensors, that is this process's, a pair."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return batch  # which is refused
    size = batch_size(batch[1]) if tensors(batch[1]) else batch_size(batch[0])
    first, end = processes.shard_of(size)
    chosen = slice(first, max(end, first + 1)) if first < size else slice(0, 1)
    part = tree_map(lambda t: t[chosen] if t.ndim and len(t) == size else t, tuple(batch))
    return part if first < end else ZeroWeightBatch(part)


def joined(batches):
    """Yield `batches`, the last one joined to the one before it if it has one sample, and the shapes fit."""
    held: Any = None
    batches = iter(batches)
    while True:
        try:
            batch = next(batches, None)
        except Exception:
            if held is not None:
                yield held  # what was loaded before is not lost
            raise
        if held is not None and batch is not None:
            pairs = all(isinstance(b, tuple | list) and len(b) == 2 for b in (held, batch))
            if pairs and batch_size(batch[1]) == 1 < batch_size(held[1]):
                with contextlib.suppress(RuntimeError):
                    held, batch = None, tree_cat([tuple(held), tuple(batch)])
        if held is not None:
            yield held
        if batch is None:
            return
        held = batch


def is_divisible(key):
    """Whether what a sampler gives for a batch is the indices of its samples, of which a part can be taken."""
    return isinstance(key, list) or (isinstance(key, torch.Tensor | np.ndarray) and key.ndim == 1)


class NumberedBatches:
    """A sampler that gives (epoch, number, first, indices) for each batch of the epoch that was drawn last.

    `indices` are those of this process's part of it, which begins with number `first` (0, alone) of the whole batch.
    """

    def __init__(self, sampler, seed):
        self.sampler, self.seed = sampler, seed
        self.generators = generators_of(sampler)
        self.epoch, self.start, self.order = 0, 0, []

    def draw(self, epoch, start, joins):
        """Take the order of an epoch, from number `start` on; `joins` as for ResumableBatches.batches."""
        self.epoch, self.start = epoch, start
        seed_all(self.seed, epoch, 0, ORDER, self.generators)
        samplers: list[Any] = [self.sampler, getattr(self.sampler, "sampler", None)]
        for sampler in samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        self.order = list(self.sampler)  # all of it now: what a sampler draws must not mix with what the steps draw
        last = self.order[-2:]
        if joins and len(last) == 2 and all(map(is_divisible, last)) and len(last[1]) == 1 < len(last[0]):
            both = last[0] + last[1] if isinstance(last[0], list) else tree_cat(list(map(torch.as_tensor, last)))
            self.order[-2:] = [both]

    def __iter__(self):
        for number in range(self.start, len(self.order)):
            indices, first = self.order[number], 0
            if processes.world_size() > 1 and is_divisible(indices):
                first, end = processes.shard_of(len(indices))
                indices = indices[first:end] if first < end else indices[:1]
            yield self.epoch, number, first, indices

    def __len__(self):
        return len(self.sampler)


class SeededBatches(Dataset):
    """A dataset that seeds all random generators before it loads an item, whichever process it does so in.

    Where the dataset itself loads whole batches, before each of these.
    """

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed
        self.generators, self.process = [], None

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):  # of a loader with batch_size=None, where an item is a batch
        epoch, number, first, index = key
        self._begin(epoch, number, first)
        return self.dataset[index]

    def __getitems__(self, key):
        epoch, number, first, indices = key
        self._begin(epoch, number, first)
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(indices)
        items = []
        for place, index in enumerate(indices, first):
            self._begin(epoch, number, place)
            items.append(self.dataset[index])
        return items

    def _begin(self, epoch, number, place):
        if self.process != os.getpid():  # a worker has its own ones
            self.generators, self.process = generators_of(self.dataset), os.getpid()
        seed_all(self.seed, epoch, number, LOADER, self.generators, place)

    def __getattr__(self, name):  # for a worker_init_fn, which reads and sets the dataset's attributes
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name, value):
        if name in ("dataset", "seed", "generators", "process"):
            self.__dict__[name] = value
        else:
            setattr(self.dataset, name, value)


class UnpackedBatches:
    """A data loader whose batches have gone through the task's `unpack_batch(batch) -> (inputs, labels)`."""

    def __init__(self, dataloader, unpack_batch):
        self.dataloader = dataloader
        self.unpack_batch = unpack_batch

    def __iter__(self):
        return unpacked(self.dataloader, self.unpack_batch)

    def __len__(self):
        return len(self.dataloader)

    @property
    def dataset(self):
        return self.dataloader.dataset


def unpacked(batches, unpack_batch):
    """Yield `unpack_batch(batch)` of each of `batches`."""
    for batch in batches:
        pair = unpack_batch(batch)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"unpack_batch(batch) should give a pair (inputs, labels), not {describe(pair)}")
        yield pair
