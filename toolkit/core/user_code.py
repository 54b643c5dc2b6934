"""The user's own model/ folder: where in it an error was raised, and whether its functions can be called."""

import inspect
import re
import sys
import traceback
from pathlib import Path

from utils import UserError, relative


def is_own(file):
    """Return True if a file is in the model/ folder that is in use."""
    folder = next(iter(getattr(sys.modules.get("model"), "__path__", ())), None)
    return folder is not None and Path(file).resolve().is_relative_to(Path(folder).resolve())


def place_of(error):
    """Return the deepest line of model/ that an exception passed through, as "model/net.py:12"; None without one."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places += re.findall(r'File "(.+?)", line (\d+)', str(error))  # the traceback of a worker of a data loader
    return next((f"{relative(file)}:{line}" for file, line in reversed(places) if is_own(file)), None)


def place_of_definition(fn):
    """Return where a class, function or module is defined, as "model/net.py:12", or its name if that is unknown."""
    fn = fn.__init__ if isinstance(fn, type) else getattr(fn, "forward", getattr(fn, "func", fn))  # of a partial
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{relative(code.co_filename)}:{code.co_firstlineno}" if code else str(getattr(fn, "__name__", fn))


def own_traceback(error):
    """Return the traceback of an exception from the first line of model/ on, as text, or None without one."""
    trace = error.__traceback__
    while trace is not None and not is_own(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if trace is not None:
        return "".join(traceback.format_exception(type(error), error, trace))
    in_worker = [m.start() for m in re.finditer(r'^ *File "(.+?)", line', str(error), re.MULTILINE) if is_own(m[1])]
    return f"Traceback (most recent call last):\n{str(error)[in_worker[0] :].rstrip()}\n" if in_worker else None


def check_call(fn, *calls):
    """Raise UserError if a function or class cannot be called in any of the ways `calls`, such as "Net(params)"."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a builtin
        return
    for call in calls:
        try:
            signature.bind(*re.findall(r"\w+", call.rpartition("(")[2]))
            return
        except TypeError as error:
            reason = error
    name = calls[0].rpartition("(")[0]
    raise UserError(f"{place_of_definition(fn)}: {name}{signature} is called as {' or '.join(calls)}: {reason}")
