"""Find the samples of an evaluation again in their dataset: their places, names and inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Subset

from toolkit.core.resumable_batches import is_divisible, resumable_batches


def places_in_dataset(dataloader, seed, count):
    """Return the indices in the dataset of the `count` samples of an evaluation, in its order, as an int64 array.

    Return None if they are not known: the loader is not a plain DataLoader, or its sampler gives no indices.
    """
    order = resumable_batches(dataloader, seed)  # the same object that the evaluation has used
    keys = order.sampler.order if order.can_skip else []
    if not keys or not all(map(is_divisible, keys)):
        return None
    places = np.concatenate([torch.as_tensor(key).cpu().numpy() for key in keys])
    return places if len(places) == count else None


def names_of(dataset):
    """Return the names of a dataset's samples, its attribute `items` or CS230's `filenames`; None if it has none."""
    if isinstance(dataset, Subset):
        names = names_of(dataset.dataset)
        return None if names is None else [names[index] for index in dataset.indices]
    names = getattr(dataset, "items", getattr(dataset, "filenames", None))
    # an attribute of that name may be something else, such as a method
    return names if isinstance(names, Sequence | np.ndarray) and len(names) == len(dataset) else None


def inputs_at(dataloader, seed, positions):
    """Yield the inputs of the samples at `positions` of an evaluation, each as a batch of one, loaded as they were then.

    Only for dataloaders whose `places_in_dataset` are known.
    """
    order = resumable_batches(dataloader, seed)
    ends = np.cumsum([len(key) for key in order.sampler.order])
    for position in positions:
        number = int(np.searchsorted(ends, position, side="right"))
        key = order.sampler.order[number]
        first = int(position - ends[number]) + len(key)
        yield load_batch(order, (0, number, first, key[first : first + 1]))[0]


def load_batch(order, key):
    """Return the batch (inputs, labels) of a sampler key (epoch, number, first, indices)."""
    loader = order.seeded
    load = loader.dataset.__getitem__ if loader.batch_sampler is None else loader.dataset.__getitems__
    batch = loader.collate_fn(load(key))
    return order.unpack_batch(batch) if order.unpack_batch is not None else batch
