"""Ctrl-C and the signals of job schedulers: they set a flag, which the training loop checks after each step."""

import contextlib
import os
import signal
import threading

from toolkit.core import processes

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 129}  # Slurm sends SIGUSR1 if asked to
MESSAGE = b"\nstopping after this step and saving (press Ctrl-C again to quit at once)\n"

_entered = []  # the StopSignals whose context is active, the innermost last


class EndOfSession(Exception):
    """The number of steps that `max_steps` allows is reached."""


class Pruned(EndOfSession):
    """A trial of a sweep that is stopped because others are better."""


def way_of_ending(error):
    """Return how an exception (or None) ended a training, as run.json says it: "pruned", "stopped" or "failed"."""
    if isinstance(error, Pruned):
        return "pruned"
    return "failed" if isinstance(error, Exception) and not isinstance(error, EndOfSession) else "stopped"


class StopSignals:
    """While this context is active, signals only set a flag. A second Ctrl-C raises KeyboardInterrupt, as usual.

    Attributes:
        received: name of the first signal that came, or None.
        is_urgent: bool, True after a second Ctrl-C: nothing more is to be saved.
        agreed_code: int, the exit code that all processes agreed to stop with; 0 to continue.
    """

    def __init__(self):
        self.received, self.is_urgent, self.agreed_code = None, False, 0
        self.previous, self.pid, self.agreement = {}, os.getpid(), processes.Agreement()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in EXIT_CODES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                    self.previous[number] = signal.signal(number, self._note)
        _entered.append(self)
        return self

    def __exit__(self, *error):
        _entered.remove(self)
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def _note(self, number, frame):
        if os.getpid() != self.pid:  # a data-loading worker, which the main process ends
            return
        name = signal.Signals(number).name
        if self.received is None:
            self.received = name
            if hasattr(signal, "SIGCHLD"):
                # workers may die of the same signal: torch's handler would raise an error in this process then
                signal.signal(signal.SIGCHLD, lambda number, frame: None)
            if processes.is_rank_zero():
                with contextlib.suppress(OSError):  # the terminal may be gone, and be the reason for the signal
                    os.write(2, MESSAGE)
        elif name == "SIGINT":
            self.received, self.is_urgent = name, True
            raise KeyboardInterrupt

    def agree(self, wants_checkpoint=False):
        """Agree between all processes on whether to stop; return True if one of them requests a checkpoint.

        All call this at the same points. With several of them the answer is that of the call before: see `Agreement`.
        """
        self.agreed_code, wants_checkpoint = self.agreement(EXIT_CODES.get(self.received, 0), int(wants_checkpoint))
        return bool(wants_checkpoint)

    def stop_if_agreed(self, alone=False):
        """Raise KeyboardInterrupt or SystemExit if the processes agreed to stop; `alone`: if this one got a signal."""
        code = self.agreed_code
        if alone or processes.world_size() == 1:
            code = EXIT_CODES.get(self.received, 0)
        if code == EXIT_CODES["SIGINT"]:
            raise KeyboardInterrupt
        if code:
            raise SystemExit(code)


def stop_if_requested():
    """Raise KeyboardInterrupt or SystemExit if a signal came while a StopSignals is active; else do nothing."""
    if _entered:
        _entered[-1].agree()
        _entered[-1].stop_if_agreed()
