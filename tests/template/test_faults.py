"""The short forms of benchmarks/faults.py and sweep_faults.py: every kind of fault, some of each."""

import re
import sys

import pytest
from conftest import ROOT, run_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals that Windows does not have")


@pytest.mark.slow
def test_whatever_goes_wrong_nothing_is_lost():
    counts = ["--kills", 6, "--write_errors", 6, "--params", 12, "--checkpoints", 12]
    done = run_process(sys.executable, ROOT / "benchmarks" / "faults.py", *counts)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (\w[\w .]+?) +\| +(\d+) \|.*\| +(\d+) \|$", done.stdout, re.MULTILINE)
    assert [failures for _, _, failures in rows] == ["0"] * 5
    numbers = {name: int(number) for name, number, _ in rows}
    assert numbers["killed"] >= 6
    assert numbers["mutated params.json"] == numbers["mutated checkpoints"] == 12
    assert numbers["write errors"] >= 6 or "not possible here" in done.stdout


@pytest.mark.slow
def test_whoever_is_killed_every_trial_of_a_sweep_is_finished_once():
    done = run_process(sys.executable, ROOT / "benchmarks" / "sweep_faults.py", "--sweeps", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = re.findall(r"^\| +3 \| +36 \| +(\d+) \| +(\d+) \| +0 \|$", done.stdout, re.MULTILINE)
    assert sum(map(int, row)) >= 3
