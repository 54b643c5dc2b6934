"""What the tests share: the real digits as a dataset, a small experiment on them, scripts run as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit.core.script import run_script
from toolkit.core.task import import_model_package
from toolkit.datasets.builder import build
from toolkit.datasets.sources import digits

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "tests" / "projects" / "images"  # a frozen copy of the template's own model/, which a clone changes
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or torch warns where the machine's own name is not to be found
for number in [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]:
    if signal.getsignal(number) == signal.SIG_IGN:  # by nohup, or a shell's &: not to be inherited by what is tested
        signal.signal(number, lambda *_: None)
SMALL = {"num_channels": 4, "num_epochs": 2, "batch_size": 64, "learning_rate": 0.01}


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """The digits, built once. Tests that change a dataset make a copy."""
    target = tmp_path_factory.mktemp("data") / "digits"
    build(digits(), target)
    return target


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """Run each test in a project folder of its own, with the frozen model/; nothing is written to the repository."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    copy_of(IMAGES / "model", tmp_path / "model")
    import_model_package(tmp_path / "model")


@pytest.fixture
def experiment(tmp_path, digits_dir):
    """A small experiment: `experiment.folder`, `experiment.write(key=value, ...)`, `experiment.arguments`."""
    return Experiment(tmp_path / "experiment", digits_dir)


class Experiment:
    def __init__(self, folder, data_dir):
        self.folder, self.data_dir = folder, data_dir
        folder.mkdir()
        self.write()

    def write(self, **values):
        (self.folder / "params.json").write_text(json.dumps(SMALL | values))

    @property
    def arguments(self):
        return ["--model_dir", str(self.folder), "--data_dir", str(self.data_dir), "--device", "cpu"]

    def metrics(self, name):
        return json.loads((self.folder / name).read_text())


@pytest.fixture
def call(capsys):
    """Run a script's main in this process as `python script.py` would: gives (exit code, stdout, stderr)."""

    def call(main, *arguments):
        code = 0
        try:
            run_script(lambda: main([str(a) for a in arguments]))
        except SystemExit as end:
            code = end.code
        return code, *(text.replace(os.sep, "/") for text in capsys.readouterr())

    return call


def run_process(*command, cwd=ROOT, **options):
    """Run a command in a process of its own: gives the CompletedProcess, its output as text."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["OMP_NUM_THREADS"] = (
        "1"  # as in this process: two tests, or a busy machine, do not slow each other down
    )
    environment |= options.pop("env", {})
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def snapshot(folder):
    """All files below a folder and their bytes, to see whether something was written or changed."""
    folder = Path(folder)
    if not folder.exists():
        return None
    return {f.relative_to(folder).as_posix(): f.read_bytes() if f.is_file() else None for f in folder.rglob("*")}


def copy_of(folder, target):
    """A copy of a dataset or experiment that a test may change."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True))
