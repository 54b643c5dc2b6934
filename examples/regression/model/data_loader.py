"""The data: batches of (inputs, labels), rows of a table of numbers."""

import csv
import hashlib
import math
import re
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, TensorDataset

import utils
from toolkit.core.folds import fold_of
from toolkit.core.image_dataset import read_facts
from utils import UserError

NUMBER = re.compile(r"[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*")


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    batch_size: int | None = Field(  # type: ignore[assignment]  # elsewhere it is never None
        None, ge=1, description="rows per optimizer step; null: the whole split"
    )
    passes_per_epoch: int = Field(1, ge=1, description="passes over the train split that make one epoch")
    num_folds: int = Field(0, ge=0, le=1000, description="cross-validation: folds that train and val are divided into")
    fold: int = Field(0, ge=0, description="cross-validation: the fold that is val, from 0; the others are train")


def fetch_dataloader(types, data_dir, params):
    """Return the data loaders of the splits in `types`.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder, made by build_dataset.py beside this folder.
        params: hyperparameters; they get the defaults of this file, and the facts of the dataset.

    Returns:
        dict from split to a DataLoader of (inputs, labels): float64 (B, num_inputs) and (B,), float32 on Apple's GPUs.
        If `params.batch_size` is None, a batch is the whole split.
    """
    params.declare(Hyperparameters)
    params.add_facts(read_facts(data_dir), source=f"{data_dir}/dataset.json")
    pinned, dataloaders = getattr(params, "cuda", False), {}  # pinned memory: for fast copies to the GPU
    for split in types:
        table = load_split(data_dir, split, params)
        dataset = TensorDataset(table[:, :-1], table[:, -1])
        order: Sampler = SequentialSampler(dataset)
        if split == "train":
            order = RandomSampler(dataset, num_samples=params.passes_per_epoch * len(dataset))
        batches = BatchSampler(order, params.batch_size or len(dataset), drop_last=False)
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)
    return dataloaders


def load_split(data_dir, split, params):
    """Return the table of a split, or of its fold, float (N, num_inputs + 1); the target is the last column."""
    if split == "test" or not params.num_folds:
        return read_table(data_dir, split, params)
    table = torch.cat([read_table(data_dir, part, params) for part in ("train", "val")])  # (N, num_inputs + 1)
    return table[fold_of(table, None, params.num_folds, params.fold)[split]]


def read_table(data_dir, split, params):
    """Return the table in `<split>.csv`, float (N, num_inputs + 1).

    Raises:
        UserError: it is missing, or was changed since build_dataset.py wrote it.
    """
    file = Path(data_dir) / f"{split}.csv"
    try:
        table = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}; build it again with --force") from None
    if digest(table) != params.counts[split]["sha256"]:
        raise UserError(f"{file}: not what dataset.json says, changed by hand; build it again with --force")
    return torch.from_numpy(table).to(precise(params))


def precise(params):
    """Return the dtype of numbers before they are standardised: float32 would lose what varies little around 1e9.

    Apple's GPUs have no float64.
    """
    return torch.float32 if "mps" in str(getattr(params, "device", "")) else torch.float64


def digest(table):
    """Return the SHA-256 of a table's numbers, float64 (N, columns), and of its shape, in hexadecimal."""
    return hashlib.sha256(str(table.shape).encode() + np.ascontiguousarray(table).tobytes()).hexdigest()


def read_items(files, params):
    """Read new rows for predict.py from csv files whose header names the inputs; further columns are ignored.

    Returns:
        (names, batches): names of the rows, "<file>:<line>", and batches of inputs, float (B, num_inputs), in order.

    Raises:
        UserError: a file cannot be read, a column is missing, or a cell is not a number.
    """
    rows = {f"{file}:{line}": row for file in files for line, row in read_columns(file, params.input_names)}
    if not rows:
        raise UserError("no rows to predict; a csv file needs a header and, below it, rows")
    return list(rows), torch.tensor(list(rows.values()), dtype=precise(params)).split(params.batch_size or len(rows))


def read_columns(file, names):
    """Return the numbers in the columns `names` of a csv file: a list of (line in the file, list of float).

    Raises:
        UserError: a column is missing or occurs twice; a cell is not a number.
    """
    header, rows = read_csv(file)
    for name in names:
        if header.count(name) != 1:
            found = "more than one" if name in header else "no"
            raise UserError(f"{file}, line 1: there is {found} column {name!r}")
    numbers = []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{file}, line {line}: {len(row)} cells, but the header has {len(header)}")
        for name, cell in zip(header, row, strict=True):
            if name in names and not is_number(cell):
                raise UserError(f"{file}, line {line}: not a number in column {name}: {cell!r}")
        numbers.append((line, [float(row[header.index(name)]) for name in names]))
    return numbers


def read_csv(file):
    """Return the header of a csv file, a list of str, and the other rows, a list of (line in the file, list of str)."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:  # not str.splitlines, which also ends them in cells
            reader = csv.reader(lines, skipinitialspace=True)
            table = next(reader, []), [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read: {error}; it should be a table as text, in UTF-8") from None
    if any("\0" in cell for cell in table[0]):
        raise UserError(f"{file}: has bytes of 0, as UTF-16 and files that are no text have; save it as UTF-8")
    return table


def is_number(text):
    """Return True if a cell is a finite decimal number: float() also takes 5_6, nan and digits of other scripts."""
    return NUMBER.fullmatch(text) is not None and math.isfinite(float(text))
