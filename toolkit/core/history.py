"""The results of all epochs of a run, a list of rows (dicts of numbers): as a checkpoint holds them, and as a file."""

import itertools

import torch


def packed(rows):
    """Return rows as a checkpoint holds them: a dict for each block of consecutive rows with the same columns.

    Each has "columns", a list of names, and "values", float64 (epochs, columns).
    """
    return [
        {"columns": list(columns), "values": torch.tensor([list(row.values()) for row in block], dtype=torch.float64)}
        for columns, block in itertools.groupby(rows, key=tuple)
    ]


def unpacked(blocks):
    """Return the rows that `packed` has packed; ValueError if they are more than what is in the tensors."""
    if not all(isinstance(block, dict) and block["values"].is_contiguous() for block in blocks):
        raise ValueError("history: values that are repeated, or no blocks")
    rows = [dict(zip(b["columns"], values, strict=True)) for b in blocks for values in b["values"].tolist()]
    return [row | {"epoch": int(row["epoch"])} for row in rows]
