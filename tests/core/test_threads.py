"""How torch's threads wait is settled before torch is imported, which alone reads it, and left to who has settled it."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = """
import os, sys
class WhenTorchIsImported:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)
sys.meta_path.insert(0, WhenTorchIsImported())
__import__(sys.argv[1])
"""


@pytest.mark.parametrize("script", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("setting", "found"), [({}, "500"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_it_is_set_in_time_or_as_the_user_has_it(script, setting, found):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, script],
        cwd=ROOT,
        env=environment | setting,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == found
