"""A healthy project passes all checks; one that is broken in one way fails those that this concerns, and no others."""

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import IMAGES, ROOT, run_process, snapshot
from project_kinds import copied_experiment, project

import preflight
import train
from toolkit.core.setup import set_up
from toolkit.preflight.checks import CHECKS
from toolkit.preflight.experiment import Experiment, Failed
from toolkit.preflight.model_checks import check_dead_units

NET = """
import os
import time
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(x))


def loss_fn(outputs, labels):
    return F.cross_entropy(outputs, labels)


metrics = {"accuracy": lambda outputs, labels: np.mean(outputs.argmax(1) == labels)}
Plain = Net
"""

DATA = """
import os
import time
import torch
from torch.utils.data import DataLoader, TensorDataset
from toolkit.core.image_dataset import load_images


class Digits(TensorDataset):
    pass


def tensors_of(data_dir, split):
    images, labels = load_images(data_dir, split, 32)
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:200]
    return (images[chosen].flatten(1) / 255 - 0.3) / 0.37, labels[chosen]


def fetch_dataloader(types, data_dir, params):
    return {
        split: DataLoader(Digits(*tensors_of(data_dir, split)), params.batch_size, shuffle=split == "train")
        for split in types
    }


plain_tensors, PlainDigits = tensors_of, Digits
"""


class Project:
    """A small project of its own on the digits, with text added to its two files."""

    def __init__(self, folder, digits_dir):
        self.folder, self.digits_dir = folder, digits_dir
        self.experiment = folder / "experiments" / "one"

    def check(self, call, net="", data="", **values):
        """Gives exit code, a dict from check to its result, what was printed."""
        self.write(net, data, **values)
        code, out, err = call(preflight.main, "--model_dir", self.experiment, "--data_dir", self.digits_dir)
        assert err == ""
        results = json.loads((self.experiment / "preflight.json").read_text())
        return code, {result["check"]: result for result in results}, out

    def write(self, net="", data="", **values):
        """Write the files of the project."""
        (self.folder / "model").mkdir(parents=True)
        self.experiment.mkdir(parents=True)
        (self.folder / "model" / "net.py").write_text(NET + net)
        (self.folder / "model" / "data_loader.py").write_text(DATA + data)
        (self.experiment / "params.json").write_text(json.dumps({"learning_rate": 0.01, "batch_size": 32} | values))


@pytest.fixture
def small(tmp_path, digits_dir):
    return Project(tmp_path / "project", digits_dir)


def forward(code):
    """A net whose forward is changed."""
    lines = "".join(f"        {line}\n" for line in code.strip().splitlines())
    return f"class Net(Plain):\n    def forward(self, x):\n{lines}"


def made(code, rest=""):
    """A net that is made differently."""
    lines = "".join(f"        {line}\n" for line in code.strip().splitlines())
    return f"class Net(Plain):\n    def __init__(self, params):\n        super().__init__(params)\n{lines}{rest}"


def item(code):
    """A dataset that changes an item (x, y)."""
    return f"class Digits(PlainDigits):\n    def __getitem__(self, i):\n        x, y = super().__getitem__(i)\n        {code}\n"


def loaded(code):
    """Tensors x, y of a split that are changed."""
    return f"def tensors_of(data_dir, split):\n    x, y = plain_tensors(data_dir, split)\n    {code}\n    return x, y\n"


def loss(code):
    return f"def loss_fn(outputs, labels):\n    return {code}\n"


