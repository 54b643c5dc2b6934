"""docs/many_gpus.md: its commands, with two processes on the CPU for eight GPUs, and its Slurm script."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import fresh_copy, run_process
from pages import blocks, commands, read_page

import utils

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="torch has no NCCL for Windows, and Slurm does not run there"),
    pytest.mark.xdist_group("torchrun"),  # all use the same port
]
PAGE = read_page("docs/many_gpus.md")
SMALL = [("--nproc_per_node=8", "--nproc_per_node=2"), ("host1:29500", "127.0.0.1:29511")]


def small(text):
    for there, here in SMALL:
        text = text.replace(there, here)
    return text


@pytest.mark.slow
def test_the_commands_run(tmp_path):
    clone = fresh_copy(tmp_path / "clone")
    assert run_process("python", "build_dataset.py", cwd=clone).returncode == 0
    for experiment in ("base_model", "learning_rate"):  # all of it, for few epochs
        file = clone / "experiments" / experiment / "params.json"
        file.write_text(json.dumps(utils.read_json(file) | {"num_epochs": 3}))
    for command in commands(PAGE):
        if "search_hyperparams" in command:
            command += " --devices cpu"
        else:
            command += " --device cpu --restart" if " train.py" in command else ""
        hosts = 2 if "--nnodes=2" in command else 1
        processes = [
            subprocess.Popen(shlex.split(small(command)), cwd=clone, env=environment(), stderr=subprocess.PIPE)
            for _ in range(hosts)
        ]
        errors = [process.communicate(timeout=400)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * hosts, (command, errors)
    sessions = utils.read_json(clone / "experiments" / "base_model" / "run.json")["sessions"]
    assert len(sessions) == 1 and "finished" in sessions[0]  # of four processes, two a host


def environment(**more):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | more


@pytest.mark.slow
def test_the_slurm_script_saves_and_queues_itself_again_when_its_time_is_over(tmp_path):
    """With Slurm's two commands played by scripts: one host, and `srun` that runs what it is given there."""
    clone = fresh_copy(tmp_path / "clone")
    assert run_process("python", "build_dataset.py", cwd=clone).returncode == 0
    (clone / "experiments" / "base_model" / "params.json").write_text('{"dataset": "digits", "num_epochs": 40}')
    (tmp_path / "bin").mkdir()
    played = {
        "scontrol": f'#!/bin/sh\nif [ "$1" = requeue ]; then echo "$2" >> {tmp_path}/queued; else echo 127.0.0.1; fi\n',
        "srun": '#!/bin/sh\nexec "$@"\n',
    }
    for name, text in played.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (script,) = blocks(PAGE, "sh")
    (clone / "train.sh").write_text(small(script).replace(":29500", ":29512"))
    slurm = {"SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""}
    slurm["PATH"] = f"{tmp_path}/bin{os.pathsep}{environment()['PATH']}"
    folder = clone / "experiments" / "base_model"

    def job():
        command = ["bash", "train.sh"]
        return subprocess.Popen(command, cwd=clone, env=environment(**slurm), stderr=subprocess.PIPE, text=True)

    first = job()
    deadline = time.monotonic() + 120
    while not (folder / "history.csv").exists():
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert (tmp_path / "queued").read_text() == "7\n", err
    position = utils.read_checkpoint(folder / "last.pth.tar")
    assert 0 < position["epoch"] < 40
    second = job()
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert (tmp_path / "queued").read_text() == "7\n"
    first, second = utils.read_json(folder / "run.json")["sessions"]
    assert "stopped" in first and "finished" in second and second["first_step"] == position["step"] + 1
