"""Every mistake that a user is likely to make: one clear line, exit code 2, no traceback, nothing written."""

import functools
import importlib
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, copy_of, optional, run_process, snapshot
from processes import finished, start, wait_for
from project_kinds import LOADER, NET, differences, outcome, own_model

import evaluate
import train
import utils
from toolkit.core.task import import_model_package


def text(content):
    return lambda e: (e.folder / "params.json").write_text(content)


def params(**values):
    return lambda e: e.write(**values)


def net(old, new):
    assert old in NET
    return lambda e: own_model(e, net=NET.replace(old, new))


def loader(old, new):
    assert old in LOADER
    return lambda e: own_model(e, loader=LOADER.replace(old, new))


def other_data(change):
    def spoil(experiment):
        experiment.data_dir = copy_of(experiment.data_dir, experiment.folder.parent / "changed")
        change(experiment.data_dir)

    return spoil


def facts(**values):
    def change(folder):
        file = folder / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return other_data(change)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


NO_CHANGE = params()
LOSS = "return F.cross_entropy(outputs, labels)"

MISTAKES = {
    "no params.json": (
        lambda e: (e.folder / "params.json").unlink(),
        [],
        "params.json: no such file; an experiment is a folder",
    ),
    "not JSON": (text('{\n  "seed": 1,\n}'), [], "params.json: not valid JSON at line"),
    "wrong type": (params(learning_rate="0.1"), [], "params.json: learning_rate is '0.1', should be a valid number"),
    "out of bounds": (params(dropout_rate=1.5), [], "params.json: dropout_rate is 1.5, should be less than 1"),
    "not a choice": (
        params(architecture="Conv"),
        [],
        "architecture is 'Conv', should be 'ConvNet', 'DenseNet' or 'TwoLayerNet'",
    ),
    "mistyped": (params(learning_rte=0.1), [], "unknown key learning_rte (did you mean learning_rate?)"),
    "a fact": (params(num_classes=6), [], "num_classes is 6, but the dataset has 10"),
    "missing key": (
        net("width = params.num_channels", "width = params.net_width"),
        [],
        "has no key 'net_width', which model/net.py:",
    ),
    "no step": (NO_CHANGE, ["--max_steps", "0"], "--max_steps is 0; it should be 1 or more"),
    "no length": (
        loader(
            "return dataloaders",
            "return {s: DataLoader(NoLength()) for s in types}\n\n\nclass NoLength(torch.utils.data.IterableDataset):\n    def __iter__(self):\n        yield 1",
        ),
        [],
        "the loader of 'train' has no length",
    ),
    "an optimizer that cannot be saved": (
        net(
            "metrics = {",
            "def make_optimizer(model, params):\n    optimizer = torch.optim.SGD(model.parameters(), 0.1)\n    optimizer.param_groups[0]['what'] = slice(3)\n    return optimizer\n\n\nmetrics = {",
        ),
        [],
        "optim_dict/param_groups/what of the checkpoint would hold a slice",
    ),
    "no dataset named": (NO_CHANGE, ["--data_dir", None], "build_dataset.py"),
    "dataset missing": (
        NO_CHANGE,
        ["--data_dir", "data/none"],
        "data/none: no such dataset; build_dataset.py makes one",
    ),
    "mistyped and part of a known key": (
        params(num_epoch=3),
        [],
        "unknown key num_epoch (did you mean num_epochs?)",
    ),
    "dataset named and missing": (params(dataset="nn"), ["--data_dir", None], "data/nn: no such dataset"),
    "dataset empty": (other_data(empty), [], "changed: not a dataset of images"),
    "split empty": (other_data(lambda d: shutil.rmtree(d / "val")), [], "0 images are there, but"),
    "one class": (facts(num_classes=1), [], "num_classes is 1; a classifier needs two or more"),
    "no such metric": (params(monitor="f1"), [], "monitor is 'f1', but the metrics are loss, accuracy, macro_f1"),
    "no direction": (params(monitor="macro_f1"), [], "monitor is 'macro_f1'; add \"monitor_mode\""),
    "no such device": (NO_CHANGE, ["--device", "cuda:7"], "--device cuda:7: not there; this machine has"),
    "values without --from": (NO_CHANGE, ["num_channels=3"], "values on the command line need --from"),
    "not key=value": (NO_CHANGE, ["--from", "experiment", "wide"], "wide: should be key=value"),
    "wrong value with --from": (
        NO_CHANGE,
        ["--from", "experiment", "num_epochs=0"],
        "num_epochs is 0, should be greater",
    ),
    "mistyped with --from": (
        NO_CHANGE,
        ["--model_dir", "new", "--from", "experiment", "num_epoch=3"],
        "on the command line: unknown key num_epoch (did you mean num_epochs?)",
    ),
    "--from nowhere": (NO_CHANGE, ["--from", "none"], "none/params.json: no such file"),
    "no such checkpoint": (NO_CHANGE, ["--restore_file", "best"], "best: no such checkpoint, neither in "),
    "no Net": (
        net("def Net(", "def Network("),
        [],
        "model/net.py: there is no Net, but train.py needs a class or function Net",
    ),
    "no loss_fn": (net("def loss_fn(", "def loss("), [], "model/net.py: there is no loss_fn"),
    "metrics is a list": (
        net("metrics = {", "metrics = [] and {"),
        [],
        "model/net.py: metrics is list, but train.py needs a dict",
    ),
    "a metric is a number": (
        net('"accuracy": accuracy', '"accuracy": 0.5'),
        [],
        "metrics['accuracy'] is float, but should be",
    ),
    "Net gives no module": (
        net("def Net(params):", "def Net(params):\n    return 3\n"),
        [],
        "Net(params) returned int, not an nn.Module",
    ),
    "loss is no scalar": (net(LOSS, LOSS[:-1] + ", reduction='none')"), [], "loss_fn must return a scalar tensor"),
    "loss dict without loss": (
        net(LOSS, "return {'ce': outputs.mean()}"),
        [],
        'loss_fn returned a dict without "loss"',
    ),
    "no fetch_dataloader": (
        loader("def fetch_dataloader", "def fetch"),
        [],
        "data_loader.py: there is no fetch_dataloader",
    ),
    "no val loader": (
        loader("return dataloaders", "return {'train': dataloaders['train']}"),
        [],
        "returned no 'val'; it returned ['train']",
    ),
    "loaders in a list": (
        loader("return dataloaders", "return list(dataloaders)"),
        [],
        "should return a dict from split to DataLoader, not a list of 2",
    ),
    "batches of three": (
        loader("self.labels[indices]\n", "self.labels[indices], indices\n"),
        [],
        "a batch of the data loader is a list of 3; it should be a pair (inputs, labels), or net.py should have a function unpack_batch",
    ),
    "key missing in a metric": (
        net(
            "    return np.mean(outputs.argmax(axis=1) == labels)",
            "    return utils.Params('experiment/params.json').threshold",
        ),
        [],
        "has no key 'threshold'",
    ),
    "key missing in the loss": (
        net("def loss_fn(outputs, labels, params=None):", "def loss_fn(outputs, labels, params):\n    params.scale"),
        [],
        "has no key 'scale'",
    ),
    "optimizer is none": (
        net("metrics = {", "def make_optimizer(model, params):\n    pass\n\n\nmetrics = {"),
        [],
        "returned NoneType",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_before_training_is_one_clear_line_and_nothing_is_written(call, experiment, tmp_path, name):
    spoil, arguments, message = MISTAKES[name]
    spoil(experiment)
    before = snapshot(experiment.folder)
    given = experiment.arguments
    if arguments[:1] == ["--data_dir"]:
        place = given.index("--data_dir")
        given[place : place + 2] = arguments if arguments[1] else []
    else:
        given += arguments
    code, _, err = call(train.main, *given)
    assert message in err
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert snapshot(experiment.folder) == before
    assert not (tmp_path / "new").exists()


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


def cut(file):
    file.write_bytes(file.read_bytes()[:5000])


BAD_CHECKPOINTS = {
    "missing": (lambda f: f.unlink(), "best: no such checkpoint, neither in "),
    "truncated": (cut, "best.pth.tar: cannot be read; it is damaged or truncated"),
    "empty": (lambda f: f.write_bytes(b""), "best.pth.tar: cannot be read; it is damaged or truncated"),
    "code": (
        lambda f: torch.save({"state_dict": {}, "x": Evil()}, f),
        "best.pth.tar: refused: it is damaged or contains code",
    ),
    "code in a bare pickle": (
        lambda f: f.write_bytes(pickle.dumps({"state_dict": {}, "x": Evil()})),
        "best.pth.tar: refused: it is damaged or contains code",
    ),
    "no checkpoint": (lambda f: torch.save({"epoch": 3}, f), 'not a checkpoint: it has no "state_dict"'),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_dir):
    from conftest import Experiment

    torch.set_num_threads(1)  # the bits depend on it
    experiment = Experiment(tmp_path_factory.mktemp("trained") / "experiment", digits_dir)
    train.main(experiment.arguments)
    return experiment


@pytest.mark.parametrize("name", BAD_CHECKPOINTS)
@pytest.mark.parametrize("script", ["evaluate", "train"])
def test_a_bad_checkpoint_is_one_clear_line(call, trained, tmp_path, name, script):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    spoil, message = BAD_CHECKPOINTS[name]
    spoil(folder / "best.pth.tar")
    before = snapshot(folder)
    arguments = ["--model_dir", folder, "--data_dir", trained.data_dir, "--restore_file", "best"]
    code, _, err = call({"evaluate": evaluate, "train": train}[script].main, *arguments)
    assert message in err
    assert (code, err.count("\n"), snapshot(folder)) == (2, 1, before)
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("script", ["evaluate", "train"])
def test_a_checkpoint_of_another_architecture(call, trained, tmp_path, script):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    values = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(values | {"num_channels": 8, "num_epochs": 3}))
    before = snapshot(folder)
    arguments = ["--model_dir", folder, "--data_dir", trained.data_dir, "--restore_file", "best"]
    code, _, err = call({"evaluate": evaluate, "train": train}[script].main, *arguments)
    assert "weights of another architecture" in err
    assert "is (4, 1, 3, 3) there and (8, 1, 3, 3) in the model" in err
    assert (code, err.count("\n"), snapshot(folder)) == (2, 1, before)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"monitor": "loss"}, {"num_channels": 8}, {"batch_size": 32}])
