"""The end of a script: Ctrl-C during its imports, and scripts in profilers, notebooks and interactive sessions."""

import subprocess
import sys

import pytest
from conftest import ROOT, run_process

WHILE_IT_IMPORTS = """
import signal, sys
class WhenTorchIsImported:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, WhenTorchIsImported())
__import__(sys.argv[1])
"""


@pytest.mark.parametrize("script", ["train", "evaluate", "build_dataset", "search_hyperparams", "preflight", "verify"])
def test_ctrl_c_while_a_script_imports_is_a_line(script):
    done = run_process(sys.executable, "-c", WHILE_IT_IMPORTS, script, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode != 0
    assert done.stderr.strip() == "interrupted"


SCRIPT = """
import atexit, sys
from toolkit.core.script import run_script
from utils import UserError

class Slow:
    def __del__(self):
        print("torn down")

slow = Slow()
atexit.register(print, "at exit")

def main():
    if sys.argv[1:] == ["wrong"]:
        raise UserError("wrong")

if __name__ == "__main__":
    run_script(main)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def python(*arguments, stdin=""):
    """Run Python, and return (exit code, standard output, standard error)."""
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], input=stdin, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


def test_a_plain_script_ends_without_teardown_after_its_exit_functions(script):
    for options in ([], ["-u"], ["-Xutf8", "-Wdefault"]):
        assert python(*options, script) == (0, "at exit\n", "")
        assert python(*options, script, "wrong") == (2, "at exit\n", "error: wrong\n")


def test_a_profiler_prints_its_profile(script):
    code, out, err = python("-m", "cProfile", "-s", "cumtime", script)
    assert (code, err) == (0, "")
    assert "function calls" in out and "Ordered by: cumulative time" in out and "(run_script)" in out
    code, out, err = python("-m", "cProfile", script, "wrong")
    assert "function calls" in out and err == "error: wrong\n"


def test_what_runs_a_script_goes_on_after_it(script, tmp_path):
    """As a notebook does with %run."""
    run = f"import runpy, sys; sys.argv = [{str(script)!r}]; runpy.run_path(sys.argv[0], run_name='__main__')"
    assert python("-c", f"{run}; print('goes on')")[1].splitlines()[0] == "goes on"
    (tmp_path / "runner.py").write_text(f"{run}\nprint('goes on')")  # such as ipython, which is a script
    for arguments in ([], [script]):
        assert "goes on" in python(tmp_path / "runner.py", *arguments)[1].splitlines()


def test_an_interactive_session_starts_after_the_script(script):
    assert "goes on" in python("-i", script, stdin="print('goes on')\n")[1]


def test_a_debugger_goes_on_after_the_script(script):
    assert "restart" in python("-m", "pdb", "-c", "continue", script, stdin="quit\n")[1]
