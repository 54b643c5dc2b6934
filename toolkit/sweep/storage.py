"""The storage of a study: a journal file in the folder of the sweep, or a database that several machines share."""

import contextlib
import os
import random
import socket
import time
import uuid

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from utils import UserError

JOURNAL = "study.journal"
OWNERS = ".sweep"  # the folder of the files that processes lock while they own trials
HEARTBEAT_SECONDS = 20  # between two heartbeats of a trial in a database
GRACE_SECONDS = 120  # without a heartbeat, after which a trial counts as abandoned
ATTEMPTS_TO_OPEN = 10


class JournalLock(JournalFileOpenLock):
    """The lock that Optuna holds while it appends to a journal; the operating system frees it if its holder dies.

    Optuna's own lock is freed when its holder has been dead for half a minute. An incomplete last line in the journal,
    left by a full disk or a crash, is removed.
    """

    def __init__(self, path):
        self.path, self.lock = path, FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self):
        """Wait for the lock. Return True, as Optuna expects."""
        self.lock.acquire(poll_interval=0.002)
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb+") as journal:
            journal.seek(max(0, journal.seek(0, os.SEEK_END) - 1))
            if journal.read() not in (b"", b"\n"):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self):
        """Release the lock."""
        self.lock.release()


class Owner:
    """This process as the owner of trials. While it lives, it locks the file of its name in the folder OWNERS."""

    def __init__(self, folder):
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.path = folder / OWNERS / self.name
        self.lock = FileLock(self.path)

    def has_ended(self, name, if_unknown):
        """Return True if the owner called `name` has ended; `if_unknown` if it has no file in this folder."""
        path = self.path.with_name(name)
        if name == self.name:
            return False
        if not path.is_file():
            return if_unknown
        with contextlib.suppress(Timeout), FileLock(path, timeout=0):
            return True
        return False


def open_storage(url, folder):
    """Return the Optuna storage at a database URL, or the journal in `folder` if the URL is None."""
    with storage_errors(url):
        if url is None:
            path = folder / JOURNAL
            return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
        patience = {"connect_timeout": 10} if url.startswith("postgresql") else {}
        options = {"pool_pre_ping": True, "connect_args": patience}
        for attempt in range(1, ATTEMPTS_TO_OPEN + 1):
            try:
                database = RDBStorage(url, options, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)
                return optuna.storages.get_storage(database)  # with Optuna's cache
            except (IntegrityError, ProgrammingError):  # another process creates the tables at the same moment
                if attempt == ATTEMPTS_TO_OPEN:
                    raise
                time.sleep(random.uniform(0, 1))


@contextlib.contextmanager
def storage_errors(url):
    """Raise errors of the storage at a URL (None for the journal) as a UserError."""
    try:
        yield
    except (OSError, SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
        with contextlib.suppress(ArgumentError):
            url = make_url(url).render_as_string() if url else url  # without the password
        lines = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()
        reason = " ".join(lines[:2]) or type(error).__name__
        install = "; install it with pip" if isinstance(error, ImportError) else ""
        raise UserError(
            f"--storage {url or JOURNAL}: cannot be used: {reason}{install} (the same command resumes once it works)"
        ) from error
