"""Each tool can be deleted: the rest of a clone trains, evaluates and passes its tests without it."""

import pytest
from clones import clone_with_digits, remove, run_python, run_starter_tests
from conftest import ROOT

from toolkit.mine.__main__ import TOOLS, files_of

REMOVABLE = {tool: files_of(tool) for tool in TOOLS} | {"mine": ["toolkit/mine", "tests/mine", "tests/template"]}


def test_every_folder_of_toolkit_is_the_core_or_a_tool_that_can_be_removed():
    folders = {folder.parent.name for folder in ROOT.glob("toolkit/*/__init__.py")}
    assert folders == {"core", *REMOVABLE}
    assert [path for paths in REMOVABLE.values() for path in paths if not (ROOT / path).exists()] == []
    scripts = {path.name for path in ROOT.glob("*.py")} - {"train.py", "evaluate.py", "utils.py"}
    assert scripts == {path for paths in TOOLS.values() for path in paths if path.endswith(".py")}


@pytest.mark.parametrize("tool", REMOVABLE)
def test_a_clone_without_a_tool_works(tmp_path, digits_dir, tool):
    clone = clone_with_digits(tmp_path / "clone", digits_dir)
    remove(clone, *REMOVABLE[tool])
    run_python(
        clone, "train.py", "--model_dir", "experiments/short", "--from", "experiments/base_model", "num_epochs=1"
    )
    run_python(clone, "evaluate.py", "--model_dir", "experiments/short")
    passed, skipped = run_starter_tests(clone)
    assert passed >= 12 and skipped == 0
    run_python(clone, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only")  # no other test imports the tool


def test_a_clone_without_any_tool_works(tmp_path, digits_dir):
    clone = clone_with_digits(tmp_path / "clone", digits_dir)
    remove(clone, "examples", "benchmarks", "docs", *[path for paths in REMOVABLE.values() for path in paths])
    run_python(
        clone, "train.py", "--model_dir", "experiments/short", "--from", "experiments/base_model", "num_epochs=1"
    )
    run_python(clone, "evaluate.py", "--model_dir", "experiments/short")
    passed, skipped = run_starter_tests(clone)
    assert passed >= 12 and skipped == 0
