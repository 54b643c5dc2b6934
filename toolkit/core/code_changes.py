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
    project = getattr(params, "model_folder", None)
    if not project:  # a notebook may not set it
        return {}
    script = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or os.devnull)
    names = [name for name in files_of_code(os.path.abspath(project)) if name.startswith("model/")]
    files = {name: file_of_code(name, project) for name in names}
    sources = {name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items()}
    return {name: source for name, source in sources.items() if os.path.realpath(files[name]) != script}


def refuse_changed_code(theirs, params, file, accept):
    """Raise UserError if the code has changed since the checkpoint `file` was written; with `accept`, only log it.

    `theirs` is what `code_of` returned then. Comments, docstrings, formatting and files that are not imported today do
    not count.
    """
    ours = code_of(params)
    differ = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    changes = {name: change_of(theirs[name], ours[name]) for name in differ}
    text = "; ".join(f"{name}: {change}" for name, change in changes.items() if change)
    if text and not accept:
        raise UserError(
            f"{file}: was trained with other code: {text}. Undo the change, or accept it with --accept_code_changes; "
            f"train.py --restart starts over"
        )
    if text:
        logging.warning("The code has changed since %s was written: %s", file, text)


def change_of(old, new):
    """Return the first difference between two sources and how many more there are, as text; None if there is none."""
    lines = list(difflib.unified_diff(plain_code(old), plain_code(new), n=0, lineterm=""))[2:]  # without its header
    if not lines:
        return None
    removed, added = ([repr(line[1:].strip()) for line in lines if line.startswith(sign)] for sign in "-+")
    others = len(removed) + len(added) - 1 - bool(removed and added)
    more = f" (and {others} more line{'s' * (others > 1)})" if others > 0 else ""
    if removed and added:
        return f"{removed[0]} is now {added[0]}{more}"
    return f"{removed[0]} was removed{more}" if removed else f"{added[0]} was added{more}"


def plain_code(source):
    """Return the lines of a source in the format of `ast.unparse`, without comments and docstrings."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # of another version of Python
        return source.splitlines()
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.unparse(tree).splitlines()
