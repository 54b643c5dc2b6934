"""The batches of an epoch, each a function of (seed, epoch, number), so that an epoch can be resumed at any batch.

The content of a batch, and every random number drawn while it is loaded, depend on nothing that happened before. So a
run that resumes in the middle of an epoch gets the same batches, without loading the earlier ones again, and with any
number of worker processes.
"""

import functools
import inspect
import itertools
import logging
import os
import weakref

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from toolkit.core import processes
from toolkit.core.seeds import LOADER, ORDER, generators_of, seed_all
from toolkit.core.sized_batches import SizedBatch, join_last_sample, shard_of_batch
from toolkit.core.trees import describe, is_pair, tree_cat
from utils import UserError

SAMPLING = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}  # arguments of a DataLoader
END = object()

_made = weakref.WeakKeyDictionary()  # DataLoader -> its ResumableBatches, whose worker processes may persist


def resumable_batches(dataloader, seed):
    """Return the ResumableBatches of a data loader; always the same object for a plain DataLoader and one seed."""
    known = _made.get(dataloader) if isinstance(dataloader, DataLoader | UnpackedBatches) else None
    if known is None or known.seed != seed:
        known = ResumableBatches(dataloader, seed)
        if known.can_skip:
            _made[dataloader] = known
    return known


class ResumableBatches:
    """The batches of a data loader, whose order and random numbers are a function of (seed, epoch).

    A plain `DataLoader` of a map-style dataset (`can_skip`) starts at any batch at no cost: its sampler draws the order
    of the whole epoch when the epoch starts, and all random generators (torch, numpy, random, and those that the
    dataset and the sampler own) are seeded for each item in the process that loads it. Any other iterable of batches is
    replayed from its first batch.
    """

    def __init__(self, dataloader, seed):
        self.seed, self.unpack, loader = seed, iter, dataloader
        if isinstance(dataloader, UnpackedBatches):
            self.unpack, loader = dataloader.unpack, dataloader.dataloader
        self.batch_size = getattr(loader, "batch_size", None)  # None: not known
        self.can_skip = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
        if self.can_skip:
            self.order = EpochOrder(loader.sampler if loader.batch_sampler is None else loader.batch_sampler, seed)
            self.loader = rebuilt(loader, SeededDataset(loader.dataset, seed), self.order)
        else:
            self.loader, self.generators = loader, generators_of(loader)

    def batches(self, epoch, start=0, join_last=False):
        """Return an iterator over the batches of an epoch from number `start` on; of each, this rank's shard.

        With `join_last`, a last batch of one sample is joined to the one before it if their shapes allow it: batch
        normalisation has no variance of a single sample, and dropping the batch would leave that sample out.
        """
        if self.can_skip:
            self.order.draw(epoch, start, join_last)
            in_this_process = self.loader.num_workers == 0 and not self.loader.pin_memory
            batches = self.unpack(self._load_here(self.order) if in_this_process else self.loader)
        else:
            batches = self.unpack(self._replay(epoch))
            batches = join_last_sample(batches, self.batch_size) if join_last else batches
            batches = itertools.islice(batches, start, None)
        if processes.world_size() > 1:
            batches = self._shards(batches, start)
        return Batches(batches, lambda number: self._expected_size(start + number))

    def _expected_size(self, number):
        key = self.order.keys[number] if self.can_skip else None
        return len(shard_of_key(key)[1]) if has_sample_indices(key) else self.batch_size

    @property
    def keys(self):
        """The list of what the sampler gave for each batch of the latest epoch; empty if it cannot be known."""
        return self.order.keys if self.can_skip else []

    def load_batch(self, epoch, number, first, indices):
        """Return the batch of the samples at `indices`, loaded in this process; it needs `can_skip`.

        They get the random numbers of samples number `first`, `first + 1`, ... of batch `number` of the epoch.
        """
        return next(self.unpack(self._load_here([(epoch, number, first, indices)])))

    def _load_here(self, keys):
        """Return an iterator over what `iter(self.loader)` yields without workers; it takes less time."""
        dataset, is_batch = self.loader.dataset, self.loader.batch_sampler is None
        return map(self.loader.collate_fn, map(dataset.__getitem__ if is_batch else dataset.__getitems__, keys))

    def _replay(self, epoch):
        """Yield all batches of an epoch of a loader that cannot skip any; each is seeded before it is loaded."""
        seed_all(self.seed, epoch, 0, ORDER, self.generators)
        if getattr(self.loader, "persistent_workers", False):  # workers that persist have drawn random numbers already
            self.loader = rebuilt(self.loader)
        batches, length = iter(self.loader), len(self.loader)
        for number in itertools.count():
            seed_all(self.seed, epoch, number, LOADER)
            batch = next(batches, END)
            if batch is END or number == length:
                check_length(number + (batch is not END), length)
                return
            yield batch

    def _shards(self, batches, start):
        for number, batch in enumerate(batches, start):
            if self.can_skip and has_sample_indices(self.order.keys[number]):  # loaded as a shard already
                first, end = processes.shard_of(len(self.order.keys[number]))
                yield batch if first < end else SizedBatch(batch, 0)
            else:
                yield shard_of_batch(batch, self.batch_size)

    @staticmethod
    def check_replay(done, changed_params):
        """Log that `done` batches are replayed.

        Raises:
            UserError: `num_workers` is among `changed_params` (name -> [then, now]), which changes the batches.
        """
        if "num_workers" in changed_params:
            raise UserError(
                f"num_workers: a data loader that is not a plain DataLoader cannot resume in the middle of an epoch "
                f"with another number of workers; put back {changed_params['num_workers'][0]} until the epoch is over"
            )
        logging.info("The data loader is not a plain DataLoader: replaying the %d batches of this epoch so far", done)


