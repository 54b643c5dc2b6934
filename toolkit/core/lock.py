"""One process per experiment: a lock on the experiment folder, which the operating system frees when its holder dies.

`.lock` says which process holds it, for people and for disks without file locks; the locked file is `.lock.os`.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from toolkit.core.provenance import now
from utils import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FAR_BEHIND = 2**30  # the byte that is locked on Windows, so that what is written in the file can be read

NO_FILE_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of disks that have none


class InUse(UserError):
    """Another process, or another lock object of this process, holds the lock."""


class ExperimentLock:
    """The lock of an experiment folder. It also holds between machines that share a disk, if the disk has file locks.

    Data-loader workers do not inherit it: filelock closes its descriptors in a forked process, so a run that is killed
    can be started again at once.

    Args:
        folder: the folder; it must exist when the lock is acquired.
    """

    def __init__(self, folder):
        self.folder, self.path, self.locked_path = Path(folder), Path(folder) / ".lock", Path(folder) / ".lock.os"
        # the thread that writes checkpoints asks for `is_held`; without file locks `.lock` decides, see `acquire`
        self.lock = FileLock(self.locked_path, thread_local=False, fallback_to_soft=False)
        self.identity = None  # os.stat_result of the locked file

    def acquire(self, quietly=False):
        """Acquire the lock without waiting; log, unless `quietly`, if an earlier process did not release it.

        Raises:
            InUse: another process holds it.
            UserError: the file cannot be created.
        """
        if self.identity is not None:
            return
        owner = read_owner(self.path)
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            raise self._in_use(owner) from None
        except OSError as error:
            if error.errno not in NO_FILE_LOCKS:
                raise UserError(f"{self.path}: cannot be created: {error.strerror}") from None
            if is_alive(owner):
                raise self._in_use(owner) from None
        self.identity = os.stat(self.locked_path)
        if owner and not quietly:
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

    def _in_use(self, owner):
        who = "process {pid} on {host} (since {since})".format(**owner) if owner else "another process"
        return InUse(
            f"{self.folder}: {who} is training here; wait for it, stop it, or choose another --model_dir "
            f"(if that process no longer exists, delete {self.path}*)"
        )


class Presence:
    """Shows other processes that this one works on something: a folder of its own with a lock in it.

    Args:
        folder: where those of all processes are.

    Attributes:
        name: what this one is called.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.lock = ExperimentLock(self.folder / self.name)

    def begin(self, tidy=False):
        """Be there; with `tidy`, what processes that have left did not take away is deleted."""
        self.lock.folder.mkdir(parents=True)
        self.lock.acquire()
        for other in self.folder.iterdir() if tidy else ():
            if self.has_left(other.name):
                with contextlib.suppress(OSError):
                    other.rmdir()

    def end(self, keep=False):
        """Leave; with `keep`, in a way that others can see."""
        self.lock.release()
        with contextlib.suppress(OSError):
            if not keep:
                self.lock.folder.rmdir()
                self.folder.rmdir()

    def is_known(self, name):
        """Whether there is, or was, a process of that name here."""
        return (self.folder / name).exists()

    def has_left(self, name):
        """Whether the process of that name has ended."""
        if name == self.name:
            return False
        lock = ExperimentLock(self.folder / name)
        try:
            if self.is_known(name):
                lock.acquire(quietly=True)
        except UserError:  # it lives
            return False
        lock.release()
        return True


def take(file):
    """Lock an open file for this process.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: the disk has no locks.
    """
    try:
        if sys.platform == "win32":
            file.seek(FAR_BEHIND)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: worker processes would hold that, too
    except PermissionError as error:  # what some systems say
        raise BlockingIOError from error


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
