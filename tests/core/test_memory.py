import re
import sys

import numpy as np
import pytest
import torch
from processes import finished
from project_kinds import LOADER, own_model
from torch import nn

import train
from toolkit.core.memory import memory_errors_in_a_line, peak_memory, total_memory
from toolkit.core.setup import set_up
from utils import UserError

ENDLESS = 2**52  # bytes: more than a processor can address, so that it is refused at once


def test_the_peak_is_at_least_what_is_taken_and_below_what_there_is():
    taken = torch.ones(2**24)  # 64 MiB
    assert 2**26 < peak_memory("cpu") < total_memory("cpu")
    del taken
    assert peak_memory("mps") is None


def params_of(experiment, **values):
    experiment.write(**values)
    return set_up(experiment.folder, experiment.data_dir, "cpu")[1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(ENDLESS, dtype=torch.uint8),
        lambda: np.empty(ENDLESS, np.uint8),
        lambda: bytearray(ENDLESS),
    ],
    ids=["torch", "numpy", "python"],
)
def test_whoever_asks_for_too_much_the_line_says_what_to_try(experiment, ask):
    params = params_of(experiment, batch_size=64)
    with pytest.raises(UserError) as found, memory_errors_in_a_line(params):
        ask()
    assert str(found.value).startswith("cpu: out of memory while training with batch_size 64: ")
    assert "GiB was the peak" in str(found.value) and "GiB is the total" in str(found.value)
    assert str(found.value).endswith(
        '; try "batch_size": 32 with "accumulation_steps": 2, or "precision": "bf16", or a smaller network'
    )
    assert "\n" not in str(found.value)


def test_other_errors_stay_what_they_are(experiment):
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        with pytest.raises(type(error)) as found, memory_errors_in_a_line(params_of(experiment)):
            raise error
        assert found.value is error


class Greedy(nn.Module):
    """Asks for more memory than there is: in training, or in evaluation."""

    def __init__(self, model, in_training):
        super().__init__()
        self.model, self.in_training = model, in_training

    def forward(self, images):
        if self.training == self.in_training:
            images.new_empty(ENDLESS)
        return self.model(images)


@pytest.mark.parametrize("in_training", [True, False])
def test_a_run_that_runs_out_of_memory_says_where(experiment, in_training):
    experiment.write(precision="bf16", batch_size=50)
    task, params, data_dir = set_up(experiment.folder, experiment.data_dir, "cpu")
    loaders = task.fetch_dataloader(["train", "val"], data_dir, params)
    model = Greedy(task.make_model(params), in_training)
    with pytest.raises(UserError) as found, memory_errors_in_a_line(params):
        train.train_and_evaluate(
            model,
            loaders["train"],
            loaders["val"],
            task.make_optimizer(model, params),
            task.loss_fn(params),
            task.metrics,
            params,
            experiment.folder,
        )
    assert f"{'training' if in_training else 'evaluating'} with batch_size 50: " in str(found.value)
    assert f"{ENDLESS / 2**30:.2f} GiB more was asked for" in str(found.value)
    assert "precision" not in str(found.value)
    assert ("batch by batch" in str(found.value)) == (not in_training)


DIES = """
import os, signal

class Images(Images):
    def __getitem__(self, indices):
        if torch.utils.data.get_worker_info() is not None and 5 in indices:
            {how}
        return super().__getitem__(indices)


def fetch_dataloader(types, data_dir, params):
    loaders = {{}}
    params.declare(Hyperparameters)
    params.add_facts(read_image_facts(data_dir), source=f"{{data_dir}}/dataset.json")
    for split in types:
        data = Images(data_dir, split, params)
        batches = BatchIndices(len(data), params.batch_size, shuffle=split == "train")
        loaders[split] = DataLoader(data, sampler=batches, batch_size=None, num_workers=2 * (split == "train"))
    return loaders
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "(is killed by signal: Killed|exited unexpectedly)"),
        ("os._exit(3)", "exited unexpectedly"),
    ],
)
def test_a_data_loading_worker_that_dies_is_a_line_with_the_likely_cause(experiment, how, said):
    own_model(experiment, loader=LOADER + DIES.format(how=how))
    experiment.write(batch_size=32)
    code, out, err = finished(*experiment.arguments)
    assert code == 2 and err.count("\n") == 1, err
    assert "Traceback" not in out
    assert re.search(f"a data-loading worker {said}: ", err) and "num_workers" in err and "/dev/shm" in err
