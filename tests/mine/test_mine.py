"""`make mine`: a copy of the repository becomes one of its own, with tests that pass, and nothing is lost on the way."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT, fresh_copy, run_process

from toolkit import mine

OF_THE_TEMPLATE = re.compile(
    r"\b(?:examples|benchmarks)/|toolkit\.mine|make (?:mine|bench)|CONTRIBUTING|CITATION|CHANGELOG"
)


def git(*arguments, cwd):
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A copy with a history of its own, of two commits."""
    clone = fresh_copy(tmp_path / "My project")
    for key, value in {"init.defaultBranch": "main", "commit.gpgsign": "false"}.items():
        git("config", "--file", tmp_path / "config", key, value, cwd=tmp_path)
    git("init", "-q", cwd=clone)
    git("config", "user.name", "A. Student", cwd=clone)
    git("config", "user.email", "student@example.com", cwd=clone)
    git("add", "-A", cwd=clone)
    for number in (1, 2):
        git("commit", "-q", "--allow-empty", "-m", f"of the template {number}", cwd=clone)
    return clone


def make_mine(clone, *arguments, **options):
    command = [sys.executable, "-m", "toolkit.mine", *arguments]
    return run_process(*command, cwd=clone, stdin=subprocess.DEVNULL, **options)


def text_files(folder):
    """The committed files that are text, a dict from name to content."""
    names = git("ls-files", cwd=folder).splitlines()
    return {name: (folder / name).read_text(encoding="utf-8") for name in names if not name.endswith(".png")}


def test_what_stays_does_not_speak_of_what_goes():
    """Else: put it between `of the template` and `end` in comments, or name the file in toolkit/mine.py."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: cannot tell which files belong to the repository")
    gone = (*mine.FILES, *(f"{folder}/" for folder in mine.FOLDERS), "README.md")
    cut = [path for pattern in mine.CUT for path in ROOT.glob(pattern)]
    spoken = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not name.startswith(gone) and path.suffix != ".png" and path.is_file():
            text = path.read_text(encoding="utf-8")
            text = mine.without_the_templates_parts(text) if path in cut else text
            spoken += [f"{name}: {line}" for line in text.splitlines() if OF_THE_TEMPLATE.search(line)]
    assert spoken == []
    assert all((ROOT / name).exists() for name in (*mine.FILES, *mine.FOLDERS))


def test_what_would_be_lost_is_refused_in_a_line(clone):
    def refused(why, *arguments):
        before = git("rev-parse", "HEAD", cwd=clone), git("status", "--porcelain", cwd=clone)
        done = make_mine(clone, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.match(f"error: .*{why}", done.stderr), done.stderr
        assert before == (git("rev-parse", "HEAD", cwd=clone), git("status", "--porcelain", cwd=clone))

    refused("--yes goes on without")
    (clone / "notes.txt").write_text("mine")
    refused("1 uncommitted changes, notes.txt for one", "--yes")
    (clone / "notes.txt").unlink()
    (clone / "model" / "net.py").write_text("")
    refused("1 uncommitted changes, model/net.py for one", "--yes")
    git("stash", cwd=clone)
    refused("the stash goes with the history, and has 1 in it", "--yes")
    git("stash", "drop", cwd=clone)
    git("config", "status.showUntrackedFiles", "no", cwd=clone)
    (clone / "benchmarks" / "own.txt").write_text("mine")
    refused("1 uncommitted changes, benchmarks/own.txt for one", "--yes")
    (clone / "benchmarks" / "own.txt").unlink()
    trained = clone / "examples" / "ner" / "experiments" / "base_model" / "best.pth.tar"
    trained.write_text("")
    refused("best.pth.tar: 1 files that are not of the template", "--yes")
    trained.unlink()
    git("worktree", "add", "-q", clone.parent / "other", cwd=clone)
    refused("other is a worktree of this clone", "--yes")
    done = make_mine(clone.parent / "other", "--yes")
    assert done.returncode == 2 and "worktree" in done.stderr
    git("worktree", "remove", "--force", clone.parent / "other", cwd=clone)
    (clone / ".git" / "HEAD").unlink()  # git takes it for no repository
    done = make_mine(clone, "--yes")
    assert done.returncode == 2 and "git cannot read" in done.stderr and (clone / "examples").exists()


def test_a_copy_without_git_is_not_begun_where_no_commit_could_be_made(clone):
    shutil.rmtree(clone / ".git")
    done = make_mine(clone, "--yes", env={"GIT_AUTHOR_NAME": "", "GIT_COMMITTER_NAME": ""})
    assert done.returncode == 2 and "git does not know you yet" in done.stderr
    assert (clone / "examples").exists()


def test_a_clone_becomes_a_repository_of_ones_own(clone):
    (clone / "data").mkdir()
    (clone / "data" / "kept.txt").write_text("ignored by git, and mine")
    licence, commit = (clone / "LICENSE").read_bytes(), git("rev-parse", "--short", "HEAD", cwd=clone)
    done = make_mine(clone, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the history, 2 commits" in done.stdout and done.stdout.count("\n") == 2
    assert (
        git("log", "--format=%s (%an)", cwd=clone)
        == f"Begin from deep-learning-starter 0.1.0, commit {commit} (A. Student)"
    )
    assert git("status", "--porcelain", cwd=clone) == "" and git("fsck", cwd=clone) == ""
    assert (clone / "LICENSE").read_bytes() == licence and (clone / "data" / "kept.txt").exists()
    assert tomllib.loads((clone / "pyproject.toml").read_text())["project"]["name"] == "my-project"
    files = text_files(clone)
    assert not [
        name for name in files if name.startswith(("examples", "benchmarks", "tests/examples")) or "mine" in name
    ]
    assert "LICENSE" in files["README.md"] and "deep-learning-starter contributors" in files["README.md"]
    assert not [name for name, text in files.items() if OF_THE_TEMPLATE.search(text)]
    for page in [name for name in files if name.endswith(".md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", files[page]):
            assert (clone / page).parent.joinpath(link).exists(), f"{page}: {link}"
    if shutil.which("make"):  # under another make, as here in make test, it also names the directory
        lines = run_process("make", "--no-print-directory", "help", cwd=clone).stdout.splitlines()
        assert [line.split()[1] for line in lines] == ["train", "test"]
    assert make_mine(clone).returncode != 0  # it is gone


@pytest.mark.slow
def test_its_tests_pass_and_it_trains(clone):
    """In the environment of these tests: ruff, where that is there, a training, then the whole fast suite."""
    assert make_mine(clone, "--yes").returncode == 0
    done = run_process(sys.executable, "-m", "ruff", "check", cwd=clone)
    assert done.returncode == 0 or "No module named ruff" in done.stderr, done.stdout
    for script in ("train.py", "evaluate.py"):
        done = run_process(sys.executable, script, cwd=clone)
        assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-9000:]
    assert git("status", "--porcelain", cwd=clone) == ""
