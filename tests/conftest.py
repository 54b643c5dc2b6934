"""Shared by all tests: the digits as a dataset, a small experiment on them, and scripts run as a user runs them."""

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
from toolkit.core.task import find_model, import_model_package

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = ROOT / "tests" / "projects"  # frozen projects; only tests/starter/ reads the clone's own model/
IMAGES = PROJECTS / "images"  # a copy of the template's own model/ and experiments/
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns if the machine's own name cannot be resolved
for number in [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]:
    if signal.getsignal(number) == signal.SIG_IGN:  # by nohup or a shell's &; the processes under test would inherit it
        signal.signal(number, lambda *_: None)
SMALL = {"num_channels": 4, "num_epochs": 2, "batch_size": 64, "learning_rate": 0.01}
TEMPLATE = ROOT / "tests" / "template"
import_model_package(IMAGES / "model")  # for test files that import it at the top


def pytest_ignore_collect(collection_path, config):
    """Leave out tests/template, which reads README and docs/, unless its marker is asked for; and absent examples."""
    if collection_path == TEMPLATE:
        return "not template" in config.option.markexpr or None
    if collection_path == ROOT / "tests" / "examples":
        return not (ROOT / "examples").is_dir() or None
    return None


@pytest.hookimpl(tryfirst=True)  # before pytest deselects tests by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(TEMPLATE):
            item.add_marker("template")


USERS = tuple(str(ROOT / name) for name in ("model", "experiments", "docs", "README.md"))  # what a clone's owner edits
opened_of_user = []  # files of USERS that this process has opened


def note_files_of_user(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(USERS):
        opened_of_user.append(arguments[0])


sys.addaudithook(note_files_of_user)


@pytest.fixture(autouse=True)
def leaves_alone_what_users_edit(request):
    """Fail a test that reads the clone's own model/, experiments/, docs/ or README.md, except where that is its point."""
    opened_of_user.clear()
    yield
    may_read = [ROOT / "tests" / name for name in ("starter", "template", "examples", "mine")]
    if not any(request.path.is_relative_to(folder) for folder in may_read):
        assert not opened_of_user


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """The digits, built once in each test process. Tests that change a dataset make a copy."""
    builder, sources = optional("toolkit.datasets.builder"), optional("toolkit.datasets.sources")
    target = tmp_path_factory.mktemp("data") / "digits"
    builder.build(sources.digits(), target)
    return target


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """Run each test in its own project folder with the frozen model/; nothing is written to the repository."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    copy_of(IMAGES / "model", tmp_path / "model")
    import_model_package(tmp_path / "model")


@pytest.fixture
def experiment(tmp_path, digits_dir):
    """Return a small experiment: `experiment.folder`, `experiment.write(key=value, ...)`, `experiment.arguments`."""
    return Experiment(tmp_path / "experiment", digits_dir)


class Experiment:
    """A folder with a params.json, and its dataset."""

    def __init__(self, folder, data_dir):
        self.folder, self.data_dir = folder, data_dir
        if find_model(folder) == ROOT / "model":  # a fixture that several tests share
            copy_of(IMAGES / "model", folder.parent / "model")
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
    """Run a script's main in this process as `python script.py` would, and return (exit code, stdout, stderr)."""

    def call(main, *arguments):
        code = 0
        try:
            run_script(lambda: main([str(a) for a in arguments]))
        except SystemExit as end:
            code = end.code
        return code, *(text.replace(os.sep, "/") for text in capsys.readouterr())

    return call


def run_process(*command, cwd=ROOT, **options):
    """Run a command in its own process, and return the CompletedProcess, with its output as text."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["OMP_NUM_THREADS"] = "1"  # as in this process, so that parallel tests do not slow each other down
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


def optional(module):
    """Import a script, or a module of a tool, that a clone may have deleted; skip the test if it is gone."""
    return pytest.importorskip(module, reason=f"{module} is not in this clone")


def snapshot(folder):
    """Return all files below a folder with their bytes, to find out whether anything was written or changed."""
    folder = Path(folder)
    if not folder.exists():
        return None
    return {f.relative_to(folder).as_posix(): f.read_bytes() if f.is_file() else None for f in folder.rglob("*")}


def copy_of(folder, target):
    """Copy a folder, so that a test may change it, and return the path of the copy."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True))


def fresh_copy(clone):
    """Copy the repository to `clone` as git would clone it, with what is not committed yet, and return its path."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: cannot tell which files belong to the repository")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():  # a file may have been deleted and not committed
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    return clone
