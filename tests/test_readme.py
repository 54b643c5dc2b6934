"""The commands of the README, run as they stand in a fresh copy of the repository."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_process
from PIL import Image
from sklearn.datasets import load_sample_images
from test_docs import BASE, write_project
from torchvision import models

import build_dataset
import search_hyperparams
from model import net
from utils import Params

README = (ROOT / "README.md").read_text(encoding="utf-8")
THE_SUITE_ITSELF = ("make test", "pytest")


def commands(text=README):
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and line not in THE_SUITE_ITSELF]


@pytest.mark.slow
def test_the_readme_runs(tmp_path):
    """All bash blocks, in order, in one copy; with the environment that the tests run in."""
    clone = fresh_copy(tmp_path / "clone")
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
    assert len(list((clone / "experiments/learning_rate").glob("*/best.pth.tar"))) == 16
    assert "±" in printed["python synthesize_results.py --parent_dir experiments/learning_rate --html"]
    assert "Reproduced: " in printed["python train.py --reproduce experiments/base_model"]
    assert "All is well" in printed["python preflight.py --model_dir experiments/base_model"]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["examples/ner/README.md", "examples/regression/README.md",
                                  "examples/transfer/README.md", "examples/cifar10/README.md",
                                  "docs/your_own_task.md"])  # fmt: skip
def test_the_commands_of_examples_and_docs_run(tmp_path, page):
    """With files in the places that they name; what takes minutes for a few steps, and weights as if downloaded."""
    clone = fresh_copy(tmp_path / "clone")
    text = (clone / page).read_text(encoding="utf-8")
    photos(clone / "path" / "to" / "photos")
    shutil.copytree(clone / "examples" / "ner" / "data" / "sample", clone / "path" / "to" / "corpus")
    rows = [f"{i},{i % 7},{(i * i) % 11},{3 * (i % 7) + (i * i) % 11}" for i in range(100)]
    (clone / "houses.csv").write_text("\n".join(["id,rooms,age,price", *rows]))
    if page.startswith("docs"):
        write_project(clone / "my_task", BASE)
    elif "transfer" in page:
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


def fresh_copy(clone):
    """A copy of the repository as git would clone it, with what is not committed yet."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: cannot tell which files belong to the repository")
    for name in listed.stdout.splitlines():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    return clone


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
        if script == "search_hyperparams.py":
            search_hyperparams.parse_arguments([a for a in arguments if a != "--help"])
        for experiment in (a for a in arguments if a.startswith("experiments/")):
            Params(ROOT / experiment / "params.json", declared=net.Hyperparameters)


@pytest.mark.slow
def test_the_space_and_the_slurm_script_of_the_docs(tmp_path):
    """The script, as bash runs it: when the time is nearly over it saves, and submitted again it goes on."""
    docs = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    space = re.search(r"^```json\n(.*?)^```", docs, re.MULTILINE | re.DOTALL)[1]
    script = next(
        block
        for block in re.findall(r"^```bash\n(.*?)^```", docs, re.MULTILINE | re.DOTALL)
        if "sbatch" in block.lower()
    )
    clone = fresh_copy(tmp_path / "clone")
    (clone / "sweep.sh").write_text(script)
    sweep = clone / "experiments" / "my_sweep"
    sweep.mkdir()
    (sweep / "search_space.json").write_text(space)
    (sweep / "params.json").write_text(json.dumps({"dataset": "digits", "num_epochs": 4}))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = []
    for _ in range(2):
        job = subprocess.Popen(["bash", "sweep.sh"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(list(sweep.glob("*/best.pth.tar"))) < len(ended) + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=120)
        assert job.returncode == 143
        ended = [json.loads(path.read_text())["sessions"][-1] for path in sweep.glob("*/run.json")]
        assert all({"finished", "pruned", "stopped"} & session.keys() for session in ended), out
        assert "The same command goes on." in out