def test_going_on_with_other_hyperparameters_is_refused(call, trained, tmp_path, changed):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    values = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(values | changed | {"num_epochs": 3}))
    before = snapshot(folder)
    code, out, err = call(train.main, "--model_dir", folder, "--data_dir", trained.data_dir)
    name, value = next(iter(changed.items()))
    was = ({"seed": 230, "monitor": None} | values)[name]  # what the file did not give is the default
    was = "(none)" if was is None else json.dumps(was)
    assert f"{name} {was} -> {json.dumps(value)} would be another run" in " ".join(out.split())
    assert "num_epochs 2 -> 3 epochs in all" in " ".join(out.split())
    assert (
        f"last.pth.tar: is of a run with another {name}: put back what params.json had, start over with --restart"
        in err
    )
    assert (code, err.count("\n"), snapshot(folder)) == (2, 1, before)


@pytest.mark.parametrize("script", ["evaluate", "train"])
def test_weights_of_the_network_without_batch_normalisation_in_its_head_say_so(call, experiment, script):
    """ConvNet had none there at first: a checkpoint of that time cannot be used, and why is not obvious."""
    norm = "            nn.BatchNorm1d(4 * width),  # without it, nearly all hidden units die on 64×64 photos\n"
    assert norm in NET
    own_model(experiment, net=NET.replace(norm, ""))
    code, _, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    own_model(experiment)
    import_again(experiment.folder.parent / "model")
    experiment.write(num_epochs=3)
    before = snapshot(experiment.folder)
    code, _, err = call({"evaluate": evaluate, "train": train}[script].main, *experiment.arguments)
    after = snapshot(experiment.folder) | {"train.log": before["train.log"]}  # it says that num_epochs has changed
    assert (code, err.count("\n"), after) == (2, 1, before)
    assert "the checkpoint's network has no batch normalisation at head.2, this one has; it was trained with an" in err
    assert "older model/net.py: train again, or take that file from git" in err


