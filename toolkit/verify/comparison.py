"""Compare two runs bit by bit: nested structures such as checkpoints, and the rows of history.csv."""

import csv
import math

import torch

from utils import UserError


def first_difference(one, other, path=""):
    """Return the path of the first value that differs between two nested dicts, lists and tuples; None if none does."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = list(zip(range(len(one)), one, other, strict=True))
    else:
        return None if same(one, other) else path or "the value"
    found = (first_difference(value, other_value, f"{path}/{key}".strip("/")) for key, value, other_value in parts)
    return next((difference for difference in found if difference is not None), None)


def same(one, other):
    """Return True if two values are identical bit by bit; NaN equals NaN.

    `torch.testing.assert_close` would not do: it takes 0.0 and -0.0 for equal, and it refuses strings.
    """
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        bits = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
    return type(one) is type(other) and (one == other or (one != one and other != other))


def differing_numbers(rows, other_rows):
    """Return the numbers that differ between two histories, a list of (text, value, other value).

    They are in the order of epochs, and within an epoch the metrics come before learning rate and so on.
    """
    found = []
    for row, other_row in zip(rows, other_rows, strict=False):
        for name in sorted(row, key=lambda name: not name.startswith(("train_", "val_"))):
            value, other = row[name], other_row.get(name, math.nan)
            if not same(value, other):
                found.append((f"{name} of epoch {row['epoch']:g} is {value} and {other}", value, other))
    return found


def read_history(folder):
    """Return the rows of an experiment's history.csv as a list of dicts from column to float (NaN if empty)."""
    try:
        with open(folder / "history.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            return [{name: float(value) if value else math.nan for name, value in row.items()} for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'history.csv'}: cannot be read: {error}") from None
