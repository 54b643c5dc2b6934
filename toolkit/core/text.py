"""Helpers for text in tables, messages and pictures."""

import csv
import io
import json
import math
import re

from tabulate import tabulate

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")  # what a spreadsheet runs begins with one of these
NUMBER = r"[+-]?(inf|nan|\d*\.?\d+(e[+-]?\d+)?)"


def pipe_table(rows):
    """Return rows, a list of dicts with the same keys, as a Markdown pipe table.

    Floats have four digits, None is "-", and strings stay as they are, even if they look like numbers.
    """

    def as_cell(value):
        return four_digits(value) if value is None or isinstance(value, float) else printable(str(value))

    cells = [{name: as_cell(value).replace("|", "\\|") for name, value in row.items()} for row in rows]
    sides = ["left" if isinstance(value, str) else "right" for value in rows[0].values()]
    return tabulate(cells, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=sides)


def four_digits(value, sign=""):
    """Return a number with four digits after the decimal point, or "-" for None; `sign="+"` always shows the sign."""
    return "-" if value is None else f"{value:{sign}.4f}"


def shorten(text, longest):
    """Return a label for matplotlib: at most `longest` characters, cut in the middle; "$" (mathematics) is escaped."""
    text = printable(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-((longest - 1) // 2) :]}"
    return text.replace("$", r"\$")


def one_line(text, longest=160):
    """Return the first line of a message (the last line of a traceback), with at most `longest` characters."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()] or [""]
    line = printable(lines[-1] if lines[0].startswith("Traceback") else lines[0])
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def printable(text):
    """Return a text in which characters that would break a terminal or a table (control characters) are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_utf8(name):
    """Return a name as text that can be written as UTF-8; other bytes, which a file name may have, are escaped."""
    return str(name).encode(errors="backslashreplace").decode()


def list_some(names, most=3):
    """Return the first `most` of a list of names, and the number of the others, as text."""
    others = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + others


def identity(value):
    """Return a text that equal values of a hyperparameter share: 1 and 1.0 are equal, but 1, true and "1" are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return f"[{', '.join(map(identity, value))}]"
    if isinstance(value, dict):
        return str({name: identity(value[name]) for name in sorted(value)})
    return json.dumps(value)


def as_csv(rows):
    """Return the text of a CSV file with one row per dict, whose floats keep all digits; a row may lack columns.

    NaN is an empty cell, as None is. An apostrophe precedes a text that a spreadsheet would run as a formula.
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in names})
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def csv_cell(value):
    """Return a value as it is written to a CSV file. To get a text back, remove one apostrophe from its beginning."""
    if isinstance(value, str):
        is_formula = value.startswith(FORMULAS) and not re.fullmatch(NUMBER, value)
        return "'" * is_formula + in_utf8(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def as_rows(columns):
    """Return columns, a dict from name to values, as a list of dicts."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
