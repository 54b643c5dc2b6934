"""CS230's form of a text project: a class `DataLoader` with `load_data` and `data_iterator`, not `fetch_dataloader`."""

import copy
import functools

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from toolkit.trees import describe
from utils import UserError


def fetch_from_iterators(loader_class, file, types, data_dir, params):
    """What `fetch_dataloader(types, data_dir, params)` of a project would give that has `loader_class` in its place.

    Args:
        loader_class: made with (data_dir, params), has `load_data(types, data_dir)`, which gives a dict from split to a
            dict with "size", the number of its samples, and lists of as many things; and
            `data_iterator(data, params, shuffle)`, which yields batches of one of these.
        file: where it stands, for messages.
        types, data_dir, params: as for `fetch_dataloader`.

    Raises:
        UserError: a split has no size.
    """
    loader, dataloaders = loader_class(data_dir, params), {}
    for split, data in loader.load_data(types, data_dir).items():
        if not isinstance(data, dict) or not isinstance(data.get("size"), int):
            raise UserError(f'{file}: load_data should give {split!r} as a dict with "size", not {describe(data)}')
        batches = IteratorBatches(loader, data, params)
        sampler = RandomSampler(batches) if split == "train" and len(batches) else SequentialSampler(batches)
        sampler = BatchSampler(sampler, params.batch_size, drop_last=False)
        dataloaders[split] = DataLoader(batches, sampler=sampler, batch_size=None)
    return dataloaders


class IteratorBatches(Dataset):
    """The batches that a `data_iterator` makes, each asked for by the indices of its samples.

    As it stands in CS230's template, it shuffles alike in each epoch and leaves the last batch out. So it is never
    given a whole split, but one batch of samples at a time, in an order that is not its own.
    """

    def __init__(self, loader, data, params):
        self.loader, self.data, self.params = loader, data, params

    def __len__(self):
        return self.data["size"]

    def __getitem__(self, indices):
        """The batch of the samples at `indices`, a list of int."""
        part = {name: self._chosen(value, indices) for name, value in self.data.items()} | {"size": len(indices)}
        return next(iter(self.loader.data_iterator(part, self._params_of(len(indices)), shuffle=False)))

    def _chosen(self, value, indices):
        if not isinstance(value, list | tuple | np.ndarray | torch.Tensor) or len(value) != len(self):
            return value
        return [value[i] for i in indices] if isinstance(value, list | tuple) else value[indices]

    @functools.cache  # noqa: B019 (there are two sizes, and the data set lives as long as the process)
    def _params_of(self, batch_size):
        params = copy.copy(self.params)
        vars(params)["_values"] = self.params.values | {"batch_size": batch_size}
        return params
