"""Trials of a sweep that several processes train together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, SMALL

import search_hyperparams
import utils

SPACE = {"learning_rate": [0.01, 0.02]}


@pytest.fixture
def sweep(tmp_path, digits_dir):
    """Makes a sweep's folder: gives it and the arguments."""

    def sweep(name, *more, **values):
        folder = tmp_path / name
        folder.mkdir()
        values = SMALL | {"architecture": "DenseNet", "hidden_sizes": [16], "dropout_rate": 0} | values
        (folder / "params.json").write_text(json.dumps(values))
        (folder / "search_space.json").write_text(json.dumps(SPACE))
        arguments = ["--parent_dir", folder, "--data_dir", digits_dir, "--devices", "cpu", "--jobs", 1, *more]
        return folder, [str(argument) for argument in arguments]

    return sweep


def results(folder):
    return {path.parent.name: utils.read_json(path) for path in folder.glob("*/metrics_val_last_weights.json")}


@pytest.mark.slow
def test_two_processes_give_a_trial_the_compute_metric_one(call, sweep):
    alone, arguments = sweep("alone")
    assert call(search_hyperparams.main, *arguments)[0] == 0
    together, arguments = sweep("together", "--gpus_per_trial", 2)
    code, out, err = call(search_hyperparams.main, *arguments)
    assert (code, err) == (0, "")
    assert "1 at a time, on cpu+cpu" in out and "2 finished" in out
    assert "and 1 more (ddp)" in (together / "learning_rate=0.01" / "train.log").read_text()
    assert results(together).keys() == results(alone).keys() and len(results(alone)) == 2
    for name, result in results(together).items():
        assert result == results(alone)[name] | {"loss": pytest.approx(results(alone)[name]["loss"], rel=1e-4)}


@pytest.mark.slow
def test_pruned_trials_end_in_all_their_processes(call, sweep):
    folder, arguments = sweep("pruned", "--gpus_per_trial", 2, "--pruner", "asha", num_epochs=4)
    (folder / "search_space.json").write_text(json.dumps({"learning_rate": [0.02, 0.03, 1e-6]}))
    code, out, err = call(search_hyperparams.main, *arguments)
    assert (code, err) == (0, "")
    assert "pruned: accuracy" in out


@pytest.mark.skipif(sys.platform == "win32", reason="finds the process by ps")
@pytest.mark.slow
def test_a_process_that_is_killed_takes_the_trial_to_new_ones(sweep):
    folder, arguments = sweep("killed", "--gpus_per_trial", 2, num_epochs=15, checkpoint_minutes=1e-9)
    command = [sys.executable, str(ROOT / "search_hyperparams.py"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last, helper = folder / "learning_rate=0.01" / "last.pth.tar", None
    deadline = time.monotonic() + 120
    while helper is None and time.monotonic() < deadline:
        time.sleep(0.02)
        helper = find(str(folder / "learning_rate=0.01")) if last.exists() else None
    os.kill(helper, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    assert "its process ended with code 1; going on with it" in out and "2 finished" in out


def find(text):
    """The process id of train.py with `text` among its arguments, or None."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    return next((int(line.split()[0]) for line in listed.splitlines() if "train.py" in line and text in line), None)


def test_a_number_of_processes_that_cannot_be_is_said(sweep, call):
    _, arguments = sweep("wrong", "--gpus_per_trial", "0")
    code, _, err = call(search_hyperparams.main, *arguments)
    assert code == 2 and "argument --gpus_per_trial: is 0, should be 1 or more" in err
