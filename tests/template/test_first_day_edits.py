"""Edits that people make on the first day with a clone leave its tests green."""

import json
import shutil
import subprocess
import sys

import pytest
from clones import clone_with_digits, commit, remove, run_starter_tests

OWN_NETWORK = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        pixels = params.image_channels * params.image_height * params.image_width
        self.first = nn.Linear(pixels, params.units)
        self.second = nn.Linear(params.units, params.num_classes)

    def forward(self, images):
        x = images.flatten(1).float() / params_scale
        return self.second(self.first(x).relu())


params_scale = 255


def loss_fn(outputs, labels):
    return F.cross_entropy(outputs, labels)


metrics = {"error_rate": lambda outputs, labels: (outputs.argmax(axis=1) != labels).mean()}
"""
OWN_LOADER = """
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def fetch_dataloader(types, data_dir, params):
    digits = load_digits()
    images = torch.tensor(digits.images * 15).to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.tensor(digits.target)
    rows = {"train": slice(0, 1400), "val": slice(1400, 1600), "test": slice(1600, None)}
    return {
        split: DataLoader(
            TensorDataset(images[rows[split]], labels[rows[split]]), params.batch_size, shuffle=split == "train"
        )
        for split in types
    }
"""


def replace_in(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{old} is not in {file}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def rename_a_layer(clone):
    replace_in(clone / "model" / "net.py", "self.head", "self.classifier")


def change_the_width(clone):
    replace_in(clone / "model" / "net.py", "4 * width", "3 * width")
    replace_in(clone / "model" / "net.py", "2 * width, 3 * width", "2 * width, 4 * width")
    replace_in(clone / "model" / "net.py", "features = 3 * width", "features = 4 * width")


def write_a_network_of_ones_own(clone):
    (clone / "model" / "net.py").write_text(OWN_NETWORK, encoding="utf-8")
    params = {"dataset": "digits", "units": 40, "learning_rate": 0.01, "batch_size": 32, "num_epochs": 3}
    params |= {"monitor": "error_rate", "monitor_mode": "min"}
    (clone / "experiments" / "base_model" / "params.json").write_text(json.dumps(params))


def replace_the_data_loader(clone):
    (clone / "model" / "data_loader.py").write_text(OWN_LOADER, encoding="utf-8")


def add_a_metric(clone):
    line = (
        '    "top_3": lambda outputs, labels: np.mean((np.argsort(outputs)[:, -3:] == labels[:, None]).any(axis=1)),\n'
    )
    replace_in(clone / "model" / "net.py", "metrics = {\n", f"metrics = {{\n{line}")


def remove_a_metric(clone):
    replace_in(clone / "model" / "net.py", '    "macro_f1": macro_f1,\n', "")


def delete_the_bundled_experiments(clone):
    shutil.rmtree(clone / "experiments")


def rewrite_the_readme(clone):
    (clone / "README.md").write_text("# My project\n")
    for page in clone.glob("docs/*.md"):
        page.write_text("# My page\n")


def fill_data(clone):
    for name in ("photos", "digits_again"):
        shutil.copytree(clone / "data" / "digits", clone / "data" / name)
    (clone / "data" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "edit",
    [
        rename_a_layer,
        change_the_width,
        write_a_network_of_ones_own,
        replace_the_data_loader,
        add_a_metric,
        remove_a_metric,
        delete_the_bundled_experiments,
        rewrite_the_readme,
        fill_data,
    ],
    ids=lambda edit: edit.__name__,
)
def test_the_starter_tests_pass_after(tmp_path, digits_dir, edit):
    clone = clone_with_digits(tmp_path / "clone", digits_dir)
    edit(clone)
    passed, skipped = run_starter_tests(clone)
    if edit is delete_the_bundled_experiments:
        assert skipped >= 8  # nothing says which data and hyperparameters to use
    else:
        assert passed >= 12 and skipped == 0


def test_no_other_test_reads_what_a_user_edits(tmp_path):
    """The other tests are collected in a clone whose model/ cannot be imported, without experiments, README and docs.

    Those of two files that start the scripts in processes of their own also run there. Within its own process, no test
    may open what a user edits: the fixture `leaves_alone_what_users_edit` fails one that does.
    """
    clone = clone_without_what_users_edit(tmp_path / "clone")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--ignore=tests/starter"]
    for arguments in (
        ["--collect-only"],
        ["tests/core/test_cli.py", "tests/core/test_script.py", "tests/core/test_task.py"],
    ):
        done = subprocess.run([*command, *arguments], cwd=clone, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-9000:]


def clone_without_what_users_edit(folder):
    from conftest import fresh_copy

    clone = fresh_copy(folder)
    remove(clone, "experiments", "README.md", "docs", "examples", "benchmarks", "data")
    for name in ("net.py", "data_loader.py"):
        (clone / "model" / name).write_text('raise RuntimeError("only tests/starter may read the clone\'s model/")\n')
    (clone / "experiments" / "base_model").mkdir(parents=True)
    (clone / "experiments" / "base_model" / "params.json").write_text("{not to be read")
    commit(clone)  # run.json names the commit
    return clone
