import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import utils
from utils import Params, UserError


def write(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_params_reads_file_then_default(tmp_path):
    params = Params(write(tmp_path / "params.json", learning_rate=0.5, mine=[1, 2]))
    assert params.learning_rate == 0.5
    assert params.mine == [1, 2]
    assert params.batch_size == 32


def test_params_dict_is_a_live_plain_dict_as_in_cs230(tmp_path):
    params = Params(write(tmp_path / "params.json", learning_rate=0.5))
    assert params.dict["learning_rate"] == 0.5
    params.dict["learning_rate"] = 0.25
    assert params.learning_rate == 0.25
    json.dumps(params.dict)


def test_params_save_writes_what_the_file_had_and_what_was_set_but_no_defaults_and_no_facts(tmp_path):
    params = Params(write(tmp_path / "params.json", learning_rate=0.5, mine=1))
    params.add_facts({"num_classes": 10}, source="dataset.json")
    params.learning_rate = 0.25
    params.batch_size = 8
    params.new = "x"
    params.save(tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text()) == {
        "learning_rate": 0.25,
        "mine": 1,
        "batch_size": 8,
        "new": "x",
    }


def test_params_update_takes_over_another_file(tmp_path):
    params = Params(write(tmp_path / "a.json", learning_rate=0.5, mine=1))
    params.update(write(tmp_path / "b.json", learning_rate=0.1))
    assert (params.learning_rate, params.mine) == (0.1, 1)


def test_params_survive_a_worker_process(tmp_path):
    params = pickle.loads(pickle.dumps(Params(write(tmp_path / "params.json", mine=1))))
    assert params.mine == 1
    assert not hasattr(params, "other")


def test_a_missing_key_names_file_key_and_reader(tmp_path):
    params = Params(write(tmp_path / "params.json", hiden_size=3))
    with pytest.raises(
        UserError, match=r"params.json has no key 'hidden_size', which .*test_utils.py:\d+ reads.*'hiden_size'"
    ):
        params.hidden_size  # noqa: B018
    assert getattr(params, "hidden_size", 7) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"learning_rate": 0.1,\n "batch_size": }', "not valid JSON at line 2, column 16"),
        ("", "not valid JSON at line 1, column 1: the file is empty"),
        ("\n", "not valid JSON at line 1, column 1: the file is empty"),
        ('{\n "a": 1,\n}', "line 2, column 8: there is a comma after the last entry"),
        ('{"a": [1,\n]}', "line 1, column 9: there is a comma after the last entry"),
        ('{"a": 1, // one\n "b": 2}', "line 1, column 10: JSON has no comments"),
        ('{"a": 1 # one\n}', "line 1, column 9: JSON has no comments"),
        ("{\n'a': 1}", "line 2, column 1: names and texts have straight double quotes"),
        ("{a: 1}", "line 1, column 2: names and texts have straight double quotes"),
        ('{"a": (1, 2)}', "line 1, column 7: JSON has no tuples; write a list"),
        ('{"a": True}', "line 1, column 7: write true, false or null"),
        ('{"a": nan}', "line 1, column 7: JSON has no NaN"),
        ('{"a": Infinity}', "a has NaN or infinity; write null"),
        ('{"a": [1, NaN]}', "a has NaN or infinity; write null"),
        ('{"a": .5}', "line 1, column 7: numbers are written like"),
        ('{"a": 1_000}', "line 1, column 7: numbers are written like"),
        ('{"a": 1.}', "line 1, column 7: numbers are written like"),
        ('{\n "a": 1\n "b": 2}', "line 2, column 7: a comma or a colon is missing after this"),
        ('{"a": [1 2]}', "line 1, column 8: a comma or a colon is missing after this"),
        ('{\n "a": 1\n', "line 3, column 1: a { or [ is not closed"),
        ('{"a: 1,\n "b": 2}', "line 1, column 8: a text is not closed"),
        ('{"a": 1}}', "line 1, column 8: the object ended before this"),
        ("[1]", "should be an object"),
        ("\xff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"seed": 1, "seed": 2}', "'seed' occurs twice"),
        ('{"learning_rate": "fast"}', "learning_rate is 'fast', should be a valid number"),
        ('{"learning_rate": NaN}', "learning_rate is nan"),
        ('{"learning_rate": -1}', "learning_rate is -1, should be greater than 0"),
        ('{"batch_size": 0}', "batch_size is 0, should be greater than or equal to 1"),
        ('{"batch_size": 2.5}', "batch_size is 2.5"),
        ('{"num_epochs": true}', "num_epochs is True"),
        ('{"monitor_mode": "up"}', "monitor_mode is 'up', should be 'max' or 'min'"),
    ],
)
def test_a_broken_params_file_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "params.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        Params(tmp_path / "params.json")
    assert message in str(error.value)
    assert str(tmp_path / "params.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "params.json").write_text('{"mine": 1}', encoding="utf-8-sig")
    assert Params(tmp_path / "params.json").mine == 1


def test_unread_keys_are_known(tmp_path):
    params = Params(write(tmp_path / "params.json", learning_rate=0.1, forgotten=1, **{"$schema": "x"}))
    params.learning_rate  # noqa: B018
    assert params.unread == {"forgotten": tmp_path / "params.json"}


def test_a_fact_of_the_data_wins_over_nobody(tmp_path):
    params = Params(write(tmp_path / "params.json", num_classes=6))
    params.add_facts({"num_classes": 6}, source="data/x/dataset.json")
    with pytest.raises(UserError, match=r"num_classes is 6, but the dataset has 10 \(data/x/dataset.json\)"):
        params.add_facts({"num_classes": 10}, source="data/x/dataset.json")


def test_save_dict_to_json_takes_numbers_of_all_kinds(tmp_path):
    utils.save_dict_to_json({"a": np.float32(0.5), "b": torch.tensor(2), "c": 1}, tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": 0.5, "b": 2.0, "c": 1.0}


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    utils.write_whole(folder / "f", "old")
    with pytest.raises(ZeroDivisionError), utils.open_whole(folder / "f") as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert [f.name for f in folder.iterdir()] == ["f"]
    assert (folder / "f").read_text() == "old"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not say which file a descriptor is")
def test_a_file_and_its_name_have_reached_the_disk_when_it_counts_as_written(tmp_path, monkeypatch):
    synced, path = [], tmp_path / "file"

    def note(descriptor):
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(("folder", path.exists()) if place == tmp_path else (place.read_text(), path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    utils.write_whole(path, "content")
    assert synced == [("content", False), ("folder", True)]  # else a power failure leaves an empty file, or none


def test_writing_to_a_folder_that_is_not_there_is_a_clear_line(tmp_path):
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        utils.write_whole(tmp_path / "no" / "f", "x")


def trained(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def state_of(model, optimizer):
    return {"epoch": 3, "state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}


def test_a_checkpoint_gives_back_model_and_optimizer(tmp_path):
    model, optimizer = trained()
    folder = tmp_path / "folder"
    utils.save_checkpoint(state_of(model, optimizer), is_best=True, checkpoint=folder)
    assert sorted(f.name for f in folder.iterdir()) == ["best.pth.tar", "last.pth.tar"]
    other, other_optimizer = trained(seed=1)
    state = utils.load_checkpoint(folder / "best.pth.tar", other, other_optimizer)
    assert state["epoch"] == 3
    for ours, theirs in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(other_optimizer.state[other[0].weight]["exp_avg"], optimizer.state[model[0].weight]["exp_avg"])


def test_best_is_kept_when_a_later_epoch_is_worse(tmp_path):
    model, optimizer = trained()
    utils.save_checkpoint(state_of(model, optimizer), True, tmp_path)
    utils.save_checkpoint(state_of(model, optimizer) | {"epoch": 4}, False, tmp_path)
    assert utils.read_checkpoint(tmp_path / "best.pth.tar")["epoch"] == 3
    assert utils.read_checkpoint(tmp_path / "last.pth.tar")["epoch"] == 4


class Evil:
    def __reduce__(self):
        return (open, ("was-executed", "w"))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_checkpoint_is_never_run(tmp_path, new_format):
    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "c", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match="refused.*code"):
        utils.read_checkpoint(tmp_path / "c")
    assert not (tmp_path / "was-executed").exists()


@pytest.mark.parametrize("length", [0, 1, 100, 2000])
def test_a_truncated_checkpoint_is_a_clear_line(tmp_path, length):
    utils.save_checkpoint(state_of(*trained()), False, tmp_path)
    whole = (tmp_path / "last.pth.tar").read_bytes()
    (tmp_path / "last.pth.tar").write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"last.pth.tar: (cannot be read|refused)"):
        utils.read_checkpoint(tmp_path / "last.pth.tar")


def test_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path):
    utils.save_checkpoint(state_of(*trained()), False, tmp_path)
    whole = bytearray((tmp_path / "last.pth.tar").read_bytes())
    weights = trained()[0][0].weight.detach().numpy().tobytes()
    assert whole.count(weights) == 1
    whole[whole.find(weights) + 3] ^= 1
    (tmp_path / "last.pth.tar").write_bytes(whole)
    with pytest.raises(UserError, match=r"last.pth.tar: cannot be read; .*/data/\d+ does not match its checksum"):
        utils.read_checkpoint(tmp_path / "last.pth.tar")


def test_other_checkpoint_errors_are_clear_lines(tmp_path):
    model, optimizer = trained()
    with pytest.raises(UserError, match="no such checkpoint"):
        utils.load_checkpoint(tmp_path / "none", model)
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(UserError, match='no "state_dict"'):
        utils.load_checkpoint(tmp_path / "list", model)
    utils.save_checkpoint(state_of(model, optimizer), False, tmp_path)
    with pytest.raises(
        UserError, match=r"another architecture: 0.weight is \(2, 3\) there and \(4, 3\) in the model \(and"
    ):
        utils.load_checkpoint(tmp_path / "last.pth.tar", nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))


def test_seeds_depend_on_seed_and_epoch_alone():
    def draw(*arguments):
        utils.set_seed(*arguments)
        return torch.rand(1).item(), np.random.rand()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(1, 3), draw(2, 2), draw(2, 1)}) == 4


class Versioned(nn.Linear):
    """A module that asks for the version of its layout, as torchvision's mnasnet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *arguments):
        assert local_metadata.get("version") == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)


def test_modules_that_ask_for_the_version_of_their_layout_are_restored(tmp_path):
    model = Versioned(2, 2)
    utils.save_checkpoint({"epoch": 1, "state_dict": model.state_dict(), "optim_dict": {}}, False, tmp_path)
    other = Versioned(2, 2)
    utils.load_checkpoint(tmp_path / "last.pth.tar", other)
    assert torch.equal(other.weight, model.weight)
