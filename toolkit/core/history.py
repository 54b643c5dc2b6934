"""The results of all epochs of a run: in its checkpoints, and as history.csv."""

import contextlib
import os
from array import array
from pathlib import Path

import torch

from toolkit.core.text import as_csv
from utils import UserError, write_whole


class History:
    """The results of all epochs, one dict of numbers each. Adding an epoch takes the same time however many there are.

    `rows`, a list of dicts, are those of earlier sessions; `file` is the path of history.csv.
    """

    def __init__(self, rows, file):
        self.rows, self.blocks = [], []  # a block: names of columns, and the values of consecutive rows that have these
        self.file, self.columns = Path(file), []  # columns: those that the file has
        self.size: int | None = None  # of the file when it was last written here; another size: someone changed it
        for row in rows:
            self.append(row)

    def append(self, row):
        """Add the results of an epoch."""
        if not self.blocks or self.blocks[-1][0] != list(row):
            self.blocks.append((list(row), array("d")))
        self.blocks[-1][1].extend(row.values())
        self.rows.append(row)

    def packed(self):
        """Return all rows as a checkpoint holds them: dicts of "columns" and "values", float64 (epochs, columns)."""
        return [
            {"columns": columns, "values": torch.frombuffer(values, dtype=torch.float64).view(-1, len(columns)).clone()}
            for columns, values in self.blocks
        ]

    def write(self):
        """Bring the csv file up to date: append the last row if all others are there, else write it completely.

        Raises:
            UserError: it cannot be written.
        """
        if self.size is None or self.size != size_of(self.file) or self.columns != list(self.rows[-1]):
            self.size = None
            write_whole(self.file, as_csv(self.rows))
            self.size = size_of(self.file)
            self.columns = list(dict.fromkeys(name for names, _ in self.blocks for name in names))
            return
        row = as_csv(self.rows[-1:]).partition("\n")[2].encode()
        try:
            with open(self.file, "ab") as file:
                file.write(row)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # remove an incomplete row
                os.truncate(self.file, self.size)
            raise UserError(f"{self.file}: cannot be written: {error.strerror}") from error
        self.size += len(row)


def unpacked(blocks):
    """Return the rows (a list of dicts) of a history that `History.packed` returned."""
    rows = [dict(zip(b["columns"], values, strict=True)) for b in blocks for values in b["values"].tolist()]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


def size_of(file):
    """Return the size of a file in bytes, or None if there is none."""
    try:
        return os.stat(file).st_size
    except OSError:
        return None
