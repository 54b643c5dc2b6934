"""What a run was made with: command, code, versions, hardware. Kept in run.json."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic")
LONGEST_DIFF = 1_000_000  # characters of the uncommitted changes that are kept


def now():
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(project):
    """What reproducing a run needs to know of this process, a dict for json.

    Args:
        project: a folder in the repository whose commit and uncommitted changes are noted.
    """
    import torch

    return {
        "command": [os.path.basename(sys.executable), *sys.argv],
        "code": git_state(project),
        "template": (git_state(Path(__file__).parent) or {}).get("commit"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "hardware": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


@functools.cache  # a sweep's process trains many experiments; what it runs was imported when it began
def git_state(project):
    """The commit and the uncommitted changes (a diff) of the repository that `project` is in, or None."""

    def git(*arguments, folder=project):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True).stdout

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        diff = git("diff", "HEAD", folder=top)
        untracked = git("ls-files", "--others", "--exclude-standard", folder=top).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "uncommitted_diff": diff[:LONGEST_DIFF], "untracked_files": untracked[:1000]}


def version(package):
    """The installed version of a package, or None; without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor():
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
