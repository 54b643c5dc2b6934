"""One process per experiment: a lock on the experiment folder, which the operating system frees when its holder dies.

`.lock` says which process holds it, for people and for disks without file locks; the locked file is `.lock.os`.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import socket
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from toolkit.core.provenance import now
from utils import UserError

NO_FILE_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of disks that have none


class InUse(UserError):
    """Another process, or another lock object of this process, holds the lock."""


class ExperimentLock:
    """The lock of an experiment folder, which must exist. It holds between machines, too, if their disk has file locks.

    Data-loader workers do not inherit it: a run that is killed can be started again at once.
    """

    def __init__(self, folder):
        self.folder, self.path, self.locked_path = Path(folder), Path(folder) / ".lock", Path(folder) / ".lock.os"
        # the thread that writes checkpoints asks for `is_held`; without file locks `.lock` decides, see `acquire`
        self.lock = FileLock(self.locked_path, thread_local=False, fallback_to_soft=False)
        self.identity = None  # os.stat_result of the locked file

    def acquire(self):
        """Acquire the lock without waiting; log if an earlier process has died without releasing it.

        Raises:
            InUse: another process holds it.
            UserError: the file cannot be created.
        """
        if self.identity is not None:
            return
        owner, is_free = read_owner(self.path), True
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            is_free = False
        except OSError as error:
            if error.errno not in NO_FILE_LOCKS:
                raise UserError(f"{self.path}: cannot be created: {error.strerror}") from None
            is_free = not is_alive(owner)
        if not is_free:
            who = "process {pid} on {host} (since {since})".format(**owner) if owner else "another process"
            raise InUse(
                f"{self.folder}: {who} is training here; wait for it, stop it, or choose another --model_dir "
                f"(if that process no longer exists, delete {self.path}*)"
            )
        self.identity = os.stat(self.locked_path)
        if owner:
            logging.info("%s: process %s on %s, which trained here, has died", self.folder, owner["pid"], owner["host"])
        with contextlib.suppress(OSError):  # on a full disk nobody can read who holds the lock, but it is held
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
            self.path.write_text(json.dumps(owner) + "\n", encoding="utf-8")

    @property
    def is_held(self):
        """True if this object holds the lock of the folder that is at its path now: it may have been moved away."""
        try:
            return self.identity is not None and os.path.samestat(self.identity, os.stat(self.locked_path))
        except OSError:
            return False

    def release(self):
        """Release the lock if this object holds it."""
        for path in (self.path, self.locked_path) if self.is_held else ():  # while nobody else can acquire it
            with contextlib.suppress(OSError):  # Windows deletes no file that is open
                path.unlink()
        self.lock.release()
        self.identity = None


def remove_leftovers(folder, pattern=".*.tmp"):
    """Delete the files and folders in `folder` that a process of this machine was writing when it was killed."""
    for path in Path(folder).glob(pattern):
        process = re.search(r"\.(?P<pid>\d+)(@(?P<host>.+))?\.tmp$", path.name)
        if process and not is_alive({"host": process["host"] or socket.gethostname(), "pid": process["pid"]}):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_owner(path):
    """Return who holds a lock according to the file `.lock`, a dict with "host", "pid" and "since", or None."""
    try:
        owner = json.loads(Path(path).read_text(encoding="utf-8"))
        return owner if {"host", "pid", "since"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def is_alive(owner):
    """Return False if the process that `read_owner` found has ended; one on another machine counts as alive."""
    if owner is None or owner["host"] != socket.gethostname() or sys.platform == "win32":  # where os.kill ends it
        return owner is not None
    try:
        os.kill(int(owner["pid"]), 0)
    except (OSError, ValueError, OverflowError, TypeError) as error:
        return isinstance(error, PermissionError)  # a process of another user
    return True
