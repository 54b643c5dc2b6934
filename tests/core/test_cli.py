import json

import pytest

from toolkit.core.setup import choose_device, refuse_misspelled
from utils import Params, UserError


def test_a_misspelled_key_is_refused_unless_some_code_reads_it(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({"learning_rte": 0.1, "something_else": 1, "_learning_rat": 2}))
    params = Params(tmp_path / "params.json")
    with pytest.raises(UserError, match=r"params.json: unknown key learning_rte \(did you mean learning_rate\?\)"):
        refuse_misspelled(params)
    refuse_misspelled(params, known=["learning_rte"])  # a checkpoint was trained with it
    params.learning_rte  # noqa: B018
    refuse_misspelled(params)
    params = Params(tmp_path / "params.json", overrides={"learning_rte": 0.2})
    with pytest.raises(UserError, match="^on the command line: unknown key learning_rte"):
        refuse_misspelled(params)


def test_a_declared_key_that_looks_like_another_one_is_not_misspelled(tmp_path):
    from model.net import Hyperparameters

    (tmp_path / "params.json").write_text('{"hidden_size": 7}')  # and there is hidden_sizes
    params = Params(tmp_path / "params.json", declared=Hyperparameters)
    assert list(params.unread) == ["hidden_size"]
    refuse_misspelled(params)


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"--device {name}: not there; this machine has .*cpu"):
        choose_device(name)
