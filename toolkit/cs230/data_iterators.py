"""CS230's form of a text project: a class `DataLoader` with `load_data` and `data_iterator`, no `fetch_dataloader`."""

import copy
import numbers

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from toolkit.core.trees import describe, tensors
from utils import UserError


def fetch_from_iterators(loader_class, file, types, data_dir, params):
    """Return what `fetch_dataloader(types, data_dir, params)` would, for a project that has `loader_class` instead.

    Args:
        loader_class: called with (data_dir, params). It has `load_data(types, data_dir)`, which returns a dict from
            split to a dict with "size", the number of samples, and lists of that length; and
            `data_iterator(data, params, shuffle)`, which yields batches of `params.batch_size` samples of one split.
        file: the file of the class, for messages.
        types, data_dir, params: as for `fetch_dataloader`.

    Raises:
        UserError: a split has no size.
    """
    loader, dataloaders = loader_class(data_dir, params), {}
    for split, data in loader.load_data(types, data_dir).items():
        if not isinstance(data, dict) or not isinstance(data.get("size"), numbers.Integral):
            raise UserError(f'{file}: load_data should return {split!r} as a dict with "size", not {describe(data)}')
        batches = IteratorBatches(loader, data, params, file)
        order = RandomSampler(batches) if split == "train" and len(batches) else SequentialSampler(batches)
        sampler = BatchSampler(order, params.batch_size, drop_last=False)
        dataloaders[split] = DataLoader(batches, sampler=sampler, batch_size=None)
    return dataloaders


class IteratorBatches(Dataset):
    """The batches of a `data_iterator`, each requested by the indices of its samples.

    CS230's iterator shuffles in the same way in each epoch and drops the last batch. So it is never given a whole
    split, but the samples of one batch at a time, in an order that is decided here.
    """

    def __init__(self, loader, data, params, file):
        self.loader, self.data, self.params, self.file = loader, data, params, file

    def __len__(self):
        return int(self.data["size"])

    def __getitem__(self, indices):
        """Return the batch of the samples at `indices`, a list of int.

        Raises:
            UserError: data_iterator yields no batch, several, or one with fewer samples.
        """
        count = len(indices)
        part = {name: self._chosen(name, value, indices) for name, value in self.data.items()} | {"size": count}
        params = copy.copy(self.params)
        vars(params)["values"] = self.params.values | {"batch_size": count}
        batches = iter(self.loader.data_iterator(part, params, False))
        batch = next(batches, None)
        sizes = [tensor.shape for tensor in tensors(batch)[:1] if count not in tensor.shape]
        too_small = any(size and size[0] < count for size in sizes)  # larger: concatenated words
        # given a single sample, CS230's iterator yields further, empty batches
        if batch is None or too_small or (count > 1 and next(batches, None) is not None):
            raise UserError(
                f"{self.file}: data_iterator should yield one batch of the {count} samples that it was given; let it "
                f"read the batch size from the params that it is called with: params.batch_size"
            )
        return batch

    def _chosen(self, name, value, indices):
        """Return the part of an entry of the split that belongs to the samples at `indices`."""
        if isinstance(value, dict):
            return {key: self._chosen(f"{name}/{key}", part, indices) for key, part in value.items()}
        if not hasattr(value, "__len__") or isinstance(value, str) or len(value) != len(self):
            return value
        if isinstance(value, list | tuple):
            return [value[i] for i in indices]
        if isinstance(value, np.ndarray | torch.Tensor):
            return value[indices]
        expected = "it should be a list, array or tensor"
        raise UserError(f"{self.file}: load_data returned {name} as {describe(value)}; {expected}")