def import_again(model):
    """Import a changed model/ folder anew, as another process would."""
    for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    import_model_package(model)


def test_going_on_with_other_data_is_refused(call, trained, tmp_path):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    data = copy_of(trained.data_dir, tmp_path / "data")
    content = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(content | {"fingerprint": "of other images"}))
    before = snapshot(folder)
    code, _, err = call(train.main, "--model_dir", folder, "--data_dir", data)
    assert "was trained on another dataset (of the same kind, other samples); --restart starts over" in err
    assert (code, err.count("\n"), snapshot(folder)) == (2, 1, before)


def test_a_warmup_longer_than_the_run_is_refused_before_anything_is_written(call, experiment):
    experiment.write(warmup_steps=1000)
    before = snapshot(experiment.folder)
    code, _, err = call(train.main, *experiment.arguments)
    assert "warmup_steps is 1000, but the run has " in err and "steps in all; take fewer" in err
    assert (code, err.count("\n"), snapshot(experiment.folder)) == (2, 1, before)


def damaged(folder, name="last.pth.tar"):
    file = folder / name
    file.write_bytes(file.read_bytes()[:3000])


def test_a_last_checkpoint_that_cannot_be_read_is_set_aside_and_the_one_before_it_used(call, trained, tmp_path):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    damaged(folder)
    code, out, err = call(train.main, "--model_dir", folder, "--data_dir", trained.data_dir)
    assert (code, err) == (0, "")
    assert "last.pth.tar: cannot be read; it is damaged or truncated" in out
    assert "it is now unreadable-1-last.pth.tar; resuming from the checkpoint before it" in out
    assert "Resuming after epoch 1" in out
    assert len((folder / "unreadable-1-last.pth.tar").read_bytes()) == 3000
    assert not differences(outcome(folder), outcome(trained.folder))


