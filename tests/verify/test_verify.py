"""verify.py proves that resuming is exact, and finds what is not."""

import sys

import pytest
from conftest import ROOT, optional, run_process
from project_kinds import LOADER, NET, own_model, project


def verify(experiment):
    return run_process(sys.executable, ROOT / "verify.py", *experiment.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["template", "classic", "hard"])
def test_exact_projects_are_proved(tmp_path, digits_dir, kind):
    experiment, values = project(kind, tmp_path, digits_dir)
    experiment.write(**values | {"batch_size": 32})
    done = verify(experiment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "saved steps. Resuming" in done.stdout
    assert "Identical to the last bit after" in done.stdout
    assert [file.name for file in experiment.folder.iterdir()] == ["params.json"]


COUNTER = """
class Annealed(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.net, self.steps = ConvNet(params), 0

    def forward(self, images):
        self.steps += self.training
        return self.net(images) * (1 + 0.1 * self.steps)


def Net(params):
    return Annealed(params)
"""
NOT_EXACT = {
    "a counter in the model": (
        {"net": NET + COUNTER},
        ["steps is not exact: ", "keep a value that is in no state_dict"],
    ),
    "images that get darker": (
        {
            "loader": LOADER.replace(
                "pixels = self.images",
                "self.count = getattr(self, 'count', 0) + 1\n        pixels = (self.images // self.count)",
            )
        },
        ["steps is not exact: ", "items of the data loader depend on what was loaded before"],
    ),
    "the time": (
        {
            "net": NET.replace(
                "return F.cross_entropy(outputs, labels)",
                "import time\n    return F.cross_entropy(outputs, labels) * (1 + time.time_ns() % 10)",
            )
        },
        ["two uninterrupted runs differ: train_loss of epoch 1 is", "a value that no seed controls"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_EXACT)
def test_what_is_not_exact_is_found_and_its_likely_cause_named(experiment, name):
    sources, messages = NOT_EXACT[name]
    own_model(experiment, **sources)
    experiment.write(batch_size=32)
    done = verify(experiment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for message in messages:
        assert message in done.stderr
    assert [file.name for file in experiment.folder.iterdir()] == ["params.json"]


@pytest.mark.slow
def test_what_is_not_exact_from_the_second_epoch_on_is_found(experiment):
    """As noise that a worker process draws from a generator that cannot be found: each epoch begins with the same."""
    hidden = "\n\nimport numpy as np\n\n\ndef later(state={}):\n    state['calls'] = state.get('calls', 0) + 1\n"
    hidden += "    return max(0, state['calls'] - 50) % 7\n\n\ninner = loss_fn\n\n\n"
    hidden += "def loss_fn(outputs, labels, params):\n    return inner(outputs, labels, params) * (1 + 0.1 * later())\n"
    own_model(experiment, net=NET + hidden)
    experiment.write(batch_size=64, num_epochs=3)
    done = verify(experiment)
    assert done.returncode == 2 and "is not exact: " in done.stderr


@pytest.mark.slow
def test_an_experiment_that_fails_is_shown(experiment):
    own_model(experiment, net=NET.replace("return F.cross_entropy(outputs, labels)", "return outputs.no_such_thing()"))
    done = verify(experiment)
    assert done.returncode == 2
    assert "training failed:" in done.stderr
    assert "no_such_thing" in done.stderr


@pytest.mark.parametrize("part", ["state_dict", "optim_dict", "stateful", "gradients", "tally"])
def test_a_difference_in_any_part_of_a_checkpoint_counts(part):
    def state(value):
        names = ["state_dict", "optim_dict", "stateful", "gradients", "tally"]
        return {"rows": [], "epoch": 1, "batches_done": 2} | {name: {"x": value * (name == part)} for name in names}

    difference_of_runs = optional("toolkit.verify.verify_resume").difference_of_runs
    assert difference_of_runs(state(1.0), state(1.0)) is None
    assert difference_of_runs(state(1.0), state(2.0)) == f"{part}/x differs"


def test_a_run_is_interrupted_in_the_middle_and_at_the_end_of_each_epoch():
    places_to_stop = optional("toolkit.verify.verify_resume").places_to_stop
    assert places_to_stop({"step": 24, "epoch": 2, "batches_done": 8}, accumulation_steps=2) == [5, 10, 15, 20]
    assert places_to_stop({"step": 7, "epoch": 0, "batches_done": 7}, accumulation_steps=1) == [3]
    assert places_to_stop({"step": 30, "epoch": 3, "batches_done": 0}, accumulation_steps=1) == [5, 10, 15, 20, 25]
