"""The size budget: how much code somebody who clones this has to own."""

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
        (["toolkit/core"], 3500),
        (["*.py", "model", "toolkit"], 10_000),  # without tests, examples, benchmarks and docs
    ],
    ids=["train", "utils", "core", "all"],
)
def test_the_code_keeps_to_its_budget(paths, most):
    files = [path for pattern in paths for path in ROOT.glob(pattern)]
    assert lines(*files) <= most
