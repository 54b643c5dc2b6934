"""benchmarks/gpu: all of it works at small size on a CPU, where no figure is claimed and no time asserted."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_process

MEASURE = ROOT / "benchmarks" / "gpu" / "measure.py"


@pytest.mark.slow
def test_a_measurement_that_is_not_there_is_an_error_that_lists_them():
    done = run_process(sys.executable, MEASURE, "step")
    assert done.returncode == 2
    assert "no such measurement: step; there are steps, images, peak," in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_it_says_so():
    done = run_process(sys.executable, MEASURE)
    assert done.returncode == 2
    assert "there is no CUDA GPU; --device cpu --small tries whether all works" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="its bash may be that of another system")
def test_the_script_is_one_that_bash_can_read():
    subprocess.run(["bash", "-n", MEASURE.with_name("run.sh")], check=True)


@pytest.mark.slow
def test_everything_is_measured_and_written(tmp_path):
    results = MEASURE.with_name("results.md")
    before = results.read_bytes() if results.exists() else None
    done = run_process(sys.executable, MEASURE, "--device", "cpu", "--small", "--out", tmp_path / "out.md")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "out.md").read_text()
    assert done.stdout.strip() in written
    rows = re.findall(r"^\| (\w+) +\| (.*?) +\| +([\d.,]+) +\|", written, re.M)
    assert {name for name, *_ in rows} == {"steps", "images", "peak", "checkpoint", "start", "processes"}
    assert len(rows) >= 9 + 4 + 3 + 2 + 2 + 2  # the compiled network needs a compiler
    assert f"torch {torch.__version__}" in written
    assert (results.read_bytes() if results.exists() else None) == before  # figures of a GPU alone
