"""One process an experiment: locks on folders that a process which died, however it died, does not hold."""

import contextlib
import json
import logging
import os
import socket
import sys
import uuid
from pathlib import Path

from toolkit.core.provenance import now
from utils import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FAR_BEHIND = 2**30  # the byte that is locked on Windows, so that what is written in the file can be read


class InUse(UserError):
    """Another process has the lock."""


class ExperimentLock:
    """The lock of an experiment's folder: the file `.lock` in it, locked by the operating system.

    The operating system frees it when the process ends, killed or not; the file says who holds it, for people. On a
    shared disk it holds between machines, too, where the disk has locks; where it has none, what is written decides.

    Args:
        folder: the experiment's folder.
        name: of the file, for a lock on something else in it.
    """

    def __init__(self, folder, name=".lock"):
        self.folder, self.path = Path(folder), Path(folder) / name
        self.file = None

    def acquire(self, quietly=False):
        """Take the lock, at once, if it is not held already by this object. Says, unless `quietly`, who left it behind.

        Raises:
            InUse: another process has it.
            UserError: the file cannot be made.
        """
        if self.file is not None:
            return
        while self.file is None:
            try:
                file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (open as long as it is held)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be made: {error.strerror}") from None
            file.seek(0)
            owner = read_owner(file)
            try:
                take(file)
            except BlockingIOError:
                self._refuse(file, owner)
            except OSError:  # a disk without locks
                if is_alive(owner):
                    self._refuse(file, owner)
            if is_the_same(file, self.path):  # its owner may have removed it just before it was taken here
                self.file = file
            else:
                file.close()
        if owner and not quietly:
            logging.info("%s: process %s on %s, which trained here, is gone", self.folder, owner["pid"], owner["host"])
        with contextlib.suppress(OSError):  # on a full disk: nobody can read who has it, but it is taken
            self.file.truncate(0)
            self.file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now()}) + "\n")
            self.file.flush()

    @property
    def is_held(self):
        """Whether this process has the lock of what is now at the folder's path: it may have been moved away."""
        return self.file is not None and is_the_same(self.file, self.path)

    def release(self):
        """Give the lock back, if it is held."""
        if self.file is not None:
            is_held, on_windows = self.is_held, sys.platform == "win32"
            with contextlib.suppress(OSError):
                if on_windows:  # which removes no file that is open; elsewhere another process could take it meanwhile
                    self.file.close()
                if is_held:
                    os.unlink(self.path)
            with contextlib.suppress(OSError):
                self.file.close()
            self.file = None

    def _refuse(self, file, owner):
        file.close()
        who = "process {pid} on {host} (since {since})".format(**owner) if owner else "another process"
        raise InUse(
            f"{self.folder}: {who} is training here; wait for it, stop it, or choose another --model_dir "
            f"(if it is surely gone: delete {self.path})"
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
            lock.acquire(quietly=True)
        except UserError:  # it lives, or its folder is not there
            return not self.is_known(name)
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


def is_the_same(file, path):
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def read_owner(file):
    """Who wrote the lock file, a dict with "host", "pid" and "since", or None."""
    try:
        owner = json.loads(file.read())
        return owner if {"host", "pid", "since"} <= owner.keys() else None
    except (ValueError, AttributeError):
        return None


def is_alive(owner):
    """Whether the owner of a lock is running, as far as can be told from here."""
    if owner is None or owner["host"] != socket.gethostname():
        return owner is not None
    if sys.platform == "win32":  # os.kill would end it
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except (ProcessLookupError, ValueError, OverflowError, TypeError):
        return False
    except OSError:
        return True
    return True
