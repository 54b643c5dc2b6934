"""Helpers of CS230's template are found in their classic modules, and a clone without them says where they were."""

import pytest

import utils
from toolkit.core import tools


def test_running_average():
    average = utils.RunningAverage()
    average.update(2)
    average.update(4)
    assert average() == 3.0


def test_a_name_that_no_module_has_is_an_ordinary_attribute_error():
    assert not hasattr(utils, "launch_training_job")  # that was in search_hyperparams
    with pytest.raises(AttributeError, match="^module 'utils' has no attribute 'no_such_helper'$"):
        utils.no_such_helper  # noqa: B018


def test_without_toolkit_cs230_one_line_says_where_the_helpers_are(monkeypatch):
    monkeypatch.setattr(tools, "find_tool", lambda name: None)
    with pytest.raises(AttributeError) as error:
        utils.RunningAverage  # noqa: B018
    assert str(error.value) == (
        "module 'utils' has no attribute 'RunningAverage'; helpers of CS230's template are in toolkit/cs230, which "
        "this clone does not have"
    )
