"""The folder of a dataset, for all build scripts: arguments, check for an earlier build, all-or-nothing writing."""

import contextlib
import hashlib
import logging
import tempfile
from pathlib import Path

from toolkit.core.image_dataset import read_facts
from toolkit.core.lock import remove_leftovers
from toolkit.core.script import add_quiet_argument
from toolkit.core.text import in_utf8
from utils import UserError, ending_of_unfinished


def add_build_arguments(parser):
    """Add the arguments that all build scripts share."""
    parser.add_argument("--name", help="name of the dataset under data/ (default: name of its source)")
    parser.add_argument("--seed", type=int, default=230, help="random seed (default: 230)")
    parser.add_argument("--force", action="store_true", help="replace an existing dataset of that name")
    add_quiet_argument(parser)


def target_folder(args, parent, default):
    """Return the folder to build below `parent`, named `args.name` or else `default`, after checking name and seed."""
    name = args.name or in_utf8(default)
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name}: give the name of a folder under data/, without slashes or a leading dot")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; give 0 or more")
    target = parent / name
    return target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target  # as messages show it


def already_built(target, source, force, fingerprint=None):
    """Return True if the folder `target` already holds the dataset to build, False if it should be built.

    Compared are the fingerprints if that of the dataset to build is known, otherwise the dict `source` ("source" in
    dataset.json: the source and the options of the build). Raises UserError if `target` is not a dataset, or another
    one and `force`, which allows to replace it, is not set.
    """
    if not target.exists():
        return False
    facts = read_facts(target)
    existing = facts.get("source")
    if not isinstance(existing, dict):  # it may be the user's only copy of the data
        raise UserError(f"{target}: exists and was not made by build_dataset.py; choose another --name")
    if force:
        return False
    if facts.get("fingerprint") != fingerprint if fingerprint else existing != source:
        names = [name for name in source if existing.get(name) != source[name] and name != "inventory"]
        changes = "; ".join(f"{name} was {existing.get(name)}, is now {source[name]}" for name in names)
        reason = changes or "the source files have changed"
        raise UserError(f"{target}: already holds another dataset ({reason}); --force replaces it")
    logging.info("%s was already built from the same source: nothing to do", target)
    return True


def short_name(name, longest):
    """Return a file name of at most `longest` bytes in UTF-8; a name that is longer is cut and gets its checksum."""
    content = name.encode()
    if len(content) <= longest:
        return name
    return f"{content[: longest - 17].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:16]}"


@contextlib.contextmanager
def write_folder(target):
    """Yield a temporary folder to fill; on success it replaces `target`, on failure `target` stays unchanged."""
    place = next(folder for folder in target.absolute().parents if folder.is_dir())
    remove_leftovers(place, ".*.building-*.tmp")
    names = {"prefix": f".{short_name(target.name, 100)}.building-", "suffix": ending_of_unfinished()}
    try:
        with tempfile.TemporaryDirectory(**names, dir=place, ignore_cleanup_errors=True) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            yield new
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:  # another process may have built the same dataset in the meantime
                if not target.exists() or read_facts(target) != read_facts(new):
                    raise
            finally:
                if old.exists() and not target.exists():
                    old.rename(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