def rebuilt(loader, dataset=None, order=None):
    """Return a new DataLoader with the options of `loader`, for `dataset` in the order of the sampler `order`.

    By default it has the dataset and the sampler of `loader`; only its persistent workers are new.
    """
    parameters = inspect.signature(DataLoader).parameters
    options = {name: getattr(loader, name, p.default) for name, p in parameters.items() if name not in SAMPLING}
    options = {name: value for name, value in options.items() if value != parameters[name].default}
    sampling = {"batch_sampler": order or loader.batch_sampler}
    if loader.batch_sampler is None:
        sampling = {"sampler": order or loader.sampler, "batch_size": None}
    if isinstance(dataset or loader.dataset, IterableDataset):  # which takes no sampler
        sampling = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    return DataLoader(loader.dataset if dataset is None else dataset, **sampling, **options)


class Batches:
    """An iterator over the batches of an epoch; `expected_size` is a function for `device_batches`."""

    def __init__(self, batches, expected_size):
        self.batches, self.expected_size = iter(batches), expected_size

    def __iter__(self):
        return self.batches

    def __next__(self):
        return next(self.batches)


@functools.cache  # log it only once
def check_length(found, length):
    """Log a warning if a data loader gives another number of batches than its length; any beyond it are left out."""
    if found < length:
        logging.warning("The data loader gave %d batches, but its length is %d; correct its __len__", found, length)
    elif found > length:
        logging.warning("The data loader gave more batches than its length, which is %d; an epoch ends there", length)


def has_sample_indices(key):
    """Return True if a sampler's key is the indices of a batch's samples, so that a shard of it can be taken."""
    return isinstance(key, list) or (isinstance(key, torch.Tensor | np.ndarray) and key.ndim == 1)


