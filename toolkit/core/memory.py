"""Memory: the peak that was used, the total of a device, and one line with advice when it runs out or a worker dies."""

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

# what torch's other RuntimeErrors say: of MPS and CUDA, of cuBLAS and cuDNN, of the CPU
MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")
SHARED_MEMORY = ("unable to allocate shared memory", "unable to open shared memory", "unable to write to file </torch_")


class OutOfMemory(UserError):
    """The device or the machine has not enough memory."""


def peak_memory(device):
    """Return the peak memory in bytes, of the tensors on a GPU or of the whole process; None on MPS and Windows."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if kind == "cpu" and sys.platform != "win32":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def total_memory(device):
    """Return the memory that a device has, in bytes, or None if the system does not say."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if kind == "mps":
        return torch.mps.recommended_max_memory()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory():
    """Return the bytes of main memory that can be used without swapping; all of it where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return total_memory("cpu") or math.inf


@contextlib.contextmanager
def memory_errors_in_a_line(params):
    """Turn an error of this context that memory ran out, or a data-loading worker died, into one line of advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker (pid" in str(error) or any(message in str(error) for message in SHARED_MEMORY):
            reason = re.search(r"is killed by signal: [\w ]+|exited unexpectedly", str(error))
            raise UserError(
                f"a data-loading worker {reason[0] if reason else 'has no shared memory'}: memory or /dev/shm is short "
                f"(docker run --shm-size=8g), or the dataset's code crashed; take fewer num_workers, or 0, which shows "
                f"an error of the dataset"
            ) from error
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_known and not any(message in str(error) for message in MESSAGES):
            raise
        functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        raise OutOfMemory(advice(params, error, bool({"evaluate", "predict"} & functions))) from error


def advice(params, error, in_evaluation):
    """Return one line that says how much memory there is, how much `error` asked for, and what to try."""
    device = getattr(params, "device", "cuda" if torch.cuda.is_available() else "cpu")  # a notebook may not set it
    facts = [(peak_memory(device), "was the peak"), (total_memory(device), "is the total")]
    parts = [f"{size / 2**30:.2f} GiB {what}" for size, what in facts if size is not None]
    if asked := re.search(r"allocate ([\d.]+) (\w+)", str(error)):
        size = asked[0].removeprefix("allocate ") if asked[2] != "bytes" else f"{int(asked[1]) / 2**30:.2f} GiB"
        parts.insert(1, f"{size} more was asked for")
    smaller = f'"batch_size": {params.batch_size // 2} with "accumulation_steps": {2 * params.accumulation_steps}'
    ways = [("a smaller batch_size" if in_evaluation else smaller, params.batch_size > 1)]
    ways.append(('"precision": "bf16"', params.precision == "fp32"))
    ways.append(("metrics that accumulate batch by batch (objects with update, compute and reset)", in_evaluation))
    cures = ", or ".join([*(way for way, applies in ways if applies), "a smaller network"])
    doing = f"{'evaluating' if in_evaluation else 'training'} with batch_size {params.batch_size}"
    return f"{device}: out of memory while {doing}: {', '.join(parts)}; try {cures}"
