"""How a script begins and ends: exit codes, one line for a mistake of the user's, what is noted in the log."""

import atexit
import contextlib
import logging
import os
import sys
import time
import traceback

from tqdm import tqdm

from utils import UserError


def add_quiet_argument(parser):
    """Add the argument that all scripts have."""
    parser.add_argument("--quiet", action="store_true", help="print results, warnings and errors, and nothing else")


def run_script(main):
    """Run `main()` and end the process: code 2 and one line for a mistake of the user's, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    code = 0
    try:
        main()
    except UserError as error:
        close_bars()
        processes = sys.modules.get("toolkit.core.processes")  # of scripts that train
        if processes is None or processes.is_first_to_report(error):
            print(f"error: {error}", file=sys.stderr)
        note_in_log(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        note_in_log("interrupted")
        code = 130
    except BrokenPipeError:  # what reads the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            error.add_note('(without "compile": true in params.json, torch.compile is left alone)')
        note_in_log(traceback.format_exc())
        processes = sys.modules.get("toolkit.core.processes")
        if processes is None or not processes.is_from_another_rank(error):
            raise
        print(
            f"process {processes.rank()}: another process of this run has ended, and so does this one", file=sys.stderr
        )
        time.sleep(processes.SECONDS_FOR_RANK_ZERO)  # so that torchrun, which then ends this one, tells of that one
        code = 1
    if main.__module__ == "__main__":  # a script, which is all that its process is for
        end_process(code)
    if code:
        sys.exit(code)


def end_process(code):
    """End the process as Python does, but without taking apart all that torch has made, which takes a second."""
    atexit._run_exitfuncs()  # worker processes are ended, logs closed
    with contextlib.suppress(OSError):  # what reads the output is gone
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def note_in_log(message):
    """Write a message to the experiment's log alone, where one has been begun."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            handler.handle(logging.makeLogRecord({"msg": message, "levelname": "ERROR", "levelno": logging.ERROR}))


def close_bars():
    """Take away the progress bars that are being drawn, so that what is printed next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
