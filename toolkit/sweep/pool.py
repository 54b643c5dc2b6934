"""Processes that train one experiment after the other, each on a device of its own, and are replaced when they die."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing import connection
from pathlib import Path
from typing import Any

import utils
from toolkit.core import processes
from toolkit.core.lock import InUse
from toolkit.core.memory import OutOfMemory
from toolkit.core.run_record import note_failure
from toolkit.sweep.team import Team
from utils import UserError

# Workers are forked from one process that has imported this; but not on macOS, whose libraries do not survive it.
PRELOADED = ["train", "matplotlib.figure", "tensorboard.summary.writer.record_writer"]
METHOD = "spawn" if sys.platform in ("win32", "darwin") else "forkserver"
FOR_THE_SWEEP = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
LONGEST_STEP = 300  # seconds after which a worker whose sweep is gone, and that was asked to stop, is taken to hang
WAIT_FOR_LOCK = 60  # seconds that a worker of a sweep which was killed may take to save what it trains


class Worker:
    """A process that trains experiments, on one device or, together with others, on several.

    Args:
        devices: their names, as for `--device`.
        threads: how many it computes with on the CPU.
    """

    def __init__(self, devices, threads):
        self.connection, theirs = multiprocessing.Pipe()
        self.leash, their_end = multiprocessing.Pipe()  # closed when it is to stop
        context: Any = multiprocessing.get_context(METHOD)
        self.process = context.Process(target=work, args=(theirs, their_end, devices, threads))
        self.process.start()
        theirs.close()
        their_end.close()
        self.experiment = None  # what it trains

    def train(self, experiment, model_dir, data_dir, waits):
        """Begin to train the experiment in a folder; `waits`: whether each epoch waits for an answer to its report."""
        self.experiment = experiment
        with contextlib.suppress(OSError):  # it has died, which is seen when it is asked for a message
            self.connection.send((str(model_dir), data_dir, waits))

    def answer(self, reason):
        """Say whether the experiment is to be stopped after the epoch that it reported: why, or None."""
        with contextlib.suppress(OSError):
            self.connection.send(reason)

    def message(self):
        """What it says: ("epoch", number, value), ("finished", value), ("pruned" or "failed", why). None: it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None

    @property
    def death(self):
        """How it died, in words."""
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"its process ended with code {code}"

    def stop(self):
        """Ask it to save what it trains, and to end."""
        self.leash.close()


def start_importing():
    """Begin with the imports that all workers need, in the background."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        before, root = os.environ.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[2])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before]))
        multiprocessing.get_context(METHOD).set_forkserver_preload(PRELOADED)
        numbers = [signal.SIGINT, *FOR_THE_SWEEP]
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}  # which it inherits
        forkserver.ensure_running()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ["PYTHONPATH"] = before


def work(parent, leash, devices, threads):
    """What a worker does: train the experiments that `parent`, a connection, names, until `leash`, another, is cut."""
    import torch

    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then asks each worker to stop
    for number in FOR_THE_SWEEP:
        signal.signal(number, signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # of its data loaders' processes: the system's own
    torch.set_num_threads(threads)
    threading.Thread(target=stop_with_the_sweep, args=[leash], daemon=True).start()
    while True:
        try:
            model_dir, data_dir, waits = parent.recv()
        except EOFError:
            return
        with printing_to(Path(model_dir) / "train.log"):
            team = Team(devices, threads, model_dir, data_dir)
            message = train_one(parent, model_dir, data_dir, devices[0], waits, team)
        with contextlib.suppress(OSError):
            parent.send(message)


def stop_with_the_sweep(leash):
    """Wait until the sweep asks for it or is gone, however it ended, and stop as if a signal had come."""
    connection.wait([leash])
    signal.raise_signal(signal.SIGTERM)
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    time.sleep(LONGEST_STEP)
    os._exit(1)


def train_one(parent, model_dir, data_dir, device, waits, team):
    """Train an experiment, or go on with it, with those of `team`. Returns the message that says how it ended."""
    import torch

    import train
    from toolkit.core.setup import set_up

    def report(epoch, value):
        try:
            parent.send(("epoch", epoch, value))
            return parent.recv() if waits else None
        except (EOFError, OSError):  # the sweep is gone
            raise SystemExit from None

    utils.set_logger(Path(model_dir) / "train.log", terminal=False)
    deadline = time.monotonic() + WAIT_FOR_LOCK
    try:
        while True:
            try:
                with team:
                    task, params, data = set_up(model_dir, data_dir, device)
                    train.train_experiment(task, params, data, model_dir, terminal=False, report=report)
                break
            except InUse:  # by a worker of a sweep that was killed, which is saving
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    except InUse as error:
        return ("failed", str(error))  # which says nothing of who is training there
    except (MemoryError, torch.OutOfMemoryError, OutOfMemory):  # another attempt, in another process, may have more
        raise
    except UserError as error:
        failure = str(error)
        print(f"error: {failure}", file=sys.stderr)
    except Exception as error:
        if processes.is_from_another_rank(error):
            raise
        failure = "".join(traceback.format_exception_only(error)).strip()
        traceback.print_exc()
    else:
        content = utils.read_json(Path(model_dir) / "run.json")
        session = content["sessions"][-1]
        return ("pruned", session["reason"]) if "pruned" in session else ("finished", content["best"]["value"])
    with contextlib.suppress(UserError):  # a full disk, which may be why it failed
        note_failure(model_dir, failure)
    return ("failed", failure)


@contextlib.contextmanager
def printing_to(log):
    """Append what this process prints to a file meanwhile."""
    sys.stdout.flush()
    with open(log, "ab") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
