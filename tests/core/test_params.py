"""Hyperparameters that are declared in several files, and CS230's three lines in a script or notebook of one's own."""

import pickle
from typing import Annotated

import pytest
from conftest import IMAGES
from pydantic import Field, field_validator
from three_lines import three_lines

import utils
from toolkit.core.params_schema import json_schema, params_table
from utils import Params, UserError, combined


class OfLoader(utils.Hyperparameters):
    batch_size: int | None = Field(None, ge=1)  # type: ignore[assignment]
    num_folds: int = Field(0, ge=0, description="number of folds")


class OfNet(utils.Hyperparameters):
    width: Annotated[int, Field(ge=1)] = 8
    sizes: list[int] = Field(default_factory=lambda: [1, 2])
    name: str = "a"

    @field_validator("name")
    @classmethod
    def short(cls, value):
        if len(value) > 3:
            raise ValueError("too long")
        return value


def params_of(tmp_path, text="{}", **options):
    (tmp_path / "params.json").write_text(text)
    return Params(tmp_path / "params.json", **options)


@pytest.mark.parametrize("models", [(OfLoader, OfNet), (OfNet, OfLoader), (utils.Hyperparameters, OfLoader, OfNet)])
def test_models_are_combined_in_any_order_with_bounds_and_validators(models):
    both = combined(*models)
    assert both().model_dump() == utils.Hyperparameters().model_dump() | {
        "batch_size": None,
        "num_folds": 0,
        "width": 8,
        "sizes": [1, 2],
        "name": "a",
    }
    for wrong in ({"batch_size": 0}, {"num_folds": -1}, {"width": 0}, {"name": "abcd"}, {"learning_rate": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            both(**wrong)
    assert "number of folds" in params_table(both) and '"num_folds"' in json_schema(both)


def test_a_file_that_declares_keys_checks_their_values_and_sets_their_defaults(tmp_path):
    params = params_of(tmp_path, '{"width": 4, "num_folds": 2.5}')
    assert params.batch_size == 32
    with pytest.raises(UserError, match=r"params.json: num_folds is 2.5, should be a valid integer"):
        params.declare(OfLoader)
    params = params_of(tmp_path, '{"width": 4}')
    params.declare(OfLoader)
    params.declare(OfNet)
    params.declare(OfLoader)
    assert (params.batch_size, params.num_folds, params.width, params.sizes) == (None, 0, 4, [1, 2])
    assert params.given == {"width": 4}
    assert params.defaults["batch_size"] is None and params.defaults["width"] == 8


def test_a_default_never_replaces_what_code_has_set(tmp_path):
    params = params_of(tmp_path)
    params.batch_size, params.width = 5, 9
    params.declare(OfLoader, OfNet)
    assert (params.batch_size, params.width) == (5, 9)
    params.save(tmp_path / "saved.json")
    assert utils.read_json(tmp_path / "saved.json") == {"batch_size": 5, "width": 9}


def test_params_with_keys_of_several_files_reach_a_worker_process(tmp_path):
    params = pickle.loads(pickle.dumps(params_of(tmp_path, '{"width": 3}', declared=(OfLoader, OfNet))))
    assert (params.width, params.batch_size) == (3, None)


def test_a_key_that_params_itself_uses_is_refused(tmp_path):
    for name in ("dict", "given", "declare", "_facts"):
        with pytest.raises(UserError, match=f"params.json: a key cannot be called '{name}'"):
            params_of(tmp_path, f'{{"{name}": 1}}')


def test_how_a_dataset_was_made_is_no_fact_of_it(tmp_path):
    params = params_of(tmp_path)
    params.add_facts({"source": "photos/", "num_classes": 3}, source="data/dataset.json")
    assert params.dataset_facts == {"num_classes": 3}
    assert not hasattr(params, "source")


def test_the_three_lines_of_cs230_work_in_a_script(tmp_path, digits_dir):
    (tmp_path / "params.json").write_text('{"num_channels": 4, "label_smoothing": 0.1}')
    three_lines(tmp_path, IMAGES, tmp_path, digits_dir)
