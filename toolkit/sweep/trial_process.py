"""The process that trains one trial of a sweep as train.py does. It saves its state if the sweep stops or dies.

It is forked from a server process that has imported torch, so that a trial starts in a tenth of the time.
"""

import contextlib
import json
import math
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
from toolkit.core.lock import InUse
from toolkit.core.memory import OutOfMemory
from toolkit.core.provenance import now
from utils import UserError

PRELOADED = ["train", "matplotlib.figure", "matplotlib.backends.backend_agg", "torch.utils.tensorboard"]
METHOD = "spawn" if sys.platform in ("win32", "darwin") else "forkserver"  # macOS's libraries cannot be forked
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
SECONDS_TO_SAVE = 300  # for a trial, after the sweep has died; then its process ends anyway
LONGEST_PAUSE = 10  # seconds between attempts to start, while another process trains in the folder
ENDS = {"finished", "stopped", "pruned", "failed"}  # keys of a session in run.json that has ended, unless it was killed


class TrialProcess:
    """A process that trains an Experiment in the folder `model_dir`, or resumes it, on a device with `threads` threads.

    With `prunes`, the process waits after each epoch to be told whether to continue. With `accept_code_changes`, it
    resumes although model/ has changed since.
    """

    def __init__(self, experiment, model_dir, data_dir, device, threads, accept_code_changes, prunes):
        self.experiment, self.prunes = experiment, prunes
        self.connection, theirs = multiprocessing.Pipe()
        self.stop_pipe, their_end = multiprocessing.Pipe()  # the trial stops when this end is closed, or we have died
        context: Any = multiprocessing.get_context(METHOD)
        arguments = (theirs, their_end, str(model_dir), data_dir, device, threads, accept_code_changes, prunes)
        self.process = context.Process(target=run_trial, args=arguments)
        self.process.start()
        theirs.close()
        their_end.close()

    def message(self):
        """Return ("epoch", number, value), ("finished", value), ("pruned" or "failed", reason), or None if it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None

    def answer(self, reason):
        """Tell it to stop after the epoch that it reported, for a reason, or to continue (None)."""
        if self.prunes:
            with contextlib.suppress(OSError):  # if it has died, the next message says so
                self.connection.send(reason)

    def stop(self):
        """Ask it to save its state and to end."""
        self.stop_pipe.close()

    @property
    def death(self):
        """A description of how it died."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def start_fork_server():
    """Start the fork server, which imports in the background what every trial needs."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        path = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), path]))
        multiprocessing.get_context(METHOD).set_forkserver_preload(PRELOADED)
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}  # the server inherits it
        forkserver.ensure_running()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ["PYTHONPATH"] = path


def run_trial(sweep, stop_pipe, model_dir, data_dir, device, threads, accept_code_changes, prunes):
    """Train one experiment in this process, and send `sweep`, a connection, how it ended."""
    import torch

    if hasattr(os, "setsid"):
        os.setsid()  # signals to the sweep's process group are for the sweep, which stops its trials
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # data-loader workers start as in a plain script
    torch.set_num_threads(threads)
    with open(Path(model_dir) / "train.log", "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=stop_with_sweep, args=[stop_pipe], daemon=True).start()
    message = train_experiment(sweep, model_dir, data_dir, device, accept_code_changes, prunes)
    with contextlib.suppress(OSError):
        sweep.send(message)


def stop_with_sweep(stop_pipe):
    """Wait until the sweep closes its end of `stop_pipe` or dies; then stop as if SIGTERM had come."""
    connection.wait([stop_pipe])
    signal.raise_signal(signal.SIGTERM)
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def train_experiment(sweep, model_dir, data_dir, device, accept_code_changes, prunes):
    """Train an experiment, or resume it. Return the message to the sweep that says how it ended."""
    import torch

    import train
    from toolkit.core.setup import set_up

    def report(epoch, value):
        try:
            sweep.send(("epoch", epoch, value))
            return sweep.recv() if prunes else None
        except (EOFError, OSError):  # the sweep has died
            raise SystemExit from None

    utils.set_logger(Path(model_dir) / "train.log", terminal=False)
    pause = 0.1
    while True:
        try:
            task, params, data = set_up(model_dir, data_dir, device)
            options = {"report": report, "accept_code_changes": accept_code_changes}
            train.train_experiment(task, params, data, model_dir, terminal=False, **options)
        except InUse:  # the same configuration was drawn twice, or the trial of a sweep that died is still saving
            pause = min(2 * pause, LONGEST_PAUSE)
            time.sleep(pause)
            continue
        except (MemoryError, torch.OutOfMemoryError, OutOfMemory):  # a retry in a new process may have more memory
            raise
        except Exception as error:
            is_traced = not isinstance(error, UserError)
            failure = traceback.format_exception_only(error)[-1].strip() if is_traced else str(error)
            print(traceback.format_exc() if is_traced else f"error: {failure}", file=sys.stderr)
            with contextlib.suppress(UserError):  # the disk is full, perhaps
                note_failure(model_dir, failure)
            return "failed", failure
        record = utils.read_json(Path(model_dir) / "run.json")
        session, best = record["sessions"][-1], record["best"] or {"value": math.nan}
        return ("pruned", session["reason"]) if "pruned" in session else ("finished", best["value"])


def note_failure(folder, error):
    """Add to run.json that a training has failed, and why (a str), if its process could not do so itself."""
    path = Path(folder) / "run.json"
    try:
        content = utils.read_json(path)
        sessions = content.setdefault("sessions", [])
        if sessions and sessions[-1].get("error") == error:
            return
    except (UserError, AttributeError, LookupError):
        content = {"sessions": []}
    if not content["sessions"] or ENDS & content["sessions"][-1].keys():
        content["sessions"].append({"started": now()})
    content["sessions"][-1] |= {"failed": now(), "error": error}
    utils.write_whole(path, json.dumps(content, indent=2) + "\n")
