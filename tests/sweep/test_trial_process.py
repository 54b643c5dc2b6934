"""The processes that train the trials of a sweep."""

import sys

import pytest
from conftest import ROOT, run_process

INTERRUPTED = """
import os, signal
from multiprocessing import forkserver
from toolkit.sweep import trial_process

trial_process.start_fork_server()
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGINT)  # as a terminal does, to all processes at once
os.mkdir("trial")
trial = trial_process.TrialProcess(None, "trial", None, "cpu", 1, False, False)
trial.stop()
trial.process.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there are no forked processes in sweeps there")
def test_ctrl_c_while_the_fork_server_still_imports_ends_no_process(tmp_path):
    done = run_process(sys.executable, "-c", INTERRUPTED, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
