"""Scripts that run in their own processes, forked from one that has already imported everything.

Tests can kill them like those that a shell starts, but they start in a tenth of the time (on Linux; elsewhere they are
spawned).
"""

import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = ["train", "evaluate", "matplotlib.figure", "tensorboard.summary.writer.record_writer"]

context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":  # on macOS, a process that has computed anything must not be forked
    context.set_forkserver_preload(PRELOADED)


class Script:
    """Run `python script.py arguments` in its own process group; has the methods of subprocess.Popen.

    Args:
        script: "train" or "evaluate".
        arguments: the command-line arguments.
        cwd: the working directory.
        ignored: names of signals that are ignored when the process starts.
        fault: arguments of fault_arm, if the library with that function is preloaded: (folder, after, error, once).
        environment: environment variables to add to those of this process.
    """

    def __init__(self, script, *arguments, cwd=".", ignored=(), fault=None, environment=None):
        folder = tempfile.mkdtemp(prefix="script-")
        self.files = [os.path.join(folder, name) for name in ("out", "err")]
        for name in self.files:
            Path(name).touch()
        arguments = [str(argument) for argument in arguments]
        args = (script, arguments, str(cwd), self.files, ignored, fault, environment or {})
        self.process = context.Process(target=run, args=args)
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        self.process.join(0)
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def wait(self, timeout=120):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("script", timeout)
        return self.process.exitcode

    @property
    def err(self):
        """The text that it has written to stderr so far."""
        return Path(self.files[1]).read_text()

    def communicate(self, timeout=120):
        self.wait(timeout)
        texts = tuple(Path(file).read_text() for file in self.files)
        for file in self.files:
            os.unlink(file)
        os.rmdir(os.path.dirname(self.files[0]))
        return texts


def run(script, arguments, cwd, files, ignored, fault, environment):
    import importlib

    import torch

    from toolkit.core.script import run_script

    if hasattr(os, "setsid"):
        os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    for name, number in zip(files, (1, 2), strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):  # a fork server may have set them to be ignored
        if hasattr(signal, name):
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(getattr(signal, name), signal.SIG_IGN if name in ignored else default)
    multiprocessing.set_start_method(None, force=True)  # its workers start as on any machine
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT))
    sys.argv = [f"{script}.py", *arguments]
    if fault:
        folder, *numbers = fault
        ctypes.CDLL(None).fault_arm(str(folder).encode(), *map(int, numbers))
    run_script(importlib.import_module(script).main)


def start(*arguments, **options):
    return Script("train", *arguments, **options)


def finished(*arguments, **options):
    """Run train.py to its end, and return (exit code, stdout, stderr)."""
    process = start(*arguments, **options)
    out, err = process.communicate()
    return process.returncode, out, err


def wait_for(process, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group(script, count, *arguments, **options):
    """Start the processes that torchrun starts for `--nproc_per_node=<count>`, and return a list of Scripts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Script(script, *arguments, environment=environment, **options) for environment in ranks]


def group_finished(script, count, *arguments):
    """Run a group to its end, and return its exit codes, the stdout of rank 0, and the stderr of all processes."""
    processes = group(script, count, *arguments)
    texts = [process.communicate() for process in processes]
    assert not any(out for out, _ in texts[1:]), texts  # only rank 0 prints
    return [process.returncode for process in processes], texts[0][0], "".join(err for _, err in texts)
