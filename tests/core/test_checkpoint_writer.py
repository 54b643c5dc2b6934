"""A checkpoint is of the moment it was taken, though it is written while the training goes on."""

import os
import time

import pytest
import torch

import utils
from toolkit.core.checkpoint_writer import CheckpointWriter
from toolkit.core.lock import ExperimentLock
from utils import UserError


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = ExperimentLock(folder)
    lock.acquire()
    yield CheckpointWriter(folder, lock, minutes=5)
    lock.release()


def state_of(*tensors, **more):
    return {"epoch": 1, "state_dict": dict(enumerate(tensors)), "optim_dict": {}, **more}


def test_what_changes_afterwards_does_not_change_it(checkpoints):
    weights, kept = torch.zeros(1_000_000), {}
    for step in range(5):
        weights.fill_(step)
        checkpoints.save(state_of(weights, step=step), f"after step {step}", is_best=step == 3)
        weights.fill_(-1)
    checkpoints.wait()
    for name in ("last", "best", "previous"):
        state = utils.read_checkpoint(checkpoints.folder / f"{name}.pth.tar")
        kept[name] = (state["step"], state["state_dict"][0].unique().tolist())
    assert kept == {"last": (4, [4]), "best": (3, [3]), "previous": (3, [3])}
    assert checkpoints.position == "after step 4"


def test_tied_weights_are_written_once(checkpoints):
    weights = torch.zeros(100_000)
    checkpoints.save(state_of(weights, weights.view(-1), weights.view(10, -1)), "now")
    checkpoints.wait()
    assert 800_000 < (checkpoints.folder / "last.pth.tar").stat().st_size < 810_000


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_tensors_are_kept(checkpoints):
    checkpoints.save(state_of(torch.eye(3).to_sparse()), "now")
    checkpoints.wait()
    state = utils.read_checkpoint(checkpoints.folder / "last.pth.tar")
    assert torch.equal(state["state_dict"][0].to_dense(), torch.eye(3))


def test_what_follows_it_is_done_once_it_is_on_the_disk(checkpoints):
    file, seen = checkpoints.folder / "last.pth.tar", []
    checkpoints.save(state_of(), "now", and_then=lambda: seen.append(file.exists()))
    checkpoints.wait()
    assert seen == [True]


def test_one_that_could_not_be_written_is_said_once_and_the_next_one_can_be(checkpoints):
    checkpoints.save(state_of(step=1), "after step 1")
    checkpoints.wait()
    (checkpoints.folder / "best.pth.tar").mkdir()
    checkpoints.save(state_of(step=2), "after step 2", is_best=True)
    with pytest.raises(UserError, match=r"best.pth.tar: cannot be written"):
        checkpoints.save(state_of(step=3), "after step 3")
    assert checkpoints.position == "after step 1"
    assert utils.read_checkpoint(checkpoints.folder / "last.pth.tar")["step"] == 1
    checkpoints.save(state_of(step=3), "after step 3")
    checkpoints.wait()
    assert utils.read_checkpoint(checkpoints.folder / "last.pth.tar")["step"] == 3


def test_nothing_is_written_to_a_folder_that_took_the_place_of_its_own(checkpoints):
    checkpoints.folder.rename(checkpoints.folder.with_name("moved"))
    checkpoints.folder.mkdir()
    with pytest.raises(UserError, match="was moved or replaced during training"):
        checkpoints.save(state_of(), "now")
    assert not list(checkpoints.folder.iterdir())


def test_the_next_one_is_due_after_as_many_minutes_as_params_json_says(checkpoints):
    assert 299 < checkpoints.due_at - time.monotonic() <= 300
    checkpoints.save(state_of(), "now")
    checkpoints.wait()
    assert 299 < checkpoints.due_at - time.monotonic() <= 300


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be synced on Windows")
def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name_and_so_is_the_name(checkpoints, monkeypatch):
    calls, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("rename"), replace(old, new)))
    checkpoints.save(state_of(), "now")
    checkpoints.wait()
    assert calls == ["sync", "rename", "sync"]
