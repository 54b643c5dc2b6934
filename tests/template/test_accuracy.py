"""What the README says that the shipped experiments reach, where it takes no more than a minute to see."""

import re
import sys

import pytest
from conftest import ROOT, run_process


@pytest.mark.slow
def test_base_model_reaches_what_the_readme_says():
    done = run_process(
        sys.executable, ROOT / "benchmarks" / "accuracy.py", "experiments/base_model", "--seeds", 1, 2, 3
    )
    assert done.returncode == 0, done.stderr
    mean = float(re.findall(r"\| (\d\.\d{4}) ", done.stdout)[-1])
    assert mean >= 0.98
