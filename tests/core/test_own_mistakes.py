"""Mistakes in one's own model/, params.json and command line: what a student reads instead of a traceback."""

import json
import sys

import pytest
from conftest import ROOT, run_process, snapshot

import evaluate
import train
from toolkit.core.setup import parse_overrides
from utils import UserError

NET = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
    def forward(self, x):
        return self.head(F.relu(self.body(x)))

def loss_fn(outputs, labels):
    return F.cross_entropy(outputs, labels)

def accuracy(outputs, labels):
    return np.mean(outputs.argmax(axis=1) == labels)

metrics = {"accuracy": accuracy}
"""
LOADER = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def data(split):
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(len(split)))
    return TensorDataset(x, x[:, :3].argmax(1))

def fetch_dataloader(types, data_dir, params):
    return {split: DataLoader(data(split), params.batch_size, shuffle=split == "train") for split in types}
"""
LOSS, ACCURACY = "F.cross_entropy(outputs, labels)", "np.mean(outputs.argmax(axis=1) == labels)"
LABELS, IMPORT = "x[:, :3].argmax(1)", "from torch import nn"


@pytest.fixture
def project(tmp_path, call):
    """Return a function that writes a project with some text replaced, trains it, and gives (code, out, err)."""

    def project(changes=(), script=train, arguments=(), **values):
        folder = tmp_path / "project"
        (folder / "model").mkdir(parents=True, exist_ok=True)
        experiment = folder / "experiments" / "one"
        experiment.mkdir(parents=True, exist_ok=True)
        texts = {"net.py": NET, "data_loader.py": LOADER}
        for old, new in dict(changes).items():
            name = next(name for name, text in texts.items() if old in text)
            texts[name] = texts[name].replace(old, new)
        for name, text in texts.items():
            (folder / "model" / name).write_text(text)
        for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
            del sys.modules[name]
        (experiment / "params.json").write_text(json.dumps({"batch_size": 16, "num_epochs": 1} | values))
        project.before, project.folder = snapshot(experiment), experiment
        return call(script.main, "--model_dir", experiment, "--device", "cpu", *arguments)

    return project


SHAPES = {
    "a layer of another width": ({"nn.Linear(6, 8)": "nn.Linear(7, 8)"}, ["net.py:13", "6 features", "(16, 6)"]),
    "too few channels": (
        {"nn.Linear(6, 8)": "nn.Conv2d(3, 8, 1)", "self.body(x)": "self.body(x.view(-1, 1, 2, 3))"},
        ["net.py:13", "Conv2d(1, ...)"],
    ),
    "a view that mixes samples": ({"self.body(x)": "self.body(x.view(-1, 5))"}, ["net.py:13", "x.flatten(1)"]),
    "too few outputs": (
        {"nn.Linear(8, 3)": "nn.Linear(8, 2)"},
        ["net.py:16", "labels of the batch are 0 to 2", "2 classes, 0 to 1", "give Net 3 outputs"],
    ),
    "classes counted from 1": ({LABELS: f"{LABELS} + 1"}, ["are 1 to 3", "3 classes, 0 to 2", "labels - 1"]),
    "float64 inputs": ({"TensorDataset(x,": "TensorDataset(x.double(),"}, ["net.py:13", ".float()", "float64 (16, 6)"]),
    "float labels": ({LABELS: f"{LABELS}.float()"}, ["net.py:16", "labels.long()"]),
    "32-bit labels": ({LABELS: f"{LABELS}.int()"}, ["net.py:16", "labels.long()"]),
    "a forward without return": ({"return self.head": "self.head"}, ["net.py:12", "forward returned None"]),
    "a forward with two arguments": ({"forward(self, x)": "forward(self, x, lengths)"}, ["net.py:12", "'lengths'"]),
    "another length of the labels": ({"(outputs, labels)\n\ndef": "(outputs, labels[1:])\n\ndef"}, ["net.py:16", "batch_size"]),
    "a column against a row": (
        {"nn.Linear(8, 3)": "nn.Linear(8, 1)", LABELS: "x[:, 0]", LOSS: "F.mse_loss(outputs, labels)"},
        ["net.py:15", "labels are (16,) and outputs (16, 1)", "squeeze"],
    ),
    "a column against a row, by hand": (
        {"nn.Linear(8, 3)": "nn.Linear(8, 1)", LABELS: "x[:, 0]", LOSS: "(outputs - labels).square().mean()"},
        ["net.py:15", "labels are (16,) and outputs (16, 1)", "squeeze"],
    ),
    "a column against a row, in a metric": (
        {
            "nn.Linear(8, 3)": "nn.Linear(8, 1)",
            LABELS: "x[:, 0]",
            LOSS: "F.mse_loss(outputs[:, 0], labels)",
            ACCURACY: "np.mean(abs(outputs - labels))",
        },
        ["net.py:18: metrics['accuracy']", "labels are (16,) and outputs (16, 1)"],
    ),
}  # fmt: skip
METRICS = {
    "it uses torch's dim": ("np.mean(outputs.argmax(dim=1) == labels)", ["net.py:19", "numpy arrays", "axis"]),
    "it calls torch": ("(torch.argmax(outputs, 1) == labels).float().mean()", ["net.py:19", "numpy arrays"]),
    "it has a bug": ("np.mean(output == labels)", ["net.py:19", "NameError: name 'output' is not defined"]),
    "it fails for any number of samples": ("np.mean(labels) / 0 if 1 / 0 else 1", ["ZeroDivisionError"]),
    "it is nan": ("float('nan')", ["net.py:18: metrics['accuracy'] is nan"]),
}
CONTRACT = {
    "a loader of two arguments": ({"types, data_dir, params)": "types, params)"}, "fetch_dataloader(types, data_dir, params)"),
    "a Net without params": ({"__init__(self, params)": "__init__(self)"}, "net.py:8: Net() is called as Net(params)"),
    "a loss of one argument": ({"loss_fn(outputs, labels)": "loss_fn(outputs)"}, "loss_fn(outputs) is called as"),
    "a metric of one argument": ({"accuracy(outputs, labels)": "accuracy(outputs)"}, "metrics['accuracy'](outputs)"),
    "a syntax error": ({"def accuracy(outputs, labels)": "def accuracy(outputs, labels"}, "net.py:18: '(' was never closed"),
    "a file beside it": ({IMPORT: f"{IMPORT}\nfrom data_loader import data"}, "from .data_loader import"),
    "a package that is not there": ({IMPORT: f"{IMPORT}\nimport no_such_package"}, "'no_such_package'; is it installed?"),
    "functions of an own utils.py": ({IMPORT: f"{IMPORT}\nfrom utils import mine"}, "the repository's utils.py"),
    "a split without samples": ({"randn(64,": "randn(0,"}, "data_loader.py:10: a split has no samples"),
}  # fmt: skip


