"""The commands of the README, run as they stand in a fresh copy of the repository."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_process
from PIL import Image
from sklearn.datasets import load_sample_images

import build_dataset
from model import net
from utils import Params

README = (ROOT / "README.md").read_text(encoding="utf-8")
THE_SUITE_ITSELF = ("make test", "pytest")


def commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and line not in THE_SUITE_ITSELF]


def test_the_readme_runs(tmp_path):
    """All bash blocks, in order, in one copy; with the environment that the tests run in."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: cannot tell which files belong to the repository")
    clone = tmp_path / "clone"
    for name in listed.stdout.splitlines():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    photos(clone / "path" / "to" / "photos")
    venv = stand_in_environment(tmp_path / "venv", clone)
    assert len(commands()) >= 8
    printed = {}
    for command in commands():
        command_here = command.replace("pip install", "pip install --dry-run")
        done = run_process("bash", "-c", command_here, cwd=clone, env={"VENV": venv})
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout
    assert "What next:" in printed["make train"]
    assert json.loads((clone / "experiments/base_model/metrics_test_best.json").read_text())["accuracy"] > 0.95
    assert json.loads((clone / "experiments/wide/params.json").read_text())["learning_rate"] == 3e-4
    assert (clone / "experiments/wide/metrics_val_last.json").exists()
    assert (clone / "experiments/photos/curves.png").exists()


def stand_in_environment(folder, clone):
    """A VENV for make that is set up already and runs the python of the tests, whose packages are left as they are."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    sums = ["sh", "-c", "cat requirements.txt constraints.txt | cksum"]
    versions = subprocess.run(sums, cwd=clone, capture_output=True)
    (folder / f".installed-{versions.stdout.split()[0].decode()}").touch()
    return str(folder)


def photos(folder):
    """Pieces of two real photographs, a class each."""
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i, (top, left) in enumerate(np.ndindex(5, 8)):
            Image.fromarray(photo[80 * top : 80 * top + 80, 80 * left : 80 * left + 80]).save(
                folder / name / f"{i}.jpg"
            )


def test_commands_named_in_passing_are_understood():
    """Those too long to run here: their arguments are parsed, and the experiments they name are there."""
    named = re.findall(r"`(python [^`]+)`", README)
    assert len(named) >= 5
    for command in named:
        script, *arguments = shlex.split(command)[1:]
        assert (ROOT / script).is_file(), command
        if script == "build_dataset.py":
            build_dataset.parse_arguments([a for a in arguments if a != "--help"])
        for experiment in (a for a in arguments if a.startswith("experiments/")):
            Params(ROOT / experiment / "params.json", declared=net.Hyperparameters)
