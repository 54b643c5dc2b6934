"""Copies of the repository, as a user would clone it, that tests change and run."""

import shutil
import subprocess
import sys

from conftest import copy_of, fresh_copy, run_process

GIT = ["git", "-c", "user.name=A. Student", "-c", "user.email=student@example.com", "-c", "commit.gpgsign=false"]


def clone_with_digits(folder, digits_dir):
    """Copy the repository, with the bundled dataset already built, and return the path of the copy."""
    clone = fresh_copy(folder)
    copy_of(digits_dir, clone / "data" / "digits")
    return clone


def commit(clone, message="Start"):
    """Commit everything in a copy, which becomes a git repository if it is not one yet."""
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", message]):
        subprocess.run([*GIT, *command], cwd=clone, check=True, capture_output=True)


def remove(clone, *paths):
    """Delete files and folders of a copy."""
    for path in paths:
        if (clone / path).is_dir():
            shutil.rmtree(clone / path)
        else:
            (clone / path).unlink(missing_ok=True)


def run_python(clone, *arguments):
    """Run Python in a copy; it has to end without an error. Return what it printed."""
    done = run_process(sys.executable, *arguments, cwd=clone)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_starter_tests(clone):
    """Run the starter tests in a copy; all have to pass. Return the number of tests that passed and were skipped."""
    printed = run_python(clone, "-m", "pytest", "-p", "no:cacheprovider", "tests/starter")
    counts = dict(reversed(part.split(" ")) for part in printed.splitlines()[-1].partition(" in ")[0].split(", "))
    return int(counts.get("passed", 0)), int(counts.get("skipped", 0))