def check_one_line(project, result, *words):
    code, _, err = result
    assert (code, err.count("\n")) == (2, 1), err
    assert all(word in err for word in words), err
    assert snapshot(project.folder) == project.before


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_types_and_labels_that_do_not_fit_are_one_line_with_place_and_cure(project, name):
    changes, words = SHAPES[name]
    check_one_line(project, project(changes), *words)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_cannot_work_is_one_line_before_the_first_epoch(project, name):
    new, words = METRICS[name]
    check_one_line(project, project({ACCURACY: new}), *words)


@pytest.mark.parametrize("name", CONTRACT)
def test_what_breaks_the_contract_of_model_is_one_line(project, name):
    changes, words = CONTRACT[name]
    check_one_line(project, project(changes), words)


def test_a_wrong_label_in_a_later_batch_is_one_line_too(project):
    code, _, err = project({f"(x, {LABELS})": f"(x, {LABELS} + (torch.arange(64) == 40))", 'split == "train"': "False"})
    assert (code, err.count("\n")) == (2, 1) and "labels of the batch are 0 to 3 (label 8 of it is 3)" in err


def test_a_loader_that_gives_nothing_is_one_line(project):
    loader = "class Nothing(list):\n    def __len__(self):\n        return 3\n\ndef fetch_dataloader"
    changes = {
        "def fetch_dataloader": loader,
        'DataLoader(data(split), params.batch_size, shuffle=split == "train")': "Nothing()",
    }
    check_one_line(project, project(changes), "the data loader of train gave no batch")


def test_a_detail_of_a_metric_may_be_nan(project):
    recalls = "{'accuracy': 1.0, 'recall/7': float('nan')}"  # of a class that the split does not have
    code, out, err = project({ACCURACY: recalls})
    assert (code, err) == (0, "") and "is nan" not in out


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("y = torch.sigmoid(self.body(x)); z = y * y; y += 1; return self.head(z)", "in place"),
        ("h = self.body(x) + getattr(self, 'h', 0); self.h = h.mean(); return self.head(h)", "hidden.detach()"),
    ],
)
def test_a_forward_that_has_no_gradients_is_one_line(project, forward, words):
    code, _, err = project({"return self.head(F.relu(self.body(x)))": forward})
    assert (code, err.count("\n")) == (2, 1) and words in err


def test_probabilities_are_accepted_where_the_loss_takes_them(project):
    loss = "F.binary_cross_entropy(outputs, F.one_hot(labels, 3).float())"
    code, out, err = project(
        {
            "return self.head(F.relu(self.body(x)))": "return self.head(x[:, :8]).softmax(1)",
            LOSS: loss,
            "nn.Linear(8, 3)": "nn.Linear(6, 3)",
        }
    )
    assert (code, err) == (0, "") and "softmax" not in out


def test_a_metric_for_which_one_batch_is_too_few_is_tried_on_more(project):
    late = {LABELS: "(torch.arange(64) >= 40).long()", 'split == "train"': "False"}
    area = "__import__('sklearn.metrics').metrics.roc_auc_score(labels, outputs[:, 1])"
    raising = area + " if len(set(labels)) > 1 else [][0]"
    code, out, err = project(late | {ACCURACY: raising})
    assert (code, err) == (0, "") and "raised" not in out