def test_where_no_checkpoint_can_be_read_nothing_is_touched(call, trained, tmp_path):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    damaged(folder)
    damaged(folder, "previous.pth.tar")
    before = snapshot(folder)
    code, _, err = call(train.main, "--model_dir", folder, "--data_dir", trained.data_dir)
    assert "last.pth.tar: cannot be read; it is damaged or truncated" in err
    assert "--restart starts over" in err
    assert (code, err.count("\n"), snapshot(folder)) == (2, 1, before)
    code, _, _ = call(train.main, "--model_dir", folder, "--data_dir", trained.data_dir, "--restart")
    assert code == 0
    assert snapshot(folder / "replaced-1")["last.pth.tar"] == before["last.pth.tar"]


@pytest.mark.parametrize("name", ["curves.png", "tensorboard", "train.log"])
def test_what_can_be_done_without_does_not_stop_the_training(call, experiment, name):
    """A folder or a file where the other should be: it cannot be written, whoever tries."""
    blocked = experiment.folder / (f".{name}{utils.ending_of_unfinished()}" if name == "curves.png" else name)
    blocked.write_text("in the way") if name == "tensorboard" else (blocked / "in the way").mkdir(parents=True)
    if name == "train.log":
        utils.set_logger(blocked)
        code, out, err = call(lambda argv: train.train_and_evaluate(*classic(experiment)))
        utils.set_logger()
    else:
        code, out, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    assert f"{name}: cannot be written: " in out
    assert out.count("cannot be written") == 1
    assert re.search("(going on|continuing) without", out)
    assert len((experiment.folder / "history.csv").read_text().splitlines()) == 3


