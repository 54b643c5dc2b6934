"""A sweep that several processes, as on several machines, share by a real PostgreSQL."""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, run_process

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="starts PostgreSQL as Unix does")]
START_SECONDS = 60


def programs():
    """The folder of PostgreSQL's programs, installed now if it is not there and that can be done; else None."""
    for attempt in range(2):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb") + glob.glob("/usr/local/pgsql/bin/initdb"))
        if shutil.which("initdb"):
            found.append(os.path.realpath(shutil.which("initdb")))
        if found:
            return Path(found[-1]).parent
        if attempt == 0 and shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
            for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-yq", "postgresql"]):
                environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(command, env=environment, capture_output=True, timeout=600)
    return None


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with psycopg, for PYTHONPATH."""
    target = tmp_path_factory.mktemp("driver")
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), "psycopg[binary]"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"psycopg cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return target


class Server:
    """A PostgreSQL of our own: `url`, `start()`, `stop()`."""

    def __init__(self, place, folder):
        self.place, self.folder, self.log = place, folder, folder.with_suffix(".log")
        folder.mkdir()
        self.user = {}
        if os.geteuid() == 0:  # as which it does not run
            self.user = {"user": "postgres"}
            shutil.chown(folder, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://sweeper@127.0.0.1:{self.port}/postgres"
        command = [place / "initdb", "-D", folder / "data", "-A", "trust", "-U", "sweeper"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **self.user)
        assert done.returncode == 0, done.stderr

    def start(self):
        address = ["-p", str(self.port), "-h", "127.0.0.1"]
        command = [self.place / "postgres", "-D", self.folder / "data", "-k", self.folder, *address]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.user)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([self.place / "pg_isready", *address], capture_output=True).returncode:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL that runs as long as the tests here do."""
    place = programs()
    if place is None:
        pytest.skip("PostgreSQL is not installed, and only root can install it with apt-get")
    folder = Path("/tmp") / f"postgresql-{os.getpid()}-{time.time_ns()}"  # a short path, which its socket needs
    server = Server(place, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)
    server.log.unlink()


def sweep(folder, **values):
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(SMALL | values))
    space = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    (folder / "search_space.json").write_text(json.dumps(space))
    return folder


def start(folder, data, server, driver, trials):
    command = [sys.executable, ROOT / "search_hyperparams.py", "--parent_dir", folder, "--data_dir", data]
    command += [
        "--storage",
        server.url,
        "--method",
        "random",
        "--trials",
        str(trials),
        "--devices",
        "cpu",
        "--jobs",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(driver), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(*folders):
    """The names of the trials that are finished, each as often as it is."""
    runs = [(path.parent.name, json.loads(path.read_text())) for f in folders for path in f.glob("*/run.json")]
    return sorted(name for name, run in runs if "finished" in run["sessions"][-1])


def test_three_processes_with_a_disk_of_their_own_each_share_one_study(tmp_path, digits_dir, server, driver):
    folders = [sweep(tmp_path / name / "on_three") for name in "abc"]
    processes = [start(folder, digits_dir, server, driver, 12) for folder in folders]
    outs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outs
    names = finished(*folders)
    assert len(names) == len(set(names)) == 12
    assert all(finished(folder) for folder in folders)
    assert not any((folder / "study.journal").exists() for folder in folders)
    with_them = outs[0][0].count(": accuracy ") + outs[1][0].count(": accuracy ") + outs[2][0].count(": accuracy ")
    assert with_them == 12


def test_what_a_killed_process_had_begun_another_goes_on_with(tmp_path, digits_dir, server, driver):
    folder = sweep(tmp_path / "killed", num_epochs=12)
    processes = [start(folder, digits_dir, server, driver, 6) for _ in range(3)]
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/history.csv"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[0].kill()
    outs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes][1:] == [0, 0], outs
    again = start(folder, digits_dir, server, driver, 6)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, "")
    assert "6 finished" in out
    names = finished(folder)
    assert len(names) == len(set(names)) == 6


def test_a_database_that_goes_away_costs_nothing(tmp_path, digits_dir, server, driver):
    folder = sweep(tmp_path / "goes away", num_epochs=30)
    process = start(folder, digits_dir, server, driver, 3)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/history.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    server.stop()
    try:
        out, err = process.communicate(timeout=120)
    finally:
        server.start()
    assert process.returncode == 2
    assert err.count("\n") == 1, err
    assert f"--storage {server.url}: cannot be used: " in err
    (begun,) = [path.parent.name for path in folder.glob("*/run.json")]
    again = start(folder, digits_dir, server, driver, 3)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, ""), out
    assert "3 finished" in out
    assert begun in finished(folder)
    assert len(json.loads((folder / begun / "run.json").read_text())["sessions"]) == 2


def test_a_database_that_cannot_be_reached_is_one_line(tmp_path, digits_dir, driver):
    folder = sweep(tmp_path / "unreachable")
    command = [sys.executable, ROOT / "search_hyperparams.py", "--parent_dir", folder, "--data_dir", digits_dir]
    command += ["--storage", "postgresql+psycopg://sweeper@127.0.0.1:1/none", "--devices", "cpu"]
    done = run_process(*command, env={"PYTHONPATH": str(driver)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--storage postgresql+psycopg://sweeper@127.0.0.1:1/none: cannot be used: " in done.stderr
    assert "Connection refused" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["params.json", "search_space.json"]