def test_a_metric_that_is_nan_until_something_is_learned_is_accepted(project):
    precision = "np.divide(*(np.sum(x) for x in (outputs.argmax(1)[labels == 1] == 1, outputs.argmax(1) == 1)))"
    never_1 = {"nn.Linear(8, 3)": "nn.Linear(8, 3); nn.init.constant_(self.head.bias[1:], -9)"}
    code, out, err = project(never_1 | {ACCURACY: precision, "def accuracy": "np.seterr(all='ignore')\ndef accuracy"})
    assert (code, "metrics['accuracy'] is nan for the first" in out) == (0, True), err


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({LOSS: LOSS[:-1] + ", reduction='sum')"}, "net.py:15: the loss is a sum over the batch"),
        ({LOSS: LOSS[:-1] + ", weight=torch.tensor([1.0, 2, 3]))"}, None),
        ({"return self.head(F.relu(self.body(x)))": "return self.head(F.relu(self.body(x))).softmax(1)"}, "Net should return logits"),
        ({"return self.head(F.relu(self.body(x)))": "return self.head(F.relu(self.body(x))).log_softmax(1)"}, None),
        (
            {
                "return self.head(F.relu(self.body(x)))": "return self.head(F.relu(self.body(x))).softmax(1)",
                LOSS: "F.nll_loss(outputs.log(), labels)",
            },
            None,
        ),
    ],
)  # fmt: skip
def test_a_doubtful_loss_is_warned_of_once_and_a_right_one_never(project, changes, warning):
    code, out, err = project(changes)
    assert (code, err) == (0, "")
    assert (out.count("net.py:15: "), warning is None or out.count(warning)) == (0 if warning is None else 1, True)


def test_outputs_of_one_column_are_accepted_where_the_loss_and_the_metric_handle_them(project):
    changes = {"nn.Linear(8, 3)": "nn.Linear(8, 1)", LABELS: "x[:, 0]", LOSS: "F.mse_loss(outputs.reshape(-1), labels)"}
    code, _, err = project(changes | {ACCURACY: "np.mean(abs(outputs.reshape(-1) - labels))"})
    assert (code, err) == (0, "")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_ones_own_code_shows_the_traceback_from_ones_own_line_on(project, workers):
    class_of = "class Data(torch.utils.data.Dataset):\n    def __len__(self):\n        return 64\n    def __getitem__(self, i):\n"
    data = {"def data(split):": f"{class_of}        return {{}}['x']\n\ndef data(split):\n    return Data()"}
    project(data | {"params.batch_size,": f"params.batch_size, num_workers={workers},"})
    done = run_process(sys.executable, ROOT / "train.py", "--model_dir", project.folder)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and lines[0] == "Traceback (most recent call last):" and lines[-1] == "KeyError: 'x'"
    assert "model/data_loader.py" in lines[1] and "__getitem__" in lines[1]
    assert not any(name in done.stderr for name in ("toolkit", "importlib", "site-packages"))


def test_a_fact_that_only_training_sets_is_missed_in_evaluation_with_advice(project):
    fact = {
        "    return {split": "    if 'train' in types: params.width = 8\n    return {split",
        "nn.Linear(6, 8)": "nn.Linear(6, params.width)",
    }
    assert project(fact)[0] == 0
    code, _, err = project(fact, script=evaluate)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no key 'width', which " in err and "net.py:10 reads" in err and "sets it for every split" in err


@pytest.mark.parametrize(
    ("key", "meant"), [("lr", "learning_rate"), ("epochs", "num_epochs"), ("bs", "batch_size"), ("wd", "weight_decay")]
)
def test_a_key_under_its_name_elsewhere_is_refused_with_the_name_here(project, key, meant):
    check_one_line(project, project(**{key: 1}), f"unknown key {key} (did you mean {meant}?)")


def test_such_a_key_is_the_users_own_if_model_reads_it(project):
    code, _, err = project({"nn.Linear(6, 8)": "nn.Linear(6, params.bs)"}, bs=8)
    assert (code, err) == (0, "")


def test_options_with_a_typing_error_are_one_line(project):
    check_one_line(project, project(arguments=["--max-steps", "3"]), "--max-steps", "did you mean --max_steps?")
    check_one_line(project, project(arguments=["learning_rate=1"]), "--model_dir NEW --from", "key=value")


@pytest.mark.parametrize(
    ("text", "value"),
    [("False", False), ("True", True), ("None", None), ("1e-3", 1e-3), ("relu", "relu"), ("2020-01-02", "2020-01-02")],
)
def test_pythons_constants_on_the_command_line_are_those_of_json(text, value):
    assert parse_overrides([f"key={text}"]) == {"key": value}


@pytest.mark.parametrize("text", ["5_6", ".5", "nan", "-inf", "(1, 2)", "1,2", "'relu'", "[1, 2,]", "{'a': 1}", "0x10"])
def test_other_values_that_only_python_can_read_are_refused(text):
    with pytest.raises(UserError, match="^key=.*: not valid JSON at line 1, column "):
        parse_overrides([f"key={text}"])