MADE_DEEP = (
    "self.body = nn.Sequential(nn.Linear(64, 32), *[nn.Sequential(nn.Linear(32, 32), nn.Sigmoid()) for _ in range(12)])"
)
OWN_MEANS = "\n    def forward(self, x):\n        return super().forward(x @ self.mix)\n"
LENGTHS = """
class Digits(PlainDigits):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x.view(8, 8)[: 8 - i % 3], y


def padded(items):
    rows, labels = zip(*items)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.stack(labels)


""" + DATA[DATA.index("def fetch") :].replace("shuffle=", "collate_fn=padded, shuffle=")
FAULTS = {  # name: (check that fails, others that have to, words of the message, net, data, params)
    "a Net that cannot be made": ("model and data", [], r"ZeroDivisionError: .*net.py:\d+", made("1 / 0"), "", {}),
    "NaN": ("inputs and labels", [], r"batch \d of train contains NaN", "", loaded("x[7] = float('nan')"), {}),
    "a class too many": (
        "inputs and labels",
        [],
        r"batch 1 of train: the labels of the batch are \d to 10 .*model has outputs for 10 classes",
        "",
        loaded("y = y + 1"),
        {},
    ),
    "black images": ("inputs and labels", [], "all inputs of train are 0", "", loaded("x = x * 0"), {}),
    "one label for all": ("inputs and labels", [], "all labels of train are 3", "", loaded("y = y * 0 + 3"), {}),
    "a loader that crashes": ("inputs and labels", [], r"KeyError: .*data_loader.py:\d+", "", item("{}[i]"), {}),
    "a worker that crashes": (
        "inputs and labels",
        [],
        r"KeyError: .*data_loader.py:\d+",
        "",
        item("{}[i]")
        + DATA[DATA.index("def fetch") :].replace("shuffle=", "num_workers=1, shuffle=").split("\n\n\n")[0],
        {},
    ),
    "a column beside a row": (
        "inputs and labels",
        [],
        "compares each output to all labels",
        made("self.head = nn.Linear(32, 1)") + loss("F.mse_loss(outputs, labels.float())") + "metrics = {}",
        "",
        {},
    ),
    "a slow loader": (
        "loading speed",
        [],
        "waits for data",
        "",
        item("time.sleep(0.006); return x, y"),
        {"batch_size": 4},
    ),
    "inputs of a large size": ("input scale", [], "scale the inputs", "", loaded("x = 1000 * x"), {}),
    "sure of itself at the start": (
        "initial loss",
        [],
        "make the first outputs smaller",
        made("self.head.weight.data *= 40"),
        "",
        {},
    ),
    "no softmax": (
        "initial loss",
        [],
        "should be above 0",
        loss("F.nll_loss(outputs, labels)"),
        "",
        {},
    ),
    "two softmaxes": (
        "inputs and labels",
        [],
        r"net.py:\d+: loss_fn applies a softmax, but Net did so already",
        forward("return super().forward(x).softmax(1)"),
        "",
        {},
    ),
    "a loss that grows with the batch": (
        "inputs and labels",
        [],
        r"net.py:\d+: the loss is a sum over the batch, which grows with batch_size; return its mean",
        loss("F.cross_entropy(outputs, labels, reduction='sum')"),
        "",
        {},
    ),
    "a metric that always raises": (
        "inputs and labels",
        [],
        r"net.py:\d+: metrics\['accuracy'\] raised ValueError: not today",
        "def broken(outputs, labels):\n    raise ValueError('not today')\n\n\nmetrics = {'accuracy': broken}\n",
        "",
        {},
    ),
    "labels in the inputs": (
        "initial loss",
        [],
        "do the inputs contain the labels",
        forward("return super().forward(x[:, :64]) + 5 * x[:, 64:]"),
        loaded("x = torch.cat([x, torch.nn.functional.one_hot(y, 10)], 1)"),
        {},
    ),
    "a target of large numbers": (
        "initial loss",
        [],
        "standardise",
        made("self.head = nn.Linear(32, 1)", "    def forward(self, x):\n        return super().forward(x)[:, 0]\n")
        + loss("F.mse_loss(outputs, labels)")
        + "metrics = {}",
        loaded("y = y.float() + 100"),
        {},
    ),
    "a layer that is not used": ("gradients", [], "spare.weight", made("self.spare = nn.Linear(3, 3)"), "", {}),
    "detached": ("gradients", [], "body.0.weight", forward("return self.head(self.body(x).detach())"), "", {}),
    "layers in a list": (
        "gradients",
        [],
        r"more\[0\]",
        made("self.more = [nn.Linear(3, 3)]"),
        "",
        {},
    ),
    "an optimizer of a part": (
        "gradients",
        [],
        "body.0.weight",
        "def make_optimizer(model, params):\n    return torch.optim.Adam(model.head.parameters(), params.learning_rate)\n",
        "",
        {},
    ),
    "the logarithm of 0": (
        "initial loss",
        ["gradients", "overfit 16 samples"],
        "look for a logarithm of 0",
        loss("-(outputs.softmax(1) * 0).log().mean() + F.cross_entropy(outputs, labels)"),
        "",
        {},
    ),
    "the root of 0": (
        "gradients",
        ["overfit 16 samples"],
        "NaN or infinite",
        forward("h = self.body(x)\nreturn self.head(h + (0 * h).sqrt())"),
        "",
        {},
    ),
    "multiplied by 0": (
        "gradients",
        ["dead units", "overfit 16 samples"],
        "gradients are 0",
        forward("return self.head(0 * self.body(x))"),
        "",
        {},
    ),
    "weights that are too large": (
        "gradients",
        ["independent samples", "overfit 16 samples"],  # rounding, too, explodes
        "explode",
        made(
            "self.body = nn.ModuleList([nn.Linear(64, 32), *[nn.Linear(32, 32) for _ in range(12)]])",
            "        for p in self.body.parameters():\n            p.data *= 20\n\n"
            "    def forward(self, x):\n        for layer in self.body:\n            x = layer(x).sin()\n"
            "        return self.head(x)\n",
        ),
        "",
        {},
    ),
    "padding that counts": (
        "independent samples",
        [],
        "in eval mode, a sample's output changes with the others in its batch.*padding not masked",
        made(
            "self.lstm = nn.LSTM(8, 32, bidirectional=True, batch_first=True)",
            "    def forward(self, x):\n        return super().forward(self.lstm(x)[0].mean(1))\n",
        ),
        LENGTHS,
        {},
    ),
    "many sigmoids": ("gradients", ["overfit 16 samples"], "vanish", made(MADE_DEEP), "", {}),
    "a mean over the batch": (
        "independent samples",
        [],
        "in eval mode",
        forward("return super().forward(x - x.mean(0))"),
        "",
        {},
    ),
    "a mean over the batch in training": (
        "independent samples",
        [],
        "in train mode",
        forward("return super().forward(x - 0.5 * x.mean(0) if self.training else x)"),
        "",
        {},
    ),
    "time and batch mixed up": (
        "independent samples",
        [],
        "batch_first",
        made(
            "self.lstm = nn.LSTM(64, 64)",
            "    def forward(self, x):\n        return super().forward(self.lstm(x.unsqueeze(1))[0][:, 0])\n",
        ),
        "",
        {},
    ),
    "dropout in evaluation": (
        "train and eval mode",
        [],
        "two evaluations",
        forward("return super().forward(F.dropout(x, 0.1))"),
        "",
        {},
    ),
    "never in eval mode": (
        "train and eval mode",
        [],
        "in train mode after",
        "class Net(Plain):\n    def train(self, mode=True):\n        return super().train()\n",
        "",
        {},
    ),
    "never in train mode": (
        "train and eval mode",
        [],
        "changes its mode",
        forward("self.eval()\nreturn super().forward(x)"),
        "",
        {},
    ),
    "evaluations are counted": (
        "train and eval mode",
        [],
        "seen: changed",
        made(
            "self.register_buffer('seen', torch.tensor(0))",
            "    def forward(self, x):\n        self.seen += 1\n        return super().forward(x)\n",
        ),
        "",
        {},
    ),
    "another net where gradients are": (
        "train and eval mode",
        [],
        "outputs change if gradients are computed",
        "class Net(nn.Module):\n    def __init__(self, params):\n        super().__init__()\n"
        "        self.head = nn.Linear(64, 10)\n    def forward(self, x):\n"
        "        return self.head(x if torch.is_grad_enabled() else x.abs())\n",
        "",
        {},
    ),
    "units that never fire": (
        "dead units",
        [],
        r"\d+ of 32 units of body.0 are alive",
        made("self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU())\nself.body[0].bias.data[:20] = -100"),
        "",
        {},
    ),
    "no shuffling": (
        "shuffling",
        [],
        "shuffle=True",
        "",
        DATA[DATA.index("def fetch") :].replace('split == "train"', "False"),
        {},
    ),
    "images that get darker": (
        "reproducibility",
        [],
        "the data depends on what was loaded before",
        "",
        item("self.count = getattr(self, 'count', 0) + 1; return x * (1 + self.count / 1e4), y"),
        {},
    ),
    "noise that no seed governs": (
        "reproducibility",
        [],
        "batches differ if loading starts with the second one",
        "",
        item("return x + os.urandom(1)[0] / 2550, y"),
        {},
    ),
    "a net that no seed governs": (
        "reproducibility",
        [],
        "no seed controls a value",
        forward("return super().forward(x + int.from_bytes(os.urandom(4)) / 2**29 * self.training)"),
        "",
        {},
    ),
    "far too large steps": ("learning rate", ["dead units"], "the loss rises from", "", "", {"learning_rate": 100.0}),
    "far too small steps": ("learning rate", [], "take a larger one", "", "", {"learning_rate": 1e-6}),
    "blind": (
        "overfit 16 samples",
        ["dead units"],
        "do outputs depend on inputs",
        forward("return super().forward(torch.ones_like(x))"),
        "",
        {},
    ),
    "blind to each pixel": (
        "overfit 16 samples",
        ["dead units"],
        "do outputs depend on inputs",
        forward("return self.head(self.body(torch.ones_like(x))).view(-1, 3, 8, 8)")
        + made("self.head = nn.Linear(32, 192)").replace("class Net(Plain)", "class Net(Net)")
        + "metrics = {}",
        loaded("y = (x > 0).long().view(-1, 8, 8) + (x > 1).long().view(-1, 8, 8)"),
        {},
    ),
    "weights that are not saved": (
        "reproducibility",
        [],
        "mix is in no state_dict",
        made("self.mix = torch.randn(64, 64) / 8", OWN_MEANS),
        "",
        {},
    ),
    "a count that is not saved": (
        "reproducibility",
        [],
        "calls is in no state_dict",
        made(
            "self.calls = 0",
            "    def forward(self, x):\n        self.calls += self.training\n"
            "        return super().forward(x * (1 + self.calls / 100))\n",
        ),
        "",
        {},
    ),
}


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals and pipes")
MARKS = {"a slow loader": [pytest.mark.slow]}


