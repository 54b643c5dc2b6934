"""The data: `fetch_dataloader` gives batches of (inputs, labels), rows of a table of numbers."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from toolkit.folds import fold_of
from utils import UserError


def fetch_dataloader(types, data_dir, params):
    """The data loaders of the splits in `types`.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder that build_dataset.py made.
        params: hyperparameters and facts of the dataset.

    Returns:
        dict from split to a DataLoader of (inputs, labels): float (B, num_inputs) and (B,). Where `params.batch_size`
        is None a batch is the whole split.
    """
    dataloaders = {}
    for split in types:
        table = load_split(data_dir, split, params)
        dataset = TensorDataset(table[:, :-1], table[:, -1])
        if split == "train":
            order = RandomSampler(dataset, num_samples=params.passes_per_epoch * len(dataset))
        else:
            order = SequentialSampler(dataset)
        batches = BatchSampler(order, params.batch_size or len(dataset), drop_last=False)
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=params.cuda)
    return dataloaders


def load_split(data_dir, split, params):
    """A split's table, float32 (N, num_inputs + 1), the target last; of cross-validation, this fold's part of it."""
    if split == "test" or not params.num_folds:
        return read_table(data_dir, split, params)
    table = torch.cat([read_table(data_dir, part, params) for part in ("train", "val")])  # (N, num_inputs + 1)
    return table[fold_of(table, None, params.num_folds, params.fold)[split]]


def read_table(data_dir, split, params):
    """The table in `<split>.csv`, float32 (N, num_inputs + 1).

    Raises:
        UserError: it is missing, or not as build_dataset.py wrote it.
    """
    file = Path(data_dir) / f"{split}.csv"
    try:
        table = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}; build it again with --force") from None
    if digest(table) != params.counts[split]["sha256"]:
        raise UserError(f"{file}: not what dataset.json says, changed by hand; build it again with --force")
    return torch.from_numpy(table).float()


def digest(table):
    """The SHA-256 of a table's numbers, float64 (N, columns), and of its shape, in hexadecimal."""
    return hashlib.sha256(str(table.shape).encode() + np.ascontiguousarray(table).tobytes()).hexdigest()
