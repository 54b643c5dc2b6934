"""CS230's form of a text project: a class `DataLoader` with `load_data` and `data_iterator`, not `fetch_dataloader`."""

import copy
import functools
import numbers

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from toolkit.core.trees import describe, tensors
from utils import UserError


def fetch_from_iterators(loader_class, file, types, data_dir, params):
    """What `fetch_dataloader(types, data_dir, params)` of a project would give that has `loader_class` in its place.

    Args:
        loader_class: made with (data_dir, params), has `load_data(types, data_dir)`, which gives a dict from split to a
            dict with "size", the number of its samples, and lists of as many things; and
            `data_iterator(data, params, shuffle)`, which yields batches of `params.batch_size` of one of these.
        file: where it stands, for messages.
        types, data_dir, params: as for `fetch_dataloader`.

    Raises:
        UserError: a split has no size.
    """
    loader, dataloaders = loader_class(data_dir, params), {}
    for split, data in loader.load_data(types, data_dir).items():
        if not isinstance(data, dict) or not isinstance(data.get("size"), numbers.Integral):
            raise UserError(f'{file}: load_data should give {split!r} as a dict with "size", not {describe(data)}')
        batches = IteratorBatches(loader, data, params, file)
        order = RandomSampler(batches) if split == "train" and len(batches) else SequentialSampler(batches)
        sampler = BatchSampler(order, params.batch_size, drop_last=False)
        dataloaders[split] = DataLoader(batches, sampler=sampler, batch_size=None)
    return dataloaders


class IteratorBatches(Dataset):
    """The batches that a `data_iterator` makes, each asked for by the indices of its samples.

    As it stands in CS230's template, it shuffles alike in each epoch and leaves the last batch out. So it is never
    given a whole split, but one batch of samples at a time, in an order that is not its own.
    """

    def __init__(self, loader, data, params, file):
        self.loader, self.data, self.params, self.file = loader, data, params, file

    def __len__(self):
        return int(self.data["size"])

    def __getitem__(self, indices):
        """The batch of the samples at `indices`, a list of int.

        Raises:
            UserError: data_iterator gives none, several, or one of fewer samples.
        """
        count = len(indices)
        part = {name: self._chosen(name, value, indices) for name, value in self.data.items()} | {"size": count}
        batches = iter(self.loader.data_iterator(part, self._params_of(count), False))
        batch = next(batches, None)
        sizes = [tensor.shape for tensor in tensors(batch)[:1] if count not in tensor.shape]
        too_small = any(size and size[0] < count for size in sizes)  # it may be words, end to end: more than samples
        if batch is None or too_small or (count > 1 and next(batches, None) is not None):  # of one, CS230's would go on
            raise UserError(
                f"{self.file}: data_iterator, asked for a batch of {count} samples, gave no or another one; it should "
                f"take batch_size, by this name, from the params that it is given"
            )
        return batch

    def _chosen(self, name, value, indices):
        if isinstance(value, dict):
            return {key: self._chosen(f"{name}/{key}", part, indices) for key, part in value.items()}
        if not hasattr(value, "__len__") or isinstance(value, str) or len(value) != len(self):
            return value
        if isinstance(value, list | tuple):
            return [value[i] for i in indices]
        if isinstance(value, np.ndarray | torch.Tensor):
            return value[indices]
        raise UserError(
            f"{self.file}: load_data gave {name} as {describe(value)}; it should be a list, array or tensor"
        )

    @functools.cache  # noqa: B019 (there are two sizes, and the data set lives as long as the process)
    def _params_of(self, batch_size):
        params = copy.copy(self.params)
        vars(params)["_values"] = self.params.values | {"batch_size": batch_size}
        return params