@pytest.mark.parametrize("fault", [pytest.param(fault, marks=MARKS.get(fault, [])) for fault in FAULTS])
def test_a_fault_fails_the_checks_that_it_concerns_and_no_others(call, small, fault):
    check, others, words, net, data, values = FAULTS[fault]
    code, results, out = small.check(call, net, data, **values)
    failed = [name for name, result in results.items() if result["ok"] is False]
    assert failed == sorted([check, *others], key=list(CHECKS).index), out
    assert re.search(words, results[check]["message"]), results[check]["message"]
    assert code == 1
    assert [line[2 : 2 + len(name)] for line, name in zip(out.splitlines()[2:], CHECKS, strict=False)] == list(CHECKS)


def test_every_check_can_fail():
    assert {check for check, *_ in FAULTS.values()} == set(CHECKS)


def test_a_healthy_project_passes(call, small):
    code, results, out = small.check(call)
    assert code == 0, out
    assert list(results) == list(CHECKS)
    assert all(result["ok"] for result in results.values()), out
    assert (small.experiment / "learning_rate_range.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "kind", ["template", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("classic", "hard"))]
)
def test_projects_of_other_kinds_pass_and_what_they_trained_stays(call, tmp_path, digits_dir, kind):
    experiment, values = project(kind, tmp_path, digits_dir)
    experiment.write(**values | {"num_epochs": 1})
    assert call(train.main, *experiment.arguments)[0] == 0
    before = snapshot(experiment.folder)
    code, out, err = call(preflight.main, *experiment.arguments)
    assert (code, err) == (0, ""), out
    after = snapshot(experiment.folder)
    assert after.keys() - before.keys() == {"preflight.json", "learning_rate_range.png"}
    assert before == {name: after[name] for name in before}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(IMAGES.glob("experiments/*/params.json")), ids=lambda p: p.parent.name)
