"""Helpers of CS230's template are found in their classic modules."""

import pytest

import utils


def test_running_average():
    average = utils.RunningAverage()
    average.update(2)
    average.update(4)
    assert average() == 3.0


def test_a_name_that_no_module_has_is_an_ordinary_attribute_error():
    assert not hasattr(utils, "launch_training_job")  # that was in search_hyperparams
    with pytest.raises(AttributeError, match="^module 'utils' has no attribute 'no_such_helper'$"):
        utils.no_such_helper  # noqa: B018
