"""The processes that train one trial of a sweep together, each on a device of its own."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from toolkit.core import processes
from toolkit.core.lock import InUse

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
TO_SAY_WHY = 10  # seconds that the first process has, when another one died, to end by itself


class Team:
    """While this context is entered, the process is the first of several, as if torchrun had started them.

    The others run train.py. When one of them dies this one does, too: the sweep goes on with the trial in new ones.

    Args:
        devices: the names of their devices, of this process's first.
        threads: how many each computes with on the CPU.
        model_dir, data_dir: of the experiment; data_dir may be None.
    """

    def __init__(self, devices, threads, model_dir, data_dir):
        self.devices, self.threads, self.processes, self.is_over = devices, threads, [], False
        self.command = [sys.executable, str(TRAIN), "--model_dir", str(model_dir)]
        self.command += ["--data_dir", str(data_dir)] if data_dir else []
        self.variables = {}

    def __enter__(self):
        if len(self.devices) == 1:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        count = str(len(self.devices))
        self.variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": count}
        for rank, device in list(enumerate(self.devices))[1:]:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(self.threads)}
            environment = os.environ | self.variables | own
            self.processes.append(subprocess.Popen([*self.command, "--device", device], env=environment))
        self.variables |= {"RANK": "0", "LOCAL_RANK": "0"}
        os.environ.update(self.variables)
        for process in self.processes:
            threading.Thread(target=self._watch, args=[process], daemon=True).start()

    def __exit__(self, kind, error, trace):
        self.is_over = True
        if kind is None or issubclass(kind, InUse):  # which is tried again, with others
            processes.shut_down()
        for process in self.processes:
            try:
                process.wait(None if kind is None else TO_SAY_WHY)
            except subprocess.TimeoutExpired:  # it waits for this one, which has failed alone
                process.kill()
                process.wait()
        for name in self.variables:
            del os.environ[name]

    def _watch(self, process):
        if process.wait() != 0:
            time.sleep(TO_SAY_WHY)
            if not self.is_over:  # it waits for what will not come
                for other in self.processes:
                    other.kill()
                os._exit(1)
