"""A dataset's folder: what a build script is told of it, whether it is there already, and that it appears whole."""

import contextlib
import logging
import shutil
import tempfile
import time
from pathlib import Path

from toolkit.core.image_dataset import read_facts
from toolkit.core.script import add_quiet_argument
from utils import UserError

STALE_SECONDS = 24 * 3600  # after which what an interrupted build left behind is removed


def add_build_arguments(parser):
    """Add the arguments that all build scripts have."""
    parser.add_argument("--name", help="name of the dataset under data/ (default: that of what it is made from)")
    parser.add_argument("--seed", type=int, default=230, help="seed of what is random (default: 230)")
    parser.add_argument("--force", action="store_true", help="replace a dataset of that name")
    add_quiet_argument(parser)


def target_of(args, parent, default):
    """The folder of the dataset to build: in `parent`, called `args.name`, or `default` where that is None.

    Raises:
        UserError: it is no name, or the seed is none.
    """
    name = args.name or default
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name}: should be the name of a folder under data/, without slashes")
    if args.seed < 0:
        raise UserError("--seed: should be 0 or more")
    target = parent / name
    return target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target  # as it is told of


def is_there(target, source, force, fingerprint=None):
    """Whether the dataset that is to be built is at `target` already.

    Args:
        target: path of its folder.
        source: dict, what it is made from and how: "source" in its dataset.json.
        force: whether it is to be built anyway.
        fingerprint: by which the one that is there is recognised; None: by `source`.

    Raises:
        UserError: something else is there: not a dataset, or another one and not `force`.
    """
    if not target.exists():
        return False
    facts = read_facts(target)
    theirs = facts.get("source")
    if not isinstance(theirs, dict):  # it may be somebody's only copy of the data
        raise UserError(f"{target}: is there and was not made by build_dataset.py; choose another --name")
    if force:
        return False
    if facts.get("fingerprint") != fingerprint if fingerprint else theirs != source:
        names = [name for name in source if theirs.get(name) != source[name] and name != "inventory"]
        changed = "; ".join(f"{name} {theirs.get(name)}, now {source[name]}" for name in names)
        reason = changed or "the files were changed since"
        raise UserError(f"{target}: holds another dataset ({reason}); --force replaces it")
    logging.info("%s is there already, made from the same source: nothing to do", target)
    return True


@contextlib.contextmanager
def whole_folder(target):
    """Fill a folder aside; when that is done it is renamed to `target`, and replaces what is there.

    Args:
        target: path of the folder.

    Yields:
        The path of the folder to fill. Where that fails nothing is left, and what was at `target` stays.

    Raises:
        UserError: it cannot be written.
    """
    parent_is_new, aside = not target.parent.exists(), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
        (aside / "new").mkdir()
        yield aside / "new"
        if target.exists():
            target.rename(aside / "old")
        try:
            (aside / "new").rename(target)
        except OSError:  # unless another process has built the same in the meantime
            if not target.exists() or read_facts(target) != read_facts(aside / "new"):
                raise
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None:
            if not target.exists() and (aside / "old").exists():
                (aside / "old").rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        if parent_is_new and not target.exists():
            with contextlib.suppress(OSError):
                target.parent.rmdir()


def remove_stale(target):
    """Remove what builds of `target` that were killed have left behind."""
    for left in target.parent.glob(f".{target.name}.building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
