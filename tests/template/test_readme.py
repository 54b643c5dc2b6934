"""The commands of the README, run as they stand in a fresh copy of the repository."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, fresh_copy, run_process
from pages import check_command, commands, photos
from torchvision import models

from model import net
from utils import Params

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.search(r"^```\n( epoch .*?)^```", README, re.MULTILINE | re.DOTALL)[1]  # by `make train`
GUARANTEED = re.findall(
    r"`((?:python|pytest) [^`]+)`", README.partition("## What it guarantees")[2].partition("\n## ")[0]
)


@pytest.mark.slow
@pytest.mark.xdist_group("torchrun")  # its port is taken by one at a time
def test_the_readme_runs(tmp_path):
    """All bash blocks, in order, in one copy; with the environment that the tests run in."""
    clone = fresh_copy(tmp_path / "clone")
    photos(clone / "path" / "to" / "photos")
    venv = stand_in_environment(tmp_path / "venv", clone)
    assert len(commands(README)) >= 8
    printed = {}
    for command in commands(README):
        command_here = command.replace("pip install", "pip install --dry-run")
        done = run_process("bash", "-c", command_here, cwd=clone, env={"VENV": venv})
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed[command] = done.stdout
    assert "What next:" in printed["make train"]
    assert json.loads((clone / "experiments/base_model/metrics_test_best.json").read_text())["accuracy"] > 0.95
    assert json.loads((clone / "experiments/wide/params.json").read_text())["learning_rate"] == 3e-4
    assert (clone / "predictions.csv").read_text().count("\n") == 81
    assert len(list((clone / "experiments/learning_rate").glob("*/best.pth.tar"))) == 16
    assert "±" in printed["python synthesize_results.py --parent_dir experiments/learning_rate --html"]
    lines = [without_numbers(line) for line in printed["make train"].splitlines()]
    for line in SHOWN.splitlines():
        assert line == "..." or without_numbers(line) in lines, line


@pytest.mark.slow
def test_what_it_guarantees_is_shown_by_its_commands(tmp_path):
    """Those of a table, but for benchmarks, which take minutes, and tests, which are run anyway: there are some."""
    clone = fresh_copy(tmp_path / "clone")
    assert run_process(sys.executable, "train.py", cwd=clone).returncode == 0
    assert len(GUARANTEED) >= 10
    for command in GUARANTEED:
        script, *arguments = shlex.split(command)[1:] if command.startswith("python") else shlex.split(command)
        if script == "pytest":
            arguments = ["-m", "pytest", "--collect-only", "-m", "", *arguments]
        elif script.startswith("benchmarks/"):
            arguments = [script, "--help"]
        else:
            arguments = [script, *arguments]
        done = run_process(sys.executable, *arguments, cwd=clone)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if script == "verify.py":
            assert ("Reproduced: " if "--reproduce" in command else "Identical to the last bit") in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "examples/ner/README.md",
        "examples/regression/README.md",
        "examples/transfer/README.md",
        "examples/cifar10/README.md",
    ],
)
def test_the_commands_of_the_examples_run(tmp_path, page):
    """With files in the places that they name; what takes minutes for a few steps, and weights as if downloaded."""
    clone = fresh_copy(tmp_path / "clone")
    text = (clone / page).read_text(encoding="utf-8")
    photos(clone / "path" / "to" / "photos")
    shutil.copytree(clone / "examples" / "ner" / "data" / "sample", clone / "path" / "to" / "corpus")
    rows = [f"{i},{i % 7},{(i * i) % 11},{3 * (i % 7) + (i * i) % 11}" for i in range(100)]
    (clone / "houses.csv").write_text("\n".join(["id,rooms,age,price", *rows]))
    if "transfer" in page:
        file = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
        file.parent.mkdir(parents=True)
        torch.save(models.resnet18().state_dict(), file)
    elif "cifar10" in page:
        assert run_process(sys.executable, "build_dataset.py", "--name", "cifar10", cwd=clone).returncode == 0  # digits
    takes_minutes = "transfer" in page or "cifar10" in page
    assert len(commands(text)) >= 2
    for command in commands(text):
        if takes_minutes and " train.py" in command:
            command += " --max_steps 2"
        if takes_minutes and " evaluate.py" in command:
            command += " --restore_file last"
        done = run_process("bash", "-c", command, cwd=clone, env={"TORCH_HOME": str(tmp_path / "torch")})
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def without_numbers(line):
    """Return a line with 0 for each digit; without intervals, which are omitted if a metric is 1, and without padding."""
    return re.sub(r" +|-+", " ", re.sub(r"\d", "0", re.sub(r" \[.*?\]", "", line)))


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


def test_commands_named_in_passing_are_understood():
    """Those too long to run here: their arguments are parsed, and the experiments they name are there."""
    named = re.findall(r"`(python (?!-m)[^`]+)`", README)
    assert len(named) >= 5
    for command in named:
        check_command(command)
        for experiment in (word for word in command.split() if word.startswith("experiments/")):
            Params(ROOT / experiment / "params.json", declared=net.Hyperparameters)