class EpochOrder:
    """A sampler that yields (epoch, number, first, indices) for each batch of the epoch that was drawn last.

    `indices` are this rank's shard of the batch; `first` is the place of the first of them in the whole batch. The
    attribute `keys` lists what the wrapped sampler gives for each batch.
    """

    def __init__(self, sampler, seed):
        self.sampler, self.seed = sampler, seed
        self.generators = generators_of(sampler)
        self.epoch, self.start, self.keys = 0, 0, []

    def draw(self, epoch, start, join_last):
        """Draw the order of an epoch, to be yielded from number `start` on; see `ResumableBatches.batches`."""
        self.epoch, self.start = epoch, start
        seed_all(self.seed, epoch, 0, ORDER, self.generators)
        for sampler in (self.sampler, getattr(self.sampler, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        length = len(self.sampler)  # all at once: the sampler's draws must not mix with those of the training steps
        self.keys = list(itertools.islice(self.sampler, length + 1))
        check_length(len(self.keys), length)
        del self.keys[length:]
        last = self.keys[-2:]
        if join_last and len(last) == 2 and all(map(has_sample_indices, last)) and len(last[1]) == 1 < len(last[0]):
            joined = last[0] + last[1] if isinstance(last[0], list) else tree_cat(list(map(torch.as_tensor, last)))
            self.keys[-2:] = [joined]

    def __iter__(self):
        firsts, keys = itertools.repeat(0), self.keys[self.start :]
        if processes.world_size() > 1:
            firsts, keys = zip(*map(shard_of_key, keys), strict=True) if keys else ((), ())
        return zip(itertools.repeat(self.epoch), itertools.count(self.start), firsts, keys)

    def __len__(self):
        return len(self.sampler)


def shard_of_key(key):
    """Return (first, indices): this rank's shard of a sampler's key, which starts at place `first` of the batch."""
    if not has_sample_indices(key):
        return 0, key
    first, end = processes.shard_of(len(key))
    return first, key[first:end] if first < end else key[:1]


class SeededDataset(Dataset):
    """A dataset that seeds all random generators before each item or batch, in whichever process loads it."""

    OWN = ("dataset", "seed", "generators", "process")  # all other attributes are those of the dataset

    def __init__(self, dataset, seed):
        self.dataset, self.seed = dataset, seed
        self.generators, self.process = [], None

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key, load=None):
        epoch, number, first, index = key
        if self.process != os.getpid():  # a worker process has its own copy of the generators
            self.generators, self.process = generators_of(self.dataset), os.getpid()
        seed_all(self.seed, epoch, number, LOADER, self.generators, first)
        return self.dataset[index] if load is None else load(index)  # with batch_size=None, an item is a whole batch

    def __getitems__(self, key):
        load = getattr(self.dataset, "__getitems__", None)
        if callable(load):
            return self.__getitem__(key, load)
        epoch, number, first, indices = key
        return [self[epoch, number, place, index] for place, index in enumerate(indices, first)]

    def __getattr__(self, name):  # a worker_init_fn reads and sets attributes of the dataset
        if name.startswith("__") or "dataset" not in vars(self):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name, value):
        if name in self.OWN:
            self.__dict__[name] = value
        else:
            setattr(self.dataset, name, value)


class UnpackedBatches:
    """A data loader whose batches go through the task's `unpack_batch(batch) -> (inputs, labels)`."""

    def __init__(self, dataloader, unpack_batch):
        self.dataloader, self.unpack_batch = dataloader, unpack_batch

    def __iter__(self):
        return self.unpack(self.dataloader)

    def __len__(self):
        return len(self.dataloader)

    @property
    def dataset(self):
        return self.dataloader.dataset

    def unpack(self, batches):
        """Yield `unpack_batch(batch)` for each of `batches`."""
        for batch in batches:
            found = self.unpack_batch(batch)
            if is_pair(found):
                yield found
            elif isinstance(found, tuple | list) and len(found) == 3 and isinstance(found[2], int):
                yield SizedBatch(found[:2], found[2])
            else:
                expected = "(inputs, labels), or (inputs, labels, number of samples)"
                raise UserError(f"unpack_batch(batch) returned {describe(found)}; it should return {expected}")
