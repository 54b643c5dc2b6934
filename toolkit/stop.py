"""Ctrl-C and the signals of schedulers: a step is finished before they take effect."""

import os
import signal
import threading

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 129}  # exit codes; Slurm sends SIGUSR1 if asked to


class StopSignals:
    """While this context is entered, signals raise KeyboardInterrupt (Ctrl-C) or SystemExit, but not within a step.

    Attributes:
        in_step: set by the caller where it must not be interrupted; `check()` afterwards raises what came meanwhile.
        received: name of the signal that came, or None.
        at_once: whether Ctrl-C was pressed a second time: nothing is to be saved any more.
    """

    def __init__(self):
        self.in_step, self.received, self.at_once = False, None, False
        self.before, self.pid = {}, os.getpid()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                    self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before.clear()

    def check(self):
        """Raise what a signal during the step that has just ended asked for."""
        if self.received is not None:
            self._raise()

    def _handle(self, number, frame):
        if os.getpid() != self.pid:  # a worker process, which the main one will end
            return
        name = signal.Signals(number).name
        if self.received is None:
            self.received = name
            if hasattr(signal, "SIGCHLD"):  # workers that got it too end, which torch would raise an error for
                self.before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
            if not self.in_step:
                self._raise()
            os.write(2, b"\nfinishing the step, then saving (Ctrl-C again leaves at once)\n")
        elif name == "SIGINT":
            self.received, self.at_once = name, True
            self._raise()

    def _raise(self):
        if self.received == "SIGINT":
            raise KeyboardInterrupt
        raise SystemExit(SIGNALS[self.received])