def test_a_shipped_experiment_passes(call, digits_dir, path):
    code, out, err = call(preflight.main, *copied_experiment(path, "one"), "--data_dir", digits_dir)
    assert (code, err) == (0, ""), out


def test_mistakes_of_the_users_are_of_code_2_and_write_nothing(call, experiment):
    experiment.write(optimizer="Adan")
    before = snapshot(experiment.folder)
    for mistake in (["--model_dir", "nowhere"], [*experiment.arguments, "--device", "tpu"], experiment.arguments):
        code, _, err = call(preflight.main, *mistake)
        assert code == 2
        assert err.startswith("error: ") and err.count("\n") == 1
    assert snapshot(experiment.folder) == before


@posix
def test_each_line_is_printed_when_its_check_is_done_and_ctrl_c_ends_it(experiment):
    command = [sys.executable, ROOT / "preflight.py", *experiment.arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert lines[2].startswith("✓ model and data")
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert not (experiment.folder / "preflight.json").exists()


@posix
@pytest.mark.slow
def test_a_terminal_without_the_marks_and_one_that_reads_no_further(experiment):
    command = [sys.executable, str(ROOT / "preflight.py"), *experiment.arguments]
    done = run_process(*command, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "model and data" in done.stdout
    done = run_process("bash", "-c", f"{shlex.join(command)} | head -1")
    assert (done.returncode, done.stderr) == (0, "")


REGRESSION = "    def forward(self, x):\n        return super().forward(x)[:, 0]\n"
PIXELS = """
class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x):
        return self.layers(x.view(-1, 1, 8, 8))


"""
CONTRASTIVE = """def loss_fn(outputs, labels):
    similar = F.normalize(outputs) @ F.normalize(outputs).T / 0.5
    itself, same = torch.eye(len(labels), dtype=torch.bool), labels[:, None] == labels
    others = similar.masked_fill(itself, -1e9).log_softmax(1)
    return -(others * (same & ~itself)).sum() / (same & ~itself).sum().clamp(min=1)


metrics = {}
"""
TRIPLETS = """def loss_fn(outputs, labels):
    distances, same = torch.cdist(outputs, outputs), labels[:, None] == labels
    furthest = (distances * same).max(1).values
    nearest = distances.masked_fill(same, 1e9).min(1).values
    return F.softplus(furthest - nearest).mean()


metrics = {}
"""
PROXIES = """class ToProxies(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("proxies", torch.randn(10, 32, generator=torch.Generator().manual_seed(1)))

    def forward(self, outputs, labels):
        return F.cross_entropy(4 * F.normalize(outputs) @ F.normalize(self.proxies).T, labels)


loss_fn, metrics = ToProxies(), {}
"""
HEALTHY = {  # name: net, data
    "embeddings, fewer numbers than classes": (made("self.head = nn.Linear(32, 8)") + CONTRASTIVE, ""),
    "embeddings, more numbers than classes": (made("self.head = nn.Linear(32, 64)") + TRIPLETS, ""),
    "embeddings near those of the classes": (made("self.head = nn.Linear(32, 32)") + PROXIES, ""),
    "one number": (
        made("self.head = nn.Linear(32, 1)", REGRESSION) + loss("F.mse_loss(outputs, labels)") + "metrics = {}",
        loaded("y = (y.float() - 4.5) / 2.9"),
    ),
    "yes or no, sigmoid": (
        made("self.head = nn.Linear(32, 1)", REGRESSION.replace("[:, 0]", "[:, 0].sigmoid()"))
        + loss("F.binary_cross_entropy(outputs, labels)")
        + "metrics = {}",
        loaded("y = (y > 4).float()"),
    ),
    "several labels at once": (
        loss("F.binary_cross_entropy_with_logits(outputs, labels)") + "metrics = {}",
        loaded("y = torch.stack([y % k == 0 for k in range(1, 11)], 1).float()"),
    ),
    "one-hot": (
        loss("F.cross_entropy(outputs, labels)") + "metrics = {}",
        loaded("y = torch.nn.functional.one_hot(y, 10).float()"),
    ),
    "log probabilities": (
        forward("return super().forward(x).log_softmax(1)") + loss("F.nll_loss(outputs, labels)"),
        "",
    ),
    "a class for each pixel": (
        PIXELS + "metrics = {}",
        loaded("y = (x > 0).long().view(-1, 8, 8) + (x > 1).long().view(-1, 8, 8)"),
    ),
    "inputs that are the labels": (
        made("self.head = nn.Linear(32, 64)") + loss("F.mse_loss(outputs, labels)") + "metrics = {}",
        loaded("y = x"),
    ),
    "layers in a list that are registered, too": (made("self.both = [self.body, self.head]"), ""),
    "layers in a list that have nothing to train": (
        made("self.acts = {'relu': nn.ReLU()}\nself.teacher = [nn.Linear(3, 3).requires_grad_(False)]"),
        "",
    ),
    "a last bias that knows how rare a class is": (
        made("self.head = nn.Linear(32, 1)\nself.head.bias.data.fill_(-3.0)", REGRESSION)
        + loss("F.binary_cross_entropy_with_logits(outputs, labels)")
        + "metrics = {}",
        loaded("y = (y == 4).float()"),
    ),
    "pixels that do not count": (
        PIXELS + loss("F.cross_entropy(outputs, labels, ignore_index=255)") + "metrics = {}",
        loaded("y = (x > 0).long().view(-1, 8, 8) + (x > 1).long().view(-1, 8, 8); y[:, 0] = 255"),
    ),
    "a class for each pixel, of which some are wrong": (
        PIXELS + "metrics = {}",
        loaded("y = (x > 0).long().view(-1, 8, 8); y[:, 3, 3] = torch.arange(len(y)) % 2"),
    ),
    "inputs that are nearly all 0": (
        made("self.body[0] = nn.Linear(20000, 32)"),
        loaded("x = torch.nn.functional.one_hot(y * 1900 + torch.arange(len(y)) % 7, 20000).float()"),
    ),
    "a list of boxes for each image": (
        "class Net(Plain):\n    def forward(self, images):\n        return super().forward(torch.stack(images))\n\n\n"
        "def loss_fn(outputs, targets):\n"
        "    return torch.stack([(o - t['boxes'].mean(0)).square().mean() for o, t in zip(outputs, targets)]).mean()\n\n\n"
        "metrics = {}\n",
        "def collate(items):\n"
        "    boxes = [torch.nn.functional.one_hot(y, 10).float().expand(1 + y % 3, 10) for _, y in items]\n"
        "    return [x for x, _ in items], [{'boxes': b} for b in boxes]\n\n\n"
        + DATA[DATA.index("def fetch") :].replace("shuffle=", "collate_fn=collate, shuffle=").split("\n\n\n")[0],
    ),
    "layers that get their shapes from the first batch": (
        made("self.body[0], self.head = nn.LazyLinear(32), nn.LazyLinear(10)"),
        "",
    ),
    "a mapping of transformers' kind with a None in it": (
        "class Output(dict):\n    def __getattr__(self, name):\n        return self[name]\n\n\n"
        + forward("return Output(loss=None, logits=super().forward(x))")
        + loss("F.cross_entropy(outputs.logits, labels)")
        + 'metrics = {"accuracy": lambda outputs, labels: np.mean(outputs["logits"].argmax(1) == labels)}',
        "",
    ),
    "predictions beside the scores": (
        forward("scores = super().forward(x)\nreturn scores.argmax(1), scores")
        + loss("F.cross_entropy(outputs[1], labels)")
        + "metrics = {}",
        "",
    ),
    "a loss below 0": (
        made(
            "self.head = nn.Linear(32, 2)",
            "    def forward(self, x):\n        out = super().forward(x)\n        return out[:, 0], F.softplus(out[:, 1])\n",
        )
        + loss("F.gaussian_nll_loss(outputs[0], labels, outputs[1])")
        + "metrics = {}",
        loaded("y = y.float() / 20 - 0.22"),
    ),
    "gradients that are sparse": (
        made(
            "self.table = nn.Embedding(300, 64, sparse=True)",
            "    def forward(self, x):\n        return super().forward(self.table(x.long()).mean(1))\n",
        )
        + "def make_optimizer(model, params):\n    return torch.optim.SGD(model.parameters(), 0.1)\n",
        loaded("x = (x * 10 + 100).clamp(0, 299)"),
    ),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_projects_of_other_kinds_pass(call, small, kind):
    code, results, out = small.check(call, *HEALTHY[kind])
    assert code == 0, out
    left_out = {name for name, result in results.items() if not result["ok"]}
    may_be = {"Embedding": "input scale", "embeddings": "initial loss"}
    assert left_out <= {check for word, check in may_be.items() if word in kind + HEALTHY[kind][0]}, out


PHOTOS = """
from sklearn.datasets import load_sample_images


def tensors_of(data_dir, split):
    crops = [torch.tensor(photo[top:top + 64, left:left + 64].copy())
             for photo in load_sample_images().images for top in range(0, 360, 60) for left in range(0, 560, 60)]
    x = torch.stack(crops).movedim(3, 1).float()
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x, torch.arange(len(x)) % 10  # how far to the right


"""
CONVOLUTIONS = """
def block(channels_in, channels_out):
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out),
                         nn.MaxPool2d(2), nn.ReLU())


class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 16), block(16, 32), block(32, 64))
        self.linear1, self.norm, self.linear2 = nn.Linear(64 * 8 * 8, 64), nn.Identity(), nn.Linear(64, 10)

    def forward(self, x):
        return self.linear2(F.dropout(F.relu(self.norm(self.linear1(self.blocks(x).flatten(1)))), 0.5, self.training))


"""


@pytest.mark.parametrize("norm", ["Identity()", "BatchNorm1d(64)"])
def test_a_hidden_layer_without_batch_normalisation_dies_on_photos(small, norm):
    small.write(CONVOLUTIONS.replace("Identity()", norm), PHOTOS)
    experiment = Experiment(*set_up(small.experiment, small.digits_dir))
    if norm == "Identity()":
        with pytest.raises(Failed, match=r"steps, \d of 64 units of linear1 are alive.*add batch normalisation"):
            check_dead_units(experiment)
    else:
        assert "are alive" in check_dead_units(experiment)


@pytest.mark.slow
def test_a_val_split_that_is_sorted_by_class_and_slow_to_load(call, small):
    slow = "def slow(items):\n    time.sleep(0.5)\n    return torch.utils.data.default_collate(items)\n\n\n"
    loader = 'shuffle=split == "train", collate_fn=slow if split == "val" else None'
    data = slow + DATA[DATA.index("def fetch") :].replace('shuffle=split == "train"', loader)
    data += loaded("order = y.argsort() if split != 'train' else slice(None); x, y = x[order], y[order]")
    code, results, out = small.check(call, "", data, batch_size=4)
    assert code == 0, out
    assert re.search(r"and \d+ val batches", results["inputs and labels"]["message"])


def test_what_a_mode_could_change_but_does_not_is_no_difference(call, small):
    net = made(
        "self.body = nn.LSTM(8, 32, batch_first=True)",
        "    def forward(self, x):\n        return self.head(self.body(x.view(-1, 8, 8))[0][:, -1])\n",
    )
    _, results, _ = small.check(call, net)
    assert results["train and eval mode"]["message"] == "outputs are the same"


def test_an_epoch_of_one_batch_has_no_order(call, small):
    code, results, out = small.check(call, batch_size=300)
    assert (code, results["shuffling"]["message"]) == (0, "an epoch is one batch"), out


def test_samples_of_one_label_are_no_proof_that_labels_can_be_learned(call, small):
    data = loaded("y = (torch.arange(len(y)) == 0).long()")
    _, results, _ = small.check(call, forward("return super().forward(torch.ones_like(x))"), data)
    assert results["overfit 16 samples"]["ok"] is None, results["overfit 16 samples"]["message"]


def test_too_little_time_to_learn_samples_by_heart_is_no_fault(call, small, monkeypatch):
    monkeypatch.setattr("toolkit.preflight.training_checks.SECONDS", 0.001)
    _, results, _ = small.check(call, forward("return 0.01 * super().forward(x)"))
    assert results["overfit 16 samples"]["ok"] is None
    assert "there was no time for more" in results["overfit 16 samples"]["message"]


def test_a_metric_that_is_undefined_for_the_first_batches_is_a_warning(call, small):
    net = "def rare(outputs, labels):\n    return float(len(labels)) if len(labels) > 2000 else np.nan\n\n\n"
    _, results, out = small.check(call, net + "metrics['rare'] = rare\n", batch_size=2)
    assert results["inputs and labels"]["ok"], out
    assert re.search(r"metrics\['rare'\] is nan for the first 30 batches of val", out), out
