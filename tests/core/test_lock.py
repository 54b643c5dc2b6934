"""One process per experiment."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT, optional, snapshot
from processes import finished, start, wait_for

from toolkit.core.lock import ExperimentLock, InUse, is_alive, read_owner, remove_leftovers

ACQUIRE = "import sys; from toolkit.core.lock import ExperimentLock; ExperimentLock(sys.argv[1]).acquire()"


def refusal_of_another_process(folder):
    """Let another process acquire the lock of a folder, and return the last line that it prints if it is refused."""
    done = subprocess.run([sys.executable, "-c", ACQUIRE, str(folder)], cwd=ROOT, capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2]


def test_a_second_lock_of_the_same_process_is_refused_like_another_process(tmp_path):
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    with pytest.raises(InUse, match=rf"process {os.getpid()} on {socket.gethostname()} \(since 20.*is training here; "):
        ExperimentLock(tmp_path).acquire()
    assert lock.is_held and f"process {os.getpid()} on " in refusal_of_another_process(tmp_path)
    lock.release()
    assert refusal_of_another_process(tmp_path) == ""


def test_reading_the_status_of_an_experiment_does_not_release_its_lock(tmp_path):
    status_of = optional("toolkit.results.rows").status_of
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    assert is_alive(read_owner(tmp_path / ".lock"))
    assert status_of(tmp_path, {"sessions": []}, {}) == ("running", "")
    assert "InUse" in refusal_of_another_process(tmp_path)
    lock.release()


def test_the_holder_notices_when_the_folder_is_not_its_own_any_more(tmp_path):
    folder, moved = tmp_path / "one", tmp_path / "moved"
    for change in (lambda: folder.rename(moved), lambda: shutil.rmtree(folder)):
        folder.mkdir()
        lock, other = ExperimentLock(folder), ExperimentLock(folder)
        lock.acquire()
        assert lock.is_held
        change()
        assert not lock.is_held
        folder.mkdir()
        other.acquire()
        assert other.is_held and not lock.is_held
        lock.release()  # leaves the files of the other alone
        assert other.is_held and {file.name for file in folder.iterdir()} == {".lock", ".lock.os"}
        other.release()
        folder.rmdir()


def test_lock_files_deleted_by_hand_let_the_next_process_in_and_the_first_one_notices(tmp_path):
    lock, other = ExperimentLock(tmp_path), ExperimentLock(tmp_path)
    lock.acquire()
    for file in tmp_path.glob(".lock*"):  # as the message says
        file.unlink()
    assert not lock.is_held
    other.acquire()
    lock.release()
    assert other.is_held and "InUse" in refusal_of_another_process(tmp_path)
    other.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    holds = f"{ACQUIRE}\nimport os, time\nif os.fork() == 0: print('.', flush=True); time.sleep(60)\ntime.sleep(60)"
    holds = holds.replace("ExperimentLock(sys.argv[1]).acquire()", "lock = ExperimentLock(sys.argv[1]); lock.acquire()")
    process = subprocess.Popen(
        [sys.executable, "-c", holds, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b".\n"
    with pytest.raises(InUse):
        ExperimentLock(tmp_path).acquire()
    process.kill()
    process.wait()
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    lock.release()
    os.killpg(process.pid, signal.SIGKILL)  # the worker
    process.stdout.close()


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
    assert f"process {first.pid} on {socket.gethostname()}, which trained here, has died" in out
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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows disks have locks")
@pytest.mark.parametrize("owner, refused", [("dead", False), ("alive", True), ("elsewhere", True), ("garbage", False)])
@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_a_disk_without_locks_the_written_owner_decides(tmp_path, monkeypatch, owner, refused, error):
    """On one that has them what is written does not count: the operating system knows better."""
    import fcntl

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
    lock.acquire()  # the process has ended, or never had the lock: the file is not locked
    lock.release()
    (tmp_path / ".lock").write_text(json.dumps(owners[owner] | {"since": "2026-01-01"}))

    def no_locks(file, operation):
        raise OSError(error, "No locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    if refused:
        with pytest.raises(InUse, match=r"training here; .*if that process no longer exists, delete .*\.lock\*"):
            lock.acquire()
    else:
        lock.acquire()
        assert lock.is_held and read_owner(tmp_path / ".lock")["pid"] == os.getpid()
        lock.release()
        assert not list(tmp_path.glob(".*"))


def test_the_lock_is_free_at_once_when_its_holder_lets_go(tmp_path):
    for _ in range(3):
        lock = ExperimentLock(tmp_path)
        lock.acquire()
        lock.acquire()  # again, by the same: nothing happens
        lock.release()
        assert not list(tmp_path.glob(".*"))


def test_what_a_killed_process_was_writing_is_removed_by_the_next_one_and_nothing_else(tmp_path):
    finished = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, host = finished.stdout.strip(), socket.gethostname()
    gone = [
        f".metrics_test_best.json.{dead}@{host}.tmp",
        f".results.png.{dead}.tmp",
        f".d.building-x.{dead}@{host}.tmp",
    ]
    kept = [f".metrics.json.{os.getppid()}@{host}.tmp", f".metrics.json.{dead}@elsewhere.tmp", ".notes.tmp", "x.1.tmp"]
    for name in gone[:2] + kept:
        (tmp_path / name).touch()
    (tmp_path / gone[2] / "new").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= set(kept) and not any((tmp_path / n).exists() for n in gone)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_write_that_was_killed_leaves_nothing_once_the_experiment_is_evaluated_again(experiment, call):
    import evaluate
    import train

    call(train.main, *experiment.arguments, "--max_steps", 30)
    die = "import os, sys, utils\nwith utils.open_whole(sys.argv[1]) as file:\n    file.write(b'x')\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", die, str(experiment.folder / "metrics_test_best.json")], cwd=ROOT)
    assert len(list(experiment.folder.glob(".metrics_*.tmp"))) == 1
    assert call(evaluate.main, *experiment.arguments)[0] == 0
    assert not list(experiment.folder.glob(".*.tmp"))


def test_a_holder_with_another_host_name_is_refused_all_the_same(tmp_path):
    lock = ExperimentLock(tmp_path)
    lock.acquire()
    named = ACQUIRE.replace("import sys;", "import socket, sys; socket.gethostname = lambda: 'another';")
    done = subprocess.run([sys.executable, "-c", named, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "InUse" in done.stderr and lock.is_held
    lock.release()
