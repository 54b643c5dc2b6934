"""What a run was made with: command, code, versions, hardware. Kept in run.json."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic")
TEMPLATE = Path(__file__).resolve().parents[2]
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
        "files": files_of_code(project),
        "template": (git_state(TEMPLATE) or {}).get("commit"),
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
def files_of_code(project):
    """What this process has imported of the folder `project`, an experiment's `model/`, of the one above, the template.

    Returns:
        dict from name ("model/net.py", "train.py", "model/../helpers.py", see `file_of_code`) to the beginning of the
        file's SHA-256.
    """
    model = Path(project).resolve()
    loaded = {getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]}
    own = [file for file in loaded if file.endswith(".py") and not re.search(r"[\\/](site|dist)-packages[\\/]", file)]
    files, installed = {}, Path(sysconfig.get_path("stdlib")).resolve()
    for file in sorted(file for file in map(Path.resolve, map(Path, own)) if not file.is_relative_to(installed)):
        for name, place in (("model", model), ("", TEMPLATE), ("model/..", model.parent)):
            if file.is_relative_to(place) and file.is_file():
                files.setdefault(file, (Path(name) / file.relative_to(place)).as_posix())
    return {name: sha256(file) for file, name in files.items()}


def file_of_code(name, project):
    """The path of a file that `files_of_code` names."""
    return Path(project) / name.removeprefix("model/") if name.startswith("model/") else TEMPLATE / name


def sha256(file):
    """The SHA-256 of a file, its first 16 hexadecimal digits; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


@functools.cache
def git_state(project):
    """The commit and the uncommitted changes (a diff, with new files that are imported) of the repository of `project`.

    Returns:
        dict, or None where it is in no repository.
    """

    def git(*arguments, folder=project, check=True):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=check
        ).stdout

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        diff = git("diff", "HEAD", folder=top)
        untracked = git("ls-files", "--others", "--exclude-standard", folder=top).splitlines()
        used = {os.path.realpath(file_of_code(name, project)) for name in files_of_code(project)}
        for name in [name for name in untracked if os.path.realpath(os.path.join(top, name)) in used]:
            diff += git("diff", "--no-index", "--", os.devnull, name, folder=top, check=False)  # for `git apply`
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "uncommitted_diff": diff[:LONGEST_DIFF], "untracked_files": untracked[:1000]}


def version(package):
    """The installed version of a package, or None; without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def name_of_device(device):
    """The name of a torch.device for people: of a GPU, what it is, too."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.device(device).type == "cuda" else str(device)


def processor():
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
