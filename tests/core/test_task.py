"""The hooks of the task contract, each in a small project of its own, trained by the real script."""

import json
import re

import pytest
import torch

import evaluate
import train
import utils
from toolkit.core.task import find_task

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.linear = nn.Linear(3, 2)
    def forward(self, x):
        return self.linear(x)

def loss_fn(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels)

metrics = {"accuracy": lambda outputs, labels: (outputs.argmax(1) == labels).mean()}
"""

LOADER = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def fetch_dataloader(types, data_dir, params):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    return {split: DataLoader(TensorDataset(x, y), params.batch_size, shuffle=split == "train") for split in types}
"""


@pytest.fixture
def project(tmp_path, call):
    """Write a project and train it: gives (code, out, err), the folder of its experiment, the first row of its history."""

    def project(net=NET, loader=LOADER, script=train, **params):
        experiment = tmp_path / "project" / "experiments" / "base_model"
        if not experiment.exists():
            experiment.mkdir(parents=True)
            (tmp_path / "project" / "model").mkdir()
            (tmp_path / "project" / "data").mkdir()
        (tmp_path / "project" / "model" / "net.py").write_text(net)
        (tmp_path / "project" / "model" / "data_loader.py").write_text(loader)
        values = {"batch_size": 16, "num_epochs": 2, "learning_rate": 0.1} | params
        (experiment / "params.json").write_text(json.dumps(values))
        result = call(script.main, "--model_dir", experiment, "--data_dir", tmp_path / "project" / "data")
        lines = (experiment / "history.csv").read_text().splitlines() if (experiment / "history.csv").exists() else []
        row = dict(zip(lines[0].split(","), map(float, lines[-1].split(",")), strict=True)) if lines else {}
        return result, experiment, row

    return project


def test_a_task_without_init_and_without_dataset_json(project):
    (code, out, err), experiment, row = project()
    assert (code, err) == (0, "")
    assert "project/model" in out
    assert row["val_accuracy"] > 0.8
    assert json.loads((experiment / "run.json").read_text())["dataset"] == {}


def test_net_may_be_a_function(project):
    (code, _, err), _, _ = project(NET + "\nMake = Net\ndef Net(params):\n    return Make(params)\n")
    assert (code, err) == (0, "")


def test_make_optimizer_is_used(project):
    net = (
        NET
        + "\ndef make_optimizer(model, params):\n    return torch.optim.SGD([{'params': model.linear.bias, 'lr': 0.5}])\n"
    )
    (code, _, err), experiment, row = project(net)
    assert (code, err) == (0, "")
    assert row["learning_rate"] == 0.5
    state = utils.read_checkpoint(experiment / "last.pth.tar")
    assert len(state["optim_dict"]["param_groups"][0]["params"]) == 1


NAMED_BATCHES = LOADER.replace("TensorDataset(x, y)", "[{'x': a, 'y': b, 'name': 'n'} for a, b in zip(x, y)]")


@pytest.mark.parametrize("file", ["net.py", "params.json"])
def test_an_optimizer_that_needs_a_closure_is_refused_wherever_it_comes_from(project, file):
    made = "\ndef make_optimizer(model, params):\n    return torch.optim.LBFGS(model.parameters())\n"
    net, values = (NET + made, {}) if file == "net.py" else (NET, {"optimizer": "LBFGS"})
    (code, _, err), experiment, _ = project(net, **values)
    assert code == 2 and f"{file}: optimizer LBFGS computes the loss several times a step" in err, err
    assert [path.name for path in experiment.iterdir()] == ["params.json"]


STATED = "\ndef unpack_batch(batch):\n    return batch[0], batch[1].repeat_interleave(2), len(batch[0])\n"


