"""The size of the code: how much somebody who clones this has to own. Two limits are not yet those of the budget."""

import pytest
from conftest import ROOT

CODE = ("*.py", "*.js", "*.html")


def lines(*paths):
    """Return the number of lines of code in files, and in the files below folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else below(path))]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def below(folder):
    return [file for pattern in CODE for file in folder.rglob(pattern)]


@pytest.mark.parametrize(
    ("paths", "most"),
    [
        (["train.py"], 170),
        (["utils.py"], 400),
        (["toolkit/core"], 5680),  # the budget is 3,500: lower this limit with each line that goes
        (["*.py", "model", "toolkit"], 12_799),  # without tests, examples, benchmarks, docs; the budget is 10,000
    ],
    ids=["train", "utils", "core", "all"],
)
def test_the_code_does_not_grow_beyond_its_limit(paths, most):
    files = [path for pattern in paths for path in ROOT.glob(pattern)]
    assert lines(*files) <= most
