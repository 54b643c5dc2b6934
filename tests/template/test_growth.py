"""benchmarks/growth.py runs, and its table has what it is to show."""

import sys

import pytest
from conftest import ROOT, run_process


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured by what Unix has")
@pytest.mark.slow
def test_the_growth_of_everything_is_measured_and_drawn(tmp_path):
    done = run_process(sys.executable, ROOT / "benchmarks" / "growth.py", "--largest", 100, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in (tmp_path / "growth.md").read_text().splitlines() if line[:1] == "|"]
    table = {(what.strip(), curve.strip(), unit.strip()): cells for what, curve, unit, *cells in rows[2:]}
    assert ("images", "an epoch", "s") in table
    assert ("trials", "grid, when all is done", "s") in table
    *sizes, slope = table["epochs done", "last.pth.tar", "MB"]
    assert len([float(cell) for cell in sizes if cell.strip()]) == 2
    assert float(slope) < 1
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
