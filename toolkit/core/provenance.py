"""The record of what a run was made with, kept in run.json: command, code, versions, hardware."""

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
    """Return the time in UTC in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(project):
    """Return what is needed to reproduce this run, a dict for JSON; `project` is the `model/` folder."""
    import torch

    project = os.path.abspath(project)
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


@functools.cache  # a sweep's process trains many experiments, with the code that it imported first
def files_of_code(project):
    """Return the imported files of the user's project and of the template, a dict from name to `sha256`.

    Names are "model/net.py", "train.py", and "model/../helpers.py" for a file next to a `model/` outside the template.
    """
    model = Path(project).resolve()
    loaded = {getattr(module, "__file__", None) or "" for module in [*sys.modules.values()]}
    own = [file for file in loaded if file.endswith(".py") and not re.search(r"[\\/](site|dist)-packages[\\/]", file)]
    files, standard_library = {}, Path(sysconfig.get_path("stdlib")).resolve()
    for file in sorted(Path(file).resolve() for file in own):
        for name, folder in (("model", model), ("", TEMPLATE), ("model/..", model.parent)):
            if file.is_relative_to(folder) and file.is_file() and not file.is_relative_to(standard_library):
                files.setdefault(file, (Path(name) / file.relative_to(folder)).as_posix())
    return {name: sha256(file) for file, name in files.items()}


def file_of_code(name, project):
    """Return the path of a file that `files_of_code` names."""
    return Path(project) / name.removeprefix("model/") if name.startswith("model/") else TEMPLATE / name


def sha256(file):
    """Return the first 16 hexadecimal digits of a file's SHA-256, or None if it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


@functools.cache
def git_state(project):
    """Return a dict with the "commit" of the repository that `project` is in, and the "uncommitted_diff".

    The diff includes untracked files that are imported. Return None if the folder is in no repository.
    """

    def git(*arguments, folder=project, check=True):
        options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": 20, "check": check}
        return subprocess.run(["git", "-C", str(folder), *arguments], **options).stdout

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        diff = git("diff", "HEAD", folder=top)
        imported = {os.path.realpath(file_of_code(name, project)) for name in files_of_code(project)}
        for name in git("ls-files", "--others", "--exclude-standard", folder=top).splitlines():
            if os.path.realpath(os.path.join(top, name)) in imported:
                diff += git("diff", "--no-index", "--", os.devnull, name, folder=top, check=False)  # for `git apply`
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "uncommitted_diff": diff[:LONGEST_DIFF]}


def version(package):
    """Return the installed version of a package without importing it, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def name_of_device(device):
    """Return the name of a torch.device for people: "cpu", or "cuda:0 (NVIDIA H100)"."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.device(device).type == "cuda" else str(device)


def processor():
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
