"""The code of `model/` that a run was trained with: kept in its checkpoints, and compared before these are used."""

import ast
import difflib
import logging
import os
import sys

from toolkit.core.provenance import file_of_code, files_of_code
from utils import UserError


def code_of(params):
    """Return the source of the imported files in `model/` and beside it, a dict from name to text; {} if unknown."""
    project = getattr(params, "model_folder", None)  # a notebook may not set it
    sources, script = {}, os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or os.devnull)
    for name in files_of_code(os.path.abspath(project)) if project else ():
        file = file_of_code(name, project)
        if name.startswith("model/") and os.path.realpath(file) != script:
            sources[name] = file.read_text(encoding="utf-8", errors="replace")
    return sources


def refuse_changed_code(theirs, params, file, accept):
    """Refuse a checkpoint of a run whose code differs from today's; comments, docstrings and formatting do not count.

    Args:
        theirs: `code_of` when the checkpoint was written; files that are not among today's do not count either.
        params: hyperparameters.
        file: the checkpoint, for the message.
        accept: bool, log the changes instead.

    Raises:
        UserError: the code has changed.
    """
    ours = code_of(params)
    changes = [
        f"{name}: {change}" for name in theirs if name in ours and (change := change_of(theirs[name], ours[name]))
    ]
    if changes and not accept:
        raise UserError(
            f"{file}: was trained with other code: {'; '.join(changes)}. Undo the change, or accept it with "
            f"--accept_code_changes; train.py --restart starts over"
        )
    for change in changes:
        logging.warning("The code has changed since %s was written: %s", file, change)


def change_of(old, new):
    """Return the first difference between two sources, as text, and the number of the others; None without any."""
    if old == new:
        return None
    lines = list(difflib.unified_diff(plain_code(old), plain_code(new), n=0, lineterm=""))[2:]
    removed, added = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    if not removed and not added:
        return None
    others = max(len(removed), len(added)) - 1
    text = f"{removed[0]!r} is now {added[0]!r}" if removed and added else f"{(removed or added)[0]!r} was "
    text += "" if removed and added else "removed" if removed else "added"
    return text + (f" (and {others} more line{'s' * (others > 1)})" if others else "")


def plain_code(source):
    """Return the lines of a source as Python writes them itself, without comments and docstrings."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # of another version of Python
        return source.splitlines()
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.unparse(tree).splitlines()
