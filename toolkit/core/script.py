"""The start and the end of scripts: the option `--quiet`, exit codes, and one line for a mistake of the user."""

import atexit
import contextlib
import logging
import os
import re
import sys
import time
import traceback

from tqdm import tqdm

from toolkit.core.user_code import own_traceback
from utils import UserError, similar


def add_quiet_argument(parser):
    """Add the option `--quiet`, which every script has; and let mistakes in options be one line, as all others are."""
    parser.add_argument("--quiet", action="store_true", help="print only results, warnings and errors")

    def refuse(message):
        options = re.findall(r"--\w+", parser.format_help())
        near = [similar(word, options) for word in message.split() if word.startswith("--") and word not in options]
        advice = f"did you mean {near[0]}?" if near and near[0] else f"python {parser.prog} --help lists the options"
        raise UserError(f"{message}; {advice}")

    parser.error = refuse


def run_script(main):
    """Run `main()` and end the process: exit code 2 and one line for a UserError, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    code, processes = 0, sys.modules.get("toolkit.core.processes")  # None in scripts that do not train
    try:
        main()
    except UserError as error:
        close_bars()
        if processes is None or processes.is_first_to_report(error):
            print(f"error: {error}", file=sys.stderr)
        note_in_log(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        note_in_log("interrupted")
        code = 130
    except BrokenPipeError:  # the program that reads the output (head, less) has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            error.add_note('(remove "compile": true from params.json to train without torch.compile)')
        note_in_log(traceback.format_exc())
        if processes is not None and processes.is_from_another_rank(error):
            print(f"rank {processes.rank()}: stopped, because another process of this run has ended", file=sys.stderr)
            time.sleep(processes.SECONDS_FOR_RANK_ZERO)  # so that torchrun, which then ends this one, reports that one
        elif own := own_traceback(error):  # a bug in model/, to which the frames before it add nothing
            close_bars()
            print(own, end="", file=sys.stderr)
        else:
            raise
        code = 1
    if is_plain_script(main):  # then end without the destruction of all of torch's objects, which takes a second
        atexit._run_exitfuncs()  # ends worker processes and closes logs
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # its reader has ended
                stream.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def is_plain_script(main):
    """Return True if Python was started as `python [options] script.py`, and `main` is defined in that script.

    In a notebook, a profiler, a debugger and after `python -i` something still runs when the script has ended.
    """
    options, command = sys.orig_argv[1 : -len(sys.argv)], sys.orig_argv[-len(sys.argv) :]
    is_script = main.__module__ == "__main__" and command == sys.argv and not sys.flags.inspect
    return is_script and all(option.startswith("-") for option in options)  # none is a module or another script


def note_in_log(message):
    """Write a message to the experiment's log only, if there is one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            handler.handle(logging.makeLogRecord({"msg": message, "levelname": "ERROR", "levelno": logging.ERROR}))


def close_bars():
    """Remove the progress bars from the terminal, so that the next message has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
