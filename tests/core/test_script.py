"""How a script ends before it has begun."""

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
