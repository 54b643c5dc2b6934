"""What Optuna works with: a journal in the sweep's folder or a database that many machines reach, and pruners."""

import contextlib
import os
import random
import time
import warnings
from pathlib import Path

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from toolkit.core.lock import take
from utils import UserError

JOURNAL = "study.journal"
HEARTBEAT, GRACE = 20, 120  # seconds between signs of life in a database; without one, until a process counts as gone
ATTEMPTS = 10  # to open a database
REDUCTION = 3  # asha goes on with one trial in so many, at each of its rungs


class JournalLock:
    """The lock of a journal, by the operating system: a killed process does not keep it. Made as Optuna asks for.

    Args:
        path: the journal. A line that a full disk or a power failure left half written is cut off.
    """

    def __init__(self, path):
        self.path, self.file = Path(path), None

    def acquire(self):
        """Wait for the lock."""
        self.file = open(self.path.with_name(f".{self.path.name}.lock"), "a")  # noqa: SIM115 (open while it is held)
        while True:
            try:
                take(self.file)
                break
            except BlockingIOError:
                time.sleep(0.002)
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb+") as journal:
            end = journal.seek(0, os.SEEK_END)
            journal.seek(max(0, end - 1))
            if journal.read() not in (b"", b"\n"):
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self):
        """Give the lock back."""
        assert self.file is not None
        self.file.close()


def open_storage(url, folder):
    """The Optuna storage at a URL, or where that is None a journal in `folder`.

    Raises:
        UserError: it cannot be reached, or its driver is not installed.
    """
    with reaching(url, opening=True), quiet():
        if url is None:
            path = folder / JOURNAL
            return JournalStorage(JournalFileBackend(str(path), lock_obj=journal_lock(path)))
        for attempt in range(ATTEMPTS):
            try:
                return database(url)
            except (IntegrityError, ProgrammingError):  # another process makes the tables at the same moment
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0, 1))


def database(url):
    """The Optuna storage of a database, whose tables are made where they are missing."""
    options = {"connect_args": {"connect_timeout": 10}} if url.startswith("postgresql") else {}
    return RDBStorage(url, {"pool_pre_ping": True} | options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)


def journal_lock(path):
    """What keeps two processes from writing to a journal at the same time."""
    lock = JournalLock(path)
    try:
        lock.acquire()
    except OSError:  # a disk without such locks
        return JournalFileOpenLock(str(path))
    lock.release()
    return lock


def make_pruner(name, num_epochs):
    """The Optuna pruner called "asha", "median" or "none", for trials of `num_epochs`."""
    if name == "asha":  # a ninth of the epochs, a third, all
        return optuna.pruners.SuccessiveHalvingPruner(max(1, num_epochs // REDUCTION**2), REDUCTION)
    return {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}[name]()


@contextlib.contextmanager
def reaching(url, opening=False):
    """Turn what goes wrong with a storage into one line; when it is opened, that may be more."""
    errors: tuple[type[Exception], ...] = (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError)
    if opening:
        errors += (ImportError, ValueError, optuna.exceptions.OptunaError)
    try:
        yield
    except errors as error:
        install = "; pip install it" if isinstance(error, ImportError) else ""
        with contextlib.suppress(ArgumentError):
            url = make_url(url).render_as_string() if url else url  # without the password
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()
        why = " ".join(reason[:2]) or type(error).__name__
        raise UserError(
            f"--storage {url or JOURNAL}: cannot be used: {why}{install}; the same command goes on once it can be"
        ) from error


@contextlib.contextmanager
def quiet():
    """Without Optuna's warnings: an interface may change, is for `optimize` alone, a range has no whole steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage|The reported value is ignored|.*divisible by")
        yield