@pytest.mark.parametrize("stated", [False, True])
def test_unpack_batch_may_state_the_number_of_samples(project, stated):
    """The labels do not say it: two numbers for each of 16 samples, the second of which is not used."""
    net = NET
    if stated:
        net = (NET + STATED).replace("cross_entropy(outputs, labels)", "cross_entropy(outputs, labels[::2])")
        net = net.replace("== labels)", "== labels[::2])")
    (code, _, err), _, row = project(net, batch_size=24)
    assert (code, err) == (0, "")
    assert (row["val_loss"], row["train_loss"]) == pytest.approx((0.2734, 0.3462), abs=1e-3)


def test_a_number_of_samples_that_is_none_is_refused(project):
    (code, _, err), _, _ = project(NET + STATED.replace("len(batch[0])", "len(batch[0]) / 1"))
    assert code == 2 and "it should return (inputs, labels), or (inputs, labels, number of samples)" in err


def test_unpack_batch_takes_batches_of_another_form(project):
    unpack = "\ndef unpack_batch(batch):\n    return batch['x'], batch['y']\n"
    (code, _, err), _, row = project(NET + unpack, NAMED_BATCHES)
    assert (code, err) == (0, "")
    assert row["val_accuracy"] > 0.8


def test_without_it_the_message_names_it(project):
    (code, _, err), _, _ = project(NET, NAMED_BATCHES)
    assert code == 2
    assert (
        "is a dict with the keys ['x', 'y', 'name']; it should be a pair (inputs, labels), or net.py should have a function unpack_batch"
        in err
    )


def test_a_loss_with_a_third_argument_gets_params(project):
    net = NET.replace("def loss_fn(outputs, labels):", "def loss_fn(outputs, labels, params):")
    net = net.replace("cross_entropy(outputs, labels)", "cross_entropy(outputs, labels) * params.factor")
    (_, _, _), _, one = project(net, factor=1e-9)
    assert one["val_loss"] < 1e-8


def test_a_third_argument_with_a_default_is_the_users_own(project):
    net = NET.replace(
        "def loss_fn(outputs, labels):", "def loss_fn(outputs, labels, weight=None):\n    assert weight is None"
    )
    assert project(net)[0][0] == 0


def test_a_dict_of_losses_is_logged_one_by_one_and_its_loss_minimised(project):
    net = NET.replace(
        "return nn.functional.cross_entropy(outputs, labels)",
        "ce = nn.functional.cross_entropy(outputs, labels)\n    return {'loss': ce + 1, 'ce': ce, 'penalty': torch.tensor(1.0)}",
    )
    (code, out, err), _, row = project(net, monitor="ce", monitor_mode="min")
    assert (code, err) == (0, "")
    assert row["train_loss"] == pytest.approx(row["train_ce"] + row["train_penalty"])
    assert "with val ce " in out


def test_inputs_labels_and_outputs_may_be_nested(project):
    net = NET.replace("return self.linear(x)", "return {'logits': self.linear(x['a']), 'twice': (2 * x['a'],)}")
    net = net.replace("cross_entropy(outputs, labels)", "cross_entropy(outputs['logits'], labels[0])")
    net = net.replace("(outputs.argmax(1) == labels).mean()", "(outputs['logits'].argmax(1) == labels[0]).mean()")
    loader = LOADER.replace("TensorDataset(x, y)", "[({'a': a}, [b, 'name']) for a, b in zip(x, y)]")
    (code, _, err), _, row = project(net, loader)
    assert (code, err) == (0, "")
    assert row["val_accuracy"] > 0.8


def test_a_streaming_metric_gives_what_a_function_gives(project):
    net = (
        NET
        + """
class Streaming:
    def reset(self):
        self.right = self.total = 0
    def update(self, outputs, labels):
        self.right += (outputs.argmax(1) == labels).sum().item()
        self.total += len(labels)
    def compute(self):
        return self.right / self.total
metrics["streaming"] = Streaming()
"""
    )
    (_, _, _), _, row = project(net)
    assert row["val_streaming"] == row["val_accuracy"]
    assert row["train_streaming"] == row["train_accuracy"]


