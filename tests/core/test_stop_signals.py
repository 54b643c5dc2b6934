"""Ctrl-C and the signals of schedulers, sent to real processes."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from processes import finished, start, wait_for
from project_kinds import outcome, project

import utils

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def logged(experiment, text):
    log = experiment.folder / "train.log"
    return log.exists() and text in log.read_text()


OTHERS = [
    pytest.param(name, code, marks=pytest.mark.slow)
    for name, code in (("SIGTERM", 143), ("SIGUSR1", 143), ("SIGHUP", 129))
]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name, code", [("SIGINT", 130), *OTHERS])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, digits_dir, name, code, workers):
    if name in ("SIGUSR1", "SIGHUP") and workers:
        pytest.skip("as SIGTERM")
    experiment, values = project("hard", tmp_path, digits_dir)
    experiment.write(**values | {"num_epochs": 1000, "num_workers": workers})
    process = start(*experiment.arguments)
    wait_for(process, lambda: (experiment.folder / "last.pth.tar").exists())
    time.sleep(0.1)
    os.killpg(process.pid, getattr(signal, name))  # to the workers, too, as a terminal and schedulers do
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert re.search(rf"Stopped by {name}; saved (after|in) epoch .*\. To resume, run the same command again\.", out)
    state = utils.read_checkpoint(experiment.folder / "last.pth.tar")
    assert state["step"] > 0
    assert not list(experiment.folder.glob(".*"))  # no lock, nothing half-written
    done = (
        f"after epoch {state['epoch']}" if not state["batches_done"] else f"in epoch {state['epoch'] + 1} after batch"
    )
    experiment.write(**values | {"num_epochs": state["epoch"] + 1})
    code, out, err = finished(*experiment.arguments)
    assert (code, err) == (0, "")
    assert f"Resuming {done}" in out
    resumed = outcome(experiment.folder)
    assert finished(*experiment.arguments, "--restart")[0] == 0
    assert outcome(experiment.folder) == resumed


SLOW_STEP = """
import time
inner = loss_fn
def loss_fn(outputs, labels, params):
    if len(labels) > 1 and torch.is_grad_enabled():
        open("in-a-step", "w").close()
        time.sleep({seconds})
    return inner(outputs, labels, params)
"""


def slow(experiment, seconds):
    from test_errors import NET, own_model

    own_model(experiment, net=NET + SLOW_STEP.format(seconds=seconds))
    experiment.write(batch_size=700)


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_the_last_checkpoint_is_intact(experiment, tmp_path):
    slow(experiment, seconds=2)
    finished(*experiment.arguments, "--max_steps", 1, cwd=tmp_path)
    before = (experiment.folder / "last.pth.tar").read_bytes()
    (tmp_path / "in-a-step").unlink()
    process = start(*experiment.arguments, cwd=tmp_path)
    wait_for(process, lambda: logged(experiment, "Resuming in epoch 1 after batch 1"))
    (tmp_path / "in-a-step").unlink(missing_ok=True)
    wait_for(process, (tmp_path / "in-a-step").exists)
    process.send_signal(signal.SIGINT)
    message = "\nstopping after this step and saving (press Ctrl-C again to quit at once)\n"
    wait_for(process, lambda: process.err == message)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 1.5
    assert (process.returncode, err) == (130, message + "\ninterrupted\n")
    assert (experiment.folder / "last.pth.tar").read_bytes() == before
    assert not list(experiment.folder.glob(".*"))


@pytest.mark.slow
def test_a_scheduler_that_asks_twice_gets_a_saved_run(experiment, tmp_path):
    slow(experiment, seconds=1)
    process = start(*experiment.arguments, cwd=tmp_path)
    wait_for(process, lambda: logged(experiment, "Model:"))
    (tmp_path / "in-a-step").unlink(missing_ok=True)
    wait_for(process, (tmp_path / "in-a-step").exists)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Stopped by SIGUSR1; saved in epoch 1 after batch" in out
    assert utils.read_checkpoint(experiment.folder / "last.pth.tar")["step"] >= 1


@pytest.mark.slow
def test_nohup_is_respected(experiment, tmp_path):
    slow(experiment, seconds=0.3)
    process = start(*experiment.arguments, cwd=tmp_path, ignored=["SIGHUP"])
    wait_for(process, (tmp_path / "in-a-step").exists)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.slow
def test_a_terminal_that_is_gone_is_no_reason_to_lose_the_step(experiment, tmp_path):
    """SIGHUP comes when the terminal is closed: nothing can be written to it any more."""
    slow(experiment, seconds=1)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, ROOT / "train.py", *experiment.arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    wait_for(process, lambda: logged(experiment, "Model:"))
    (tmp_path / "in-a-step").unlink(missing_ok=True)
    wait_for(process, (tmp_path / "in-a-step").exists)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert utils.read_checkpoint(experiment.folder / "last.pth.tar")["step"] >= 1
    assert logged(experiment, "Stopped by SIGHUP; saved in epoch 1 after batch")
