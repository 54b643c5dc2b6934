"""How a script begins and ends: exit codes, one line for a mistake of the user's, what is noted in the log."""

import atexit
import gc
import logging
import os
import sys
import traceback

from tqdm import tqdm

from utils import UserError


def run_script(main):
    """Run `main()` and end the process: code 2 and one line for a mistake of the user's, 130 for Ctrl-C."""
    atexit.register(gc.freeze)  # else Python goes over all that torch has made once more before it ends, for a second
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        close_bars()
        print(f"error: {error}", file=sys.stderr)
        note_in_log(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        note_in_log("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # what reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception:
        note_in_log(traceback.format_exc())
        raise


def note_in_log(message):
    """Write a message to the experiment's log alone, where one has been begun."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            handler.handle(logging.makeLogRecord({"msg": message, "levelname": "ERROR", "levelno": logging.ERROR}))


def close_bars():
    """Take away the progress bars that are being drawn, so that what is printed next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