def test_a_task_without_accuracy_is_judged_by_its_loss(project):
    net = NET.split("metrics =")[0] + "metrics = {}\n"
    (code, out, err), _, _ = project(net)
    assert (code, err) == (0, "")
    assert "with val loss " in out


def test_keys_of_its_own_are_declared_where_they_are_read(project):
    net = NET.replace("import torch\n", "import torch\nimport utils\n", 1) + (
        "\nclass Hyperparameters(utils.Hyperparameters):\n    depth: int = 3\n"
    )
    (code, _, err), _, _ = project(net, depth="deep")
    assert code == 2
    assert "depth is 'deep', should be a valid integer" in err


def test_each_experiment_gets_the_nearest_model(project, experiment, call):
    (_, _, _), own, _ = project()
    assert call(train.main, *experiment.arguments)[0] == 0  # the repository's own, in the same process
    assert find_task(experiment.folder).folder == experiment.folder.parent / "model"
    (code, _, _), _, _ = project(script=evaluate)
    assert code == 0
    assert find_task(own).folder == own.parent.parent / "model"
    assert torch.nn.Linear is type(find_task(own).Net(None).linear)


SEVERAL = """
def scores(outputs, labels, params):
    right = outputs.argmax(1) == labels
    return {"right": right.mean(), "right/zero": right[labels == 0].mean(), "weighted": params.factor * right.mean()}
metrics["scores"] = scores
"""


def test_a_metric_may_give_several_numbers_and_take_params(project):
    (code, out, err), experiment, row = project(NET + SEVERAL, factor=2, monitor="right", monitor_mode="max")
    assert (code, err) == (0, "")
    assert row["val_right"] == row["val_accuracy"] == row["val_weighted"] / 2
    assert "with val right " in out
    assert "val_right" in out and "right/zero" not in out  # a detail: in the files, not in the log
    assert 0 <= row["val_right/zero"] <= 1
    (code, out, err), _, _ = project(NET + SEVERAL, script=evaluate, factor=2, monitor="right", monitor_mode="max")
    assert (code, err) == (0, "")
    assert re.search(r"\| part +\| right", out) and re.search(r"\| zero +\|", out)
    assert "right/zero" in json.loads((experiment / "metrics_test_best.json").read_text())


def test_two_metrics_of_one_name_are_refused(project):
    (code, _, err), _, _ = project(NET + SEVERAL.replace('"right":', '"accuracy":'), factor=1)
    assert code == 2
    assert "metrics['scores']: there is another accuracy; rename one" in err


PRETRAINED = """
def load_pretrained(model, params):
    print("pretrained weights")
    torch.nn.init.constant_(model.linear.weight, 100.0)
"""


def test_pretrained_weights_are_loaded_when_a_run_begins_and_only_then(project):
    (code, out, err), experiment, _ = project(NET + PRETRAINED, learning_rate=1e-9)
    assert (code, err, out.count("pretrained weights")) == (0, "", 1)
    weights = utils.read_checkpoint(experiment / "last.pth.tar")["state_dict"]["linear.weight"]
    assert (weights == 100).all()
    (code, out, _), _, _ = project(NET + PRETRAINED, num_epochs=3, learning_rate=1e-9)
    assert (code, out.count("pretrained weights")) == (0, 0)
    assert "Resuming after epoch 2" in out
    (code, out, _), _, _ = project(NET + PRETRAINED, script=evaluate, num_epochs=3, learning_rate=1e-9)
    assert (code, out.count("pretrained weights")) == (0, 0)


@pytest.mark.parametrize("names", ['["dev"]', "None", '{"val": 3}', '{"dev": "val"}'])
def test_split_names_of_another_form_are_named(project, names):
    (code, _, err), _, _ = project(loader=LOADER + f"\nsplit_names = {names}\n")
    assert (code, err.count("\n")) == (2, 1)
    assert "data_loader.py: split_names is" in err and '{"val": "dev"}' in err
