"""A dataset's folder that appears whole or not at all."""

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from toolkit.dataset import FACTS, read_facts
from utils import UserError

STALE_SECONDS = 24 * 3600  # after which what an interrupted build left behind is removed


@contextlib.contextmanager
def whole_folder(target):
    """Fill a folder aside; when that is done it is renamed to `target`, and replaces what is there.

    Args:
        target: path of the dataset's folder. What is filled in ends with its dataset.json.

    Yields:
        The path of the folder to fill. Where that fails nothing is left, and what was at `target` stays.

    Raises:
        UserError: it cannot be written.
    """
    new_parent, aside = not target.parent.exists(), None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
        yield aside
        aside.chmod(0o755)
        put_in_place(aside, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if new_parent and not target.exists():
            with contextlib.suppress(OSError):
                target.parent.rmdir()


def put_in_place(aside, target):
    """Rename the finished folder to `target`; what was there is removed afterwards."""
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
        target.rename(old / "old")
    try:
        aside.rename(target)
    except OSError:
        if not (target / FACTS).is_file() or read_facts(target)["source"] != read_facts(aside)["source"]:
            raise  # else another process has built the same in the meantime
    finally:
        if old is not None:
            if not target.exists():
                (old / "old").rename(target)
            shutil.rmtree(old, ignore_errors=True)


def remove_stale(target):
    """Remove what builds of `target` that were killed have left behind."""
    for left in target.parent.glob(f".{target.name}.building-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