def test_what_a_closed_terminal_cannot_show_is_in_the_log_file(tmp_path, monkeypatch):
    with open(os.devnull, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        utils.set_logger(tmp_path / "train.log")
    logging.warning("a result")  # the terminal is closed now
    utils.set_logger()
    assert "WARNING a result\n" in (tmp_path / "train.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_an_experiment_in_a_folder_whose_name_is_not_utf_8_is_trained_and_evaluated(experiment):
    """In processes of their own: pytest's workers cannot pass on a log with such a name."""
    experiment.folder = experiment.folder.rename(experiment.folder.with_name(os.fsdecode(b"\xff experiment")))
    done = run_process(sys.executable, ROOT / "train.py", *experiment.arguments, errors="replace")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("cannot be written") == 1 and "tensorboard: cannot be written" in done.stdout
    assert "INFO Done in" in (experiment.folder / "train.log").read_text()
    done = run_process(sys.executable, ROOT / "evaluate.py", *experiment.arguments, errors="replace")
    assert (done.returncode, done.stderr) == (0, "")
    assert (experiment.folder / "metrics_test_best.json").exists()


def test_tensorboard_events_that_vanish_give_one_warning(experiment):
    """TensorBoard writes them in a thread of its own, whose error would be printed as a traceback."""
    experiment.write(num_epochs=4)
    program = """
import shutil, sys, train
from pathlib import Path
from toolkit.core.setup import set_up
folder, data_dir = sys.argv[1:]
def remove(epoch, value):
    shutil.rmtree(Path(folder, "tensorboard"), ignore_errors=True)
train.train_experiment(*set_up(folder, data_dir, "cpu"), folder, report=remove)
"""
    done = run_process(sys.executable, "-c", program, experiment.folder, experiment.data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("tensorboard: cannot be written: ") == 1
    assert len((experiment.folder / "speed.csv").read_text().splitlines()) == 5


def classic(experiment):
    import utils
    from model import data_loader, net

    params = utils.Params(experiment.folder / "params.json", declared=net.Hyperparameters)
    params.add_facts(json.loads((experiment.data_dir / "dataset.json").read_text()) | {"cuda": False})
    loaders = data_loader.fetch_dataloader(["train", "val"], experiment.data_dir, params)
    model = net.Net(params)
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
    return model, loaders["train"], loaders["val"], optimizer, net.loss_fn, net.metrics, params, experiment.folder


@pytest.mark.slow
def test_an_experiment_that_vanishes_while_it_is_trained(experiment, tmp_path):
    experiment.write(num_epochs=100_000)
    process = start(*experiment.arguments)
    wait_for(process, (experiment.folder / "history.csv").exists)
    experiment.folder.rename(tmp_path / "elsewhere")
    out, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(r"error: .*/experiment(: was moved or replaced|/.*: cannot be written: No such file).*\n", err)
    elsewhere = ["--model_dir", tmp_path / "elsewhere", "--data_dir", experiment.data_dir]
    code, out, err = finished(*elsewhere, "--max_steps", 1)
    assert code == 0, err
    assert "Resuming" in out


def test_partial_takes_what_fits_and_lists_the_rest(call, trained, tmp_path):
    other = type(trained)(tmp_path / "other", trained.data_dir)
    best = trained.folder / "best.pth.tar"
    old = "nn.Linear(4 * width, params.num_classes),"
    own_model(other, net=NET.replace(old, "nn.Linear(4 * width, 50), nn.Linear(50, params.num_classes),"))
    code, _, err = call(train.main, *other.arguments, "--restore_file", best)
    assert (code, err.count("\n")) == (2, 1)
    assert "weights of another architecture: head.5.weight is (10, 16) there and (50, 16) in the model (and" in err
    code, out, err = call(train.main, *other.arguments, "--restore_file", best, "--partial")
    assert (code, err) == (0, "")
    assert "best.pth.tar: 27 of 31 weights loaded; not loaded:" in out
    assert "  head.5.weight is (10, 16) there and (50, 16) in the model" in out
    assert "  head.6.weight is missing there" in out
    code, _, err = call(train.main, *other.arguments, "--partial")
    assert "--partial needs --restore_file, which names the checkpoint" in err


@pytest.mark.parametrize(
    "module, name", [("evaluate", "evaluate"), ("toolkit.evaluation_report.report_files", "EvaluationReport.write")]
)
def test_an_evaluation_of_a_checkpoint_that_is_replaced_meanwhile_is_not_kept(
    call, trained, tmp_path, monkeypatch, module, name
):
    folder = copy_of(trained.folder, tmp_path / "experiment")
    *owner, name = name.split(".")
    place = functools.reduce(getattr, owner, optional(module))
    before, function = snapshot(folder).keys(), getattr(place, name)

    def and_then_a_better_epoch(*arguments, **options):
        results = function(*arguments, **options)
        shutil.copy(folder / "best.pth.tar", folder / "new")
        os.replace(folder / "new", folder / "best.pth.tar")
        return results

    monkeypatch.setattr(place, name, and_then_a_better_epoch)
    code, _, err = call(evaluate.main, "--model_dir", folder, "--data_dir", trained.data_dir)
    assert (code, err.count("\n")) == (2, 1)
    assert "best.pth.tar: was replaced during the evaluation; evaluate again" in err
    assert snapshot(folder).keys() - before == {"test_looks.json", ".test_looks.json.lock"}


def read_only(folder):
    """Make a folder unwritable, for root too; gives what undoes it, or None where that cannot be done."""
    if os.geteuid():
        folder.chmod(0o555)
        return lambda: folder.chmod(0o755)
    if shutil.which("chattr") and subprocess.run(["chattr", "+i", folder], capture_output=True).returncode == 0:
        return lambda: subprocess.run(["chattr", "-i", folder], check=True)
    return None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders are made read-only in another way on Windows")
def test_a_folder_that_cannot_be_written(call, experiment):
    undo = read_only(experiment.folder)
    if undo is None:
        pytest.skip("root can write everywhere, and this file system has no chattr +i")
    try:
        before = snapshot(experiment.folder)
        code, _, err = call(train.main, *experiment.arguments)
        assert f"{experiment.folder}: cannot be written to: " in err
        assert (code, err.count("\n"), snapshot(experiment.folder)) == (2, 1, before)
        code, _, err = call(
            train.main,
            "--model_dir",
            experiment.folder / "new",
            "--from",
            experiment.folder,
            "--data_dir",
            experiment.data_dir,
        )
        assert (code, err.count("\n"), snapshot(experiment.folder)) == (2, 1, before)
    finally:
        undo()


def test_an_error_in_the_users_own_code_is_shown_whole(experiment):
    own_model(experiment, net=NET.replace(LOSS, "return outputs.no_such_method()"))
    done = run_process(sys.executable, ROOT / "train.py", *experiment.arguments)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no_such_method" in done.stderr


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "build_dataset.py"])
def test_a_real_process_ends_with_code_2_and_one_line(experiment, script):
    arguments = ["--model_dir", experiment.folder, "--data_dir", "none"]
    if script == "build_dataset.py":
        optional("build_dataset")
        arguments = ["folder", "none"]
    done = run_process(sys.executable, ROOT / script, *arguments, cwd=experiment.folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: none: no such")
    assert done.stderr.count("\n") == 1
