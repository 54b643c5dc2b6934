import json

import pytest

from toolkit.core.setup import check_names, choose_device
from toolkit.core.task import find_task
from utils import Params, UserError


def test_a_mistyped_key_is_refused_unless_some_code_reads_it(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({"learning_rte": 0.1, "something_else": 1}))
    params = Params(tmp_path / "params.json")
    with pytest.raises(UserError, match="nothing knows the key learning_rte .did you mean learning_rate"):
        check_names(params, find_task("."), tmp_path / "params.json")
    with pytest.raises(UserError, match="^on the command line: nothing knows the key learning_rte"):
        check_names(params, find_task("."), tmp_path / "params.json", {"learning_rte": 0.1})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "net.py").write_text("Net = loss_fn = lambda params: params.learning_rte\nmetrics = {}\n")
    (tmp_path / "model" / "data_loader.py").write_text("def fetch_dataloader(types, data_dir, params):\n    pass\n")
    check_names(params, find_task("."), tmp_path / "params.json")


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"--device {name}: not there; this machine has .*cpu"):
        choose_device(name)
