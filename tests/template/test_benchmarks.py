"""benchmarks/bench.py: every comparison is one that can be asked for, and gives a ratio; no time is asserted."""

import re
import sys

import pytest
from conftest import ROOT, run_process

BENCH = ROOT / "benchmarks" / "bench.py"


@pytest.mark.slow
def test_a_comparison_that_is_not_there_is_an_error_that_lists_them():
    done = run_process(sys.executable, BENCH, "epochs")
    assert done.returncode == 2
    assert "no such comparison: epochs; there are epoch, classic_epoch, bf16," in done.stderr


@pytest.mark.slow
def test_some_comparisons_print_a_table_with_their_ratios():
    quick = ["checkpoint", "validation", "exit", "start", "lightning"]
    done = run_process(sys.executable, BENCH, *quick, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^\| (\w+) +\|.*\| +(\d+\.\d\d|lightning is not installed) +\|.*\| +[\d.]+ +\|", done.stdout, re.M
    )
    assert [name for name, _ in rows] == quick, done.stdout


@pytest.mark.slow
def test_the_picture_is_drawn(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import bench; from beside import COMPARISONS, Result;"
        "bench.draw({name: Result(of, [1, 2], [3, 4]) for name, of in COMPARISONS.items()}, sys.argv[1])"
    )
    done = run_process(sys.executable, "-c", code, tmp_path / "results.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
