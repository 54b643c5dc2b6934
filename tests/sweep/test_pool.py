"""The processes of a sweep."""

import sys

import pytest
from conftest import ROOT, run_process

INTERRUPTED = """
import os, signal
from multiprocessing import forkserver
from toolkit.sweep import pool

pool.start_importing()
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGINT)  # as a terminal does, to all processes at once
worker = pool.Worker(["cpu"], 1)
worker.stop()
worker.process.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there are no forked processes in sweeps there")
def test_ctrl_c_while_the_workers_still_import_ends_no_process(tmp_path):
    done = run_process(sys.executable, "-c", INTERRUPTED, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
