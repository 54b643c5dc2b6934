"""One process an experiment."""

import json
import os
import signal
import socket
import sys

import pytest
from conftest import snapshot
from processes import finished, start, wait_for

from toolkit.core.lock import ExperimentLock
from utils import UserError


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_second_process_is_refused_with_host_and_process_id(experiment):
    experiment.write(num_epochs=100_000)
    first = start(*experiment.arguments)
    wait_for(first, lambda: (experiment.folder / "last.pth.tar").exists())
    for more in ([], ["--restart"]):
        code, _, err = finished(*experiment.arguments, *more)
        assert code == 2
        assert f"process {first.pid} on {socket.gethostname()} (since 20" in err
        assert "is training here; wait for it, stop it, or choose another --model_dir" in err
        assert err.count("\n") == 1
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert json.loads((experiment.folder / ".lock").read_text())["pid"] == first.pid
    experiment.write(num_epochs=100_001)
    code, out, err = finished(*experiment.arguments, "--max_steps", 1)
    assert (code, err) == (0, "")
    assert f"process {first.pid} on {socket.gethostname()}, which trained here, is gone" in out
    assert not (experiment.folder / ".lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_workers_that_outlive_a_killed_run_do_not_hold_its_lock(tmp_path, digits_dir):
    from project_kinds import project

    experiment, values = project("hard", tmp_path, digits_dir)
    experiment.write(**values | {"num_epochs": 1000, "num_workers": 2})
    process = start(*experiment.arguments)
    wait_for(process, lambda: (experiment.folder / "last.pth.tar").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, _, err = finished(*experiment.arguments, "--max_steps", 1)
    assert (code, err) == (0, "")
    process.communicate(timeout=60)


def test_a_run_elsewhere_is_not_disturbed_by_evaluating(experiment, call):
    import evaluate
    import train

    call(train.main, *experiment.arguments)
    lock = ExperimentLock(experiment.folder)
    lock.acquire()
    before = snapshot(experiment.folder)
    assert call(evaluate.main, *experiment.arguments)[0] == 0
    after = snapshot(experiment.folder)
    assert {name: after[name] for name in before} == before
    lock.release()


@pytest.mark.parametrize("owner, refused", [("dead", False), ("alive", True), ("elsewhere", True), ("garbage", False)])
def test_a_disk_without_locks(tmp_path, monkeypatch, owner, refused):
    """On one that has them what is written does not count: the system knows better."""
    import toolkit.core.lock

    finished = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(finished, 0)
    owners = {
        "dead": {"host": socket.gethostname(), "pid": finished},
        "alive": {"host": socket.gethostname(), "pid": os.getppid()},
        "elsewhere": {"host": "another", "pid": 1},
        "garbage": {"pid": []},
    }
    (tmp_path / ".lock").write_text(json.dumps(owners[owner] | {"since": "2026-01-01"} if owner != "garbage" else []))
    lock = ExperimentLock(tmp_path)
    lock.acquire()  # the process is not there, or is no owner: the file is not locked
    lock.release()
    (tmp_path / ".lock").write_text(json.dumps(owners[owner] | {"since": "2026-01-01"}))

    def no_locks(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(toolkit.core.lock, "take", no_locks)
    if refused:
        with pytest.raises(UserError, match=r"training here; .*if it is surely gone: delete .*\.lock"):
            lock.acquire()
    else:
        lock.acquire()
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        lock.release()


def test_the_lock_is_free_at_once_when_its_holder_lets_go(tmp_path):
    for _ in range(3):
        lock = ExperimentLock(tmp_path)
        lock.acquire()
        lock.acquire()  # again, by the same: nothing happens
        lock.release()
        assert not (tmp_path / ".lock").exists()
