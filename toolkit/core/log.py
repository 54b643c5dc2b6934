"""The log of a script, on the terminal and in the experiment's train.log."""

import logging
import os
import sys


class Log(logging.StreamHandler):
    """A log handler that is removed once it cannot write any more, so that the training continues."""

    def emit(self, record):
        try:
            super().emit(record)
        except OSError:  # a log file that cannot be opened
            self.handleError(record)

    def handleError(self, record):
        logger = logging.getLogger()
        logger.handlers = [handler for handler in logger.handlers if handler is not self]  # the old list is in use
        if not isinstance(sys.exc_info()[1], BrokenPipeError):  # `| head` has seen enough
            what = getattr(self, "baseFilename", "the terminal")
            logging.warning("%s: cannot be written: %s; continuing without it", what, sys.exc_info()[1])


class LogFile(Log, logging.FileHandler):
    """A log file."""


def set_logger(log_path=None, terminal=True, *, quiet=None):
    """Log to the terminal and, with the time of each line, to the file `log_path`; lines are appended to it.

    The file is created by the first message. Another call closes it. With `quiet`, the terminal shows only warnings
    and errors; None keeps the current setting.
    """
    logger = logging.getLogger()
    processes = sys.modules.get("toolkit.core.processes")  # None in scripts that do not train
    is_silent = processes is not None and processes.launched_by_torchrun() and os.environ["RANK"] != "0"
    logger.setLevel(logging.ERROR if is_silent else logging.INFO)  # only rank 0 reports
    quiet = is_quiet() if quiet is None else quiet
    for before in [handler for handler in logger.handlers if isinstance(handler, Log)]:
        logger.removeHandler(before)
        before.close()
    if terminal:
        screen = Log(sys.stdout)
        screen.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.addHandler(screen)
    if log_path is not None:
        file = LogFile(log_path, encoding="utf-8", errors="backslashreplace", delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(file)


def is_quiet():
    """Return True if the terminal shows only warnings and errors."""
    return any(isinstance(handler, Log) and handler.level > logging.INFO for handler in logging.root.handlers)
