"""Ctrl-C and the signals of schedulers: a step is finished before they take effect."""

import contextlib
import os
import signal
import threading

from toolkit.core import processes

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 129}  # exit codes; Slurm sends SIGUSR1 if asked to
# functions in which an exception is printed and forgotten, or leaves workers or what was collected half made
NOT_WITHIN = {
    "__del__",
    "_launch",
    "_get_iterator",
    "_reset",
    "_shutdown_workers",
    "_read_losses",
    "swap",
    "rebuild_storage_fd",
}  # while a worker hands over a batch: it would complain

_entered = []  # the StopSignals that are in force, the innermost last


class EndOfSession(Exception):
    """As many steps are done as `max_steps` says."""


class Pruned(EndOfSession):
    """A trial of a sweep that is not worth going on with."""


def way_of_ending(error):
    """What run.json says of a training that an exception ended: "pruned", "stopped" or "failed"."""
    if isinstance(error, Pruned):
        return "pruned"
    return "failed" if isinstance(error, Exception) and not isinstance(error, EndOfSession) else "stopped"


class StopSignals:
    """While this context is entered, signals raise KeyboardInterrupt (Ctrl-C) or SystemExit, but not within a step.

    Attributes:
        in_step: set by the caller where it must not be interrupted; `check()` afterwards raises what came meanwhile.
        received: name of the signal that came, or None.
        at_once: whether Ctrl-C was pressed a second time: nothing is to be saved any more.
    """

    def __init__(self):
        self.in_step, self.received, self.at_once = False, None, False
        self.before, self.pid, self.agreement = {}, os.getpid(), processes.Agreement()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                    self.before[number] = signal.signal(number, self._handle)
        _entered.append(self)
        return self

    def __exit__(self, *error):
        _entered.remove(self)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before.clear()

    @property
    def code(self):
        """The exit code that the signal which came asks for; 0: none came."""
        return SIGNALS[self.received] if self.received else 0

    def check(self, wish=False):
        """Raise what a signal asked for that could not take effect when it came.

        Of several processes, all raise what one of them was asked for, at the same call. With it they agree on `wish`,
        a bool; what is returned is whether one of them has it.
        """
        code, is_wished = self.agreement(self.code, int(wish))
        self.stop(code)
        return bool(is_wished)

    @staticmethod
    def stop(code):
        """Raise what ends a script with an exit code, if it is not 0."""
        if code == SIGNALS["SIGINT"]:
            raise KeyboardInterrupt
        if code:
            raise SystemExit(code)

    def _handle(self, number, frame):
        if os.getpid() != self.pid:  # a worker process, which the main one will end
            return
        name = signal.Signals(number).name
        if self.received is None:
            self.received = name
            if hasattr(signal, "SIGCHLD"):  # worker processes that got it, too, may die, which torch would raise now
                signal.signal(signal.SIGCHLD, lambda number, frame: None)  # not SIG_DFL: one may have come already
            if self.in_step and processes.is_rank_zero():
                with contextlib.suppress(OSError):  # the terminal may be gone, and that be the reason
                    os.write(2, b"\nfinishing the step, then saving (Ctrl-C again leaves at once)\n")
            elif processes.world_size() == 1 and not NOT_WITHIN.intersection(callers(frame)):
                self.stop(SIGNALS[name])
        elif name == "SIGINT":
            self.received, self.at_once = name, True
            self.stop(SIGNALS[name])


def callers(frame):
    """Yield the names of the functions that are being run, the innermost first."""
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def check_for_stop():
    """Raise what a signal asked for since the last step, where signals are looked after at all."""
    if _entered:
        _entered[-1].check()
