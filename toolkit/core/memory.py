"""Memory of the device: the most that was taken, and what is said where there is not enough."""

import contextlib
import math
import os
import re
import sys
import traceback

import torch

from utils import UserError

if sys.platform != "win32":
    import resource

# what torch says of MPS and of CUDA where that is not an OutOfMemoryError, then cuBLAS and cuDNN, then of the CPU
MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


def peak_memory(device):
    """The most memory that was taken so far, in bytes, or None where it is not told (MPS, Windows).

    On CUDA that of the tensors on `device`, on a CPU that of the whole process.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if kind == "cpu" and sys.platform != "win32":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def total_memory(device):
    """How much memory a device has, in bytes, or None where it does not tell."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if kind == "mps":
        return torch.mps.recommended_max_memory()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory():
    """Bytes of main memory that can be had without swapping (all of it, or infinity, where the system does not say)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return total_memory("cpu") or math.inf


def ran_out_of_memory(error):
    """Whether an exception says that there is no memory left, of the device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


class OutOfMemory(UserError):
    """There was not enough memory."""


@contextlib.contextmanager
def memory_errors_in_a_line(params):
    """Say in one line what can be done where memory runs out in this context.

    Args:
        params: hyperparameters; `device` and `batch_size` are named.

    Raises:
        OutOfMemory: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        functions = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        raise OutOfMemory(advice(params, error, bool({"evaluate", "predict"} & set(functions)))) from error


def advice(params, error, in_evaluation):
    """What `error` says that there is no memory for, and what to try, in one line."""
    device = getattr(params, "device", "cuda" if torch.cuda.is_available() else "cpu")  # a notebook may not say it
    batch_size, steps = params.batch_size, params.accumulation_steps
    sizes = [(peak_memory(device), "was in use at most"), (total_memory(device), "is all there is")]
    told = [f"{size / 2**30:.2f} GiB {what}" for size, what in sizes if size is not None]
    asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
    told[1:1] = [f"{asked[1]} more was asked for"] if asked else []
    ways = ["a smaller batch_size"]
    if not in_evaluation and batch_size > 1:
        ways = [f'"batch_size": {batch_size // 2} with "accumulation_steps": {2 * steps}']
    if params.precision == "fp32":
        ways.append('"precision": "bf16"')
    if in_evaluation:
        ways.append("metrics that take batch after batch (objects with update, compute and reset)")
    where = "evaluating" if in_evaluation else "training"
    return f"{device}: out of memory, {where} with batch_size {batch_size}: {', '.join(told)}; try {', or '.join(ways)}"
