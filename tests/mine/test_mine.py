"""`make mine` removes what a project of one's own does not need, loses nothing, and leaves git alone."""

import shutil
import subprocess
import sys

import pytest
from conftest import fresh_copy, run_process, snapshot

TEMPLATE_ONLY = {"examples", "benchmarks", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}


def git(clone, *arguments):
    return subprocess.run(["git", *arguments], cwd=clone, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of the repository with one commit and a remote."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A. Student")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "student@example.com")
    clone = fresh_copy(tmp_path / "My project")
    git(clone, "init", "-q")
    git(clone, "add", "-A")
    git(clone, "-c", "commit.gpgsign=false", "commit", "-q", "-m", "Start")
    git(clone, "remote", "add", "origin", "https://example.com/mine.git")
    return clone


def mine(clone, *arguments):
    return run_process(sys.executable, "-m", "toolkit.mine", *arguments, cwd=clone, stdin=subprocess.DEVNULL)


def top_level(clone):
    return {path.name for path in clone.iterdir()}


def test_it_removes_what_is_about_the_template_only(clone):
    before, commit = top_level(clone), git(clone, "rev-parse", "HEAD")
    done = mine(clone, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert before - top_level(clone) == TEMPLATE_ONLY
    assert not any((clone / "tests" / name).exists() for name in ("examples", "template", "mine"))
    assert {"starter", "core", "export", "projects"} <= {path.name for path in (clone / "tests").iterdir()}
    for path in TEMPLATE_ONLY | {"tests/template"}:
        assert f"\n  {path}\n" in done.stdout
    assert "README.md" in done.stdout.splitlines()[-1]  # still mentions examples/
    assert (git(clone, "rev-parse", "HEAD"), git(clone, "remote")) == (commit, "origin")
    assert git(clone, "diff", "--cached", "--name-only") == ""  # the user commits
    git(clone, "checkout", "-q", ".")
    assert top_level(clone) == before


def test_it_also_removes_the_tools_that_are_named(clone):
    done = mine(clone, "--yes", "preflight", "sweep")
    assert (done.returncode, done.stderr) == (0, "")
    for path in ("preflight.py", "toolkit/preflight", "tests/preflight", "search_hyperparams.py", "docs/sweeps.md"):
        assert not (clone / path).exists()
        assert f"\n  {path}\n" in done.stdout
    assert (clone / "predict.py").exists() and (clone / "toolkit" / "verify").exists()


def test_an_unknown_tool_is_named_with_those_that_there_are(clone):
    before = top_level(clone)
    done = mine(clone, "--yes", "exports")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: there is no tool exports; the tools are cs230, datasets, evaluation_report,")
    assert top_level(clone) == before


def test_nothing_is_removed_that_git_could_not_bring_back(clone):
    def is_refused(*reasons, arguments=("--yes",)):
        before = snapshot(clone / "examples")
        done = mine(clone, *arguments)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert all(reason in done.stderr for reason in reasons), done.stderr
        assert snapshot(clone / "examples") == before and (clone / "benchmarks").exists()

    (clone / "model" / "net.py").write_text("# changed, and not to be removed\n")
    is_refused("nothing was removed", arguments=())  # nobody can answer
    result = clone / "examples" / "ner" / "experiments" / "base_model" / "best.pth.tar"
    result.write_text("ignored by git, but a result of mine")
    is_refused("examples/ner/experiments/base_model/best.pth.tar", "(1 files in all) is not committed")
    result.unlink()
    (clone / "benchmarks" / "bench.py").write_text("")
    (clone / "benchmarks" / "own.py").write_text("")
    is_refused("benchmarks/bench.py (2 files in all) is not committed; commit or move it first")
    shutil.rmtree(clone / ".git")
    is_refused("is not a git repository; run git init and commit everything first")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_targets_of_make_are_gone_with_what_they_run(clone):
    def targets():
        lines = run_process("make", "--no-print-directory", "help", cwd=clone).stdout.splitlines()
        return [line.split()[1] for line in lines]

    assert targets() == ["train", "test", "bench", "mine"]
    answer = ["make", "mine", "WITHOUT=export", f"PYTHON={sys.executable}"]
    assert run_process(*answer, cwd=clone, stdin=subprocess.DEVNULL).returncode == 2  # asks; nobody can answer
    assert mine(clone, "--yes", "preflight", "sweep").returncode == 0
    assert targets() == ["train", "test"]
    printed = run_process("make", "--dry-run", "train", "VENV=.venv", cwd=clone).stdout
    assert "preflight.py" not in printed and "search_hyperparams.py" not in printed and "build_dataset.py" in printed


@pytest.mark.slow
@pytest.mark.parametrize("tools", [[], ["export", "preflight", "sweep", "cs230"]], ids=["no_tool", "four_tools"])
def test_what_is_left_trains_and_its_tests_pass(clone, tools):
    assert mine(clone, "--yes", *tools).returncode == 0
    ruff = run_process(sys.executable, "-m", "ruff", "check", cwd=clone)
    assert ruff.returncode == 0 or "No module named ruff" in ruff.stderr, ruff.stdout
    short = ["--model_dir", "experiments/short", "--from", "experiments/base_model", "num_epochs=1"]
    pytest_here = ["-m", "pytest", "-p", "no:cacheprovider"]
    for arguments in (["train.py", *short], ["evaluate.py", *short[:2]], [*pytest_here, "tests/starter"]):
        done = run_process(sys.executable, *arguments, cwd=clone)
        assert done.returncode == 0, done.stdout + done.stderr
    done = run_process(sys.executable, *pytest_here, "--collect-only", "-m", "", cwd=clone)
    assert done.returncode == 0, done.stdout[-6000:]
