"""A run that was interrupted is the run that was not, to the last bit."""

import csv
import functools
import json
import os
import random
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import torch
from conftest import snapshot
from project_kinds import EACH_STEP, outcome, project
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import train
import utils
from toolkit.core.run_record import RunRecord


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["template", "classic", "hard"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(call, tmp_path, digits_dir, kind, workers):
    if kind == "template" and workers:
        pytest.skip("its images are in memory: there is nothing for workers to do")
    experiment, values = project(kind, tmp_path, digits_dir)
    straight = tmp_path / "straight"
    experiment.write(**values | {"num_workers": workers})
    arguments = experiment.arguments
    assert call(train.main, *arguments)[0] == 0
    shutil.copytree(experiment.folder, straight)
    total = utils.read_checkpoint(straight / "last.pth.tar")["step"]
    assert total == values["num_epochs"] * -(-total // values["num_epochs"])
    per_epoch = total // values["num_epochs"]
    # in the middle of an epoch twice, after its last step, in the next one, and with another number of workers
    assert call(train.main, *arguments, "--restart", "--max_steps", 1)[0] == 0
    assert call(train.main, *arguments, "--max_steps", per_epoch - 1)[0] == 0
    other = 2 - workers if kind != "template" else 0
    experiment.write(**values | {"num_workers": other, "checkpoint_minutes": EACH_STEP})
    assert call(train.main, *arguments, "--max_steps", per_epoch)[0] == 0
    code, out, err = call(train.main, *arguments, "--max_steps", per_epoch + 2)
    assert "Stopped after" in out
    experiment.write(**values | {"num_workers": workers})
    code, out, err = call(train.main, *arguments)
    assert (code, err) == (0, "")
    assert "Resuming in epoch 2 after batch 2" in out
    assert outcome(experiment.folder) == outcome(straight)


OPTIONS = {
    "optimizer": "AdamW",
    "weight_decay": 0.1,
    "lr_schedule": "one_cycle",
    "warmup_steps": 3,
    "ema_decay": 0.9,
    "accumulation_steps": 3,
    "max_grad_norm": 0.5,
    "label_smoothing": 0.1,
    "balanced": True,
}
PLATEAU = {
    "lr_schedule": "plateau",
    "architecture": "DenseNet",
    "lr_decay_epochs": 1,
    "early_stopping_patience": 2,
    "learning_rate": 0.1,
    "num_epochs": 9,
}


@pytest.mark.parametrize("values", [OPTIONS, OPTIONS | {"precision": "fp16"}, PLATEAU], ids=["all", "fp16", "plateau"])
def test_options_go_on_to_the_same_bits(call, tmp_path, experiment, values):
    experiment.write(**values)
    assert call(train.main, *experiment.arguments)[0] == 0
    straight = outcome(experiment.folder)
    rows = history(experiment.folder)
    total = utils.read_checkpoint(experiment.folder / "last.pth.tar")["step"]
    code, out, _ = call(train.main, *experiment.arguments, "--restart", "--max_steps", 1)
    for steps in (*range(total // 4, total, total // 4), total + 1):
        assert call(train.main, *experiment.arguments, "--max_steps", steps)[0] == 0
    assert outcome(experiment.folder) == straight
    code, out, _ = call(train.main, *experiment.arguments)
    assert code == 0 and "is finished" in out
    if values is PLATEAU:
        assert len(rows) < 9 and "increase early_stopping_patience to train longer" in out
        assert len({row["learning_rate"] for row in rows}) > 1
    else:
        assert {"gradient_norm", "learning_rate"} <= rows[0].keys() and total == 2 * -(-23 // 3)


def history(folder):
    with open(folder / "history.csv") as file:
        return list(csv.DictReader(file))


def test_what_is_evaluated_is_the_moving_average_and_the_checkpoint_has_it(call, experiment):
    import evaluate

    experiment.write(ema_decay=0.95)
    assert call(train.main, *experiment.arguments)[0] == 0
    assert call(evaluate.main, *experiment.arguments, "--split", "val", "--restore_file", "last")[0] == 0
    averaged = experiment.metrics("metrics_val_last.json")
    assert averaged == experiment.metrics("metrics_val_last_weights.json")
    state = utils.read_checkpoint(experiment.folder / "last.pth.tar")
    state["state_dict"] |= state["stateful"]["average"]  # the weights that go on being trained
    torch.save(state, experiment.folder / "raw.pth.tar")
    assert call(evaluate.main, *experiment.arguments, "--split", "val", "--restore_file", "raw")[0] == 0
    assert experiment.metrics("metrics_val_raw.json")["loss"] != averaged["loss"]


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("kind", ["template", "hard"])
def test_interrupted_in_the_evaluation_it_trains_nothing_twice(call, tmp_path, digits_dir, kind, epochs, monkeypatch):
    experiment, values = project(kind, tmp_path, digits_dir)
    experiment.write(**values | {"num_workers": 0, "num_epochs": epochs})
    call(train.main, *experiment.arguments)
    straight = outcome(experiment.folder)
    evaluate = train.evaluate
    monkeypatch.setattr(train, "evaluate", lambda *a: (_ for _ in ()).throw(Stop))
    code, out, _ = call(train.main, *experiment.arguments, "--restart")
    assert code == 130
    assert "saved in epoch 1 after batch" in out
    assert not (experiment.folder / "history.csv").exists()
    monkeypatch.setattr(train, "evaluate", evaluate)
    assert call(train.main, *experiment.arguments)[0] == 0
    assert outcome(experiment.folder) == straight


class Items(IterableDataset):
    def __iter__(self):
        for i in torch.randperm(60).tolist():
            yield torch.rand(3) + i / 60, i % 2

    def __len__(self):
        return 60


class OwnBatches:
    """As CS230's template for texts: an iterator of the user's own, on Python's generator."""

    def __iter__(self):
        order = list(range(60))
        random.shuffle(order)
        for start in range(0, 60, 7):
            chosen = torch.tensor(order[start : start + 7])
            yield torch.rand(len(chosen), 3) + chosen[:, None] / 60, chosen % 2

    def __len__(self):
        return 9


class Noisy(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, i):
        return torch.rand(3) + i / 60, i % 2


class InSlots:
    """A transform whose generator is in a slot, and further ones in a closure and in an argument of a partial."""

    __slots__ = ("own",)

    def __init__(self):
        self.own = np.random.default_rng(5)

    def __call__(self, number):
        return number + self.own.random()


def in_closure(generator):
    return lambda: generator.random()


class WithHiddenGenerators(Noisy):
    def __init__(self):
        self.transforms = {"deep": [[(InSlots(),)]]}
        self.closure, self.part = (
            in_closure(random.Random(3)),
            functools.partial(random.Random.random, random.Random(7)),
        )

    def __getitem__(self, i):
        drawn = self.transforms["deep"][0][0][0](self.closure() + self.part())
        return torch.full((3,), drawn) + i / 60, i % 2


class Subclassed(DataLoader):
    pass


LOADERS = {
    "tensors": lambda: DataLoader(
        TensorDataset(torch.linspace(0, 1, 180).view(60, 3), torch.arange(60) % 2), 7, shuffle=True
    ),
    "a subclass of DataLoader": lambda: Subclassed(Noisy(), 7, shuffle=True),
    "generators in slots, closures and partial functions": lambda: DataLoader(WithHiddenGenerators(), 7, shuffle=True),
    "an iterable dataset": lambda: DataLoader(Items(), 7),
    "an iterable dataset with persistent workers": lambda: DataLoader(
        Items(), 7, num_workers=1, persistent_workers=True
    ),
    "persistent workers": lambda: DataLoader(Noisy(), 7, shuffle=True, num_workers=2, persistent_workers=True),
    "batches of one's own": OwnBatches,
    "a generator": lambda: DataLoader(Noisy(), 7, shuffle=True, generator=torch.Generator().manual_seed(3)),
}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x) * (0.5 + np.random.rand())  # a model may draw from numpy


METRICS = {"accuracy": lambda outputs, labels: float((outputs.argmax(1) == labels).mean())}


def session(folder, loader, max_steps=None, metrics=None, **values):
    """Train as the library's functions are called from a notebook, with a schedule, a scaler and a moving average."""
    utils.set_logger()
    folder.mkdir(exist_ok=True)
    content = {"num_epochs": 3, "learning_rate": 0.1, "checkpoint_minutes": EACH_STEP} | values
    (folder / "params.json").write_text(json.dumps(content))
    params = utils.Params(folder / "params.json")
    utils.set_seed(params.seed)
    model = Small()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=params.learning_rate, momentum=0.9)
    optimizer.register_step_post_hook(lambda *a: average.update_parameters(model))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=20)
    optimizer.register_step_post_hook(lambda *a: schedule.step())
    scaler = torch.amp.GradScaler("cpu")
    stateful = {"schedule": schedule, "scaler": scaler, "average": average}
    train.train_and_evaluate(
        model,
        loader,
        loader,
        optimizer,
        nn.functional.cross_entropy,
        metrics or METRICS,
        params,
        folder,
        max_steps=max_steps,
        stateful=stateful,
    )
    return average


@pytest.mark.parametrize("name", LOADERS)
def test_any_loader_and_all_that_has_a_state_resume_exactly(tmp_path, name):
    straight = session(tmp_path / "straight", LOADERS[name]())
    for steps in (4, 9, 13, None):
        average = session(tmp_path / "stopped", LOADERS[name](), steps)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "straight")
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), straight.parameters(), strict=True))
    lines = (tmp_path / "straight" / "history.csv").read_text().splitlines()
    assert len({line.split(",")[1] for line in lines[1:]}) == 3  # the schedule was at work


def test_what_else_is_saved_must_be_there_again(tmp_path):
    loader = LOADERS["tensors"]()
    session(tmp_path / "run", loader, 4)
    before = snapshot(tmp_path / "run")
    state = utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")
    del state["stateful"]["scaler"]
    torch.save(state, tmp_path / "run" / "last.pth.tar")
    with pytest.raises(
        utils.UserError, match="holds the state of average, schedule besides .* but there is average, s"
    ):
        session(tmp_path / "run", loader)
    assert before.keys() == snapshot(tmp_path / "run").keys()


def test_a_new_learning_rate_holds_from_there_on_and_the_schedule_follows(tmp_path, caplog):
    loader = LOADERS["tensors"]()
    session(tmp_path / "run", loader, 9, learning_rate=0.1)
    first = utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")
    caplog.set_level("INFO")
    session(tmp_path / "run", loader, 10, learning_rate=0.2, num_epochs=4)
    second = utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")
    assert "learning_rate  0.1  ->  0.2  the new value is used from here on" in caplog.text
    assert "num_epochs     3    ->  4    epochs in all" in caplog.text
    assert second["stateful"]["schedule"]["base_lrs"] == [0.2]
    ratio = second["optim_dict"]["param_groups"][0]["lr"] / first["optim_dict"]["param_groups"][0]["lr"]
    assert 1.8 < ratio < 2  # twice as much, and a step further on the way down
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert sessions[1]["changed_params"] == {"learning_rate": [0.1, 0.2], "num_epochs": [3, 4]}


class Odd(nn.Module):
    """Outputs that hold what a checkpoint does not: an object of a class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return {"logits": self.layer(x), "note": slice(3)}


def test_outputs_that_a_checkpoint_cannot_hold_leave_those_at_the_end_of_epochs(tmp_path, caplog):
    (tmp_path / "params.json").write_text(
        json.dumps({"num_epochs": 2, "checkpoint_minutes": EACH_STEP, "monitor": "loss"})
    )
    params = utils.Params(tmp_path / "params.json")
    model, loader = Odd(), LOADERS["tensors"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(outputs, labels):
        return nn.functional.cross_entropy(outputs["logits"], labels)

    metrics = {"m": lambda outputs, labels: 0.0}
    train.train_and_evaluate(model, loader, loader, optimizer, loss_fn, metrics, params, tmp_path, max_steps=12)
    assert "No checkpoints within epochs: outputs, labels or a metric hold a slice" in caplog.text
    assert utils.read_checkpoint(tmp_path / "last.pth.tar")["epoch"] == 1


def test_a_crash_in_the_users_code_keeps_what_was_done(tmp_path):
    class Broken(OwnBatches):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 5 and self.broken:
                    raise RuntimeError("a corrupt file")
                yield batch

    loader, good = Broken(), OwnBatches()
    loader.broken = True
    with pytest.raises(RuntimeError, match="a corrupt file"):
        session(tmp_path / "run", loader, checkpoint_minutes=1e9)
    assert (
        utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")["batches_done"] == 5
    )  # all that were loaded before the error
    session(tmp_path / "run", good, checkpoint_minutes=1e9)
    session(tmp_path / "straight", good, checkpoint_minutes=1e9)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")


def test_numbers_of_numpy_in_learning_rates_and_schedules_can_be_saved_and_read_again(call, experiment):
    from test_errors import NET, own_model

    optimizer = """def make_optimizer(model, params):
    return torch.optim.Adam(model.parameters(), lr=params.learning_rate * np.sqrt(params.batch_size / 32))


metrics = {"""
    own_model(experiment, net=NET.replace("metrics = {", optimizer))
    assert call(train.main, *experiment.arguments, "--max_steps", 5)[0] == 0
    code, out, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    assert "Resuming in epoch 1 after batch 5" in out


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adagrad(p, 0.1),
        lambda p: torch.optim.LBFGS(p, 0.1, line_search_fn="strong_wolfe"),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5),
        lambda p: torch.optim.NAdam(p),
        lambda p: torch.optim.Rprop(p),
        lambda p: torch.optim.AdamW(p, betas=(0.8, 0.9), amsgrad=True),
        lambda p: torch.optim.ASGD(p),
        lambda p: torch.optim.Adafactor(p),
    ],
)
def test_all_optimizers_are_gone_on_with(make, tmp_path):
    from toolkit.core.checkpoint import Checkpoint, TrainState, pack, read_state, restore

    def built():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, make(model.parameters())

    def step(model, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    model, optimizer = built()
    step(model, optimizer)
    utils.save_checkpoint(pack(TrainState(), model, optimizer, {}), False, tmp_path)
    other, other_optimizer = built()
    file = tmp_path / "last.pth.tar"
    content = utils.read_checkpoint(file)
    restore(Checkpoint(file, content, read_state(content, file)), other, other_optimizer, {})
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    assert torch.equal(model.weight, other.weight)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path, monkeypatch):
    saved = utils.save_checkpoint

    def interrupted(state, *arguments):
        if state["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        saved(state, *arguments)

    monkeypatch.setattr(utils, "save_checkpoint", interrupted)
    with pytest.raises(SystemExit):
        session(tmp_path / "run", LOADERS["tensors"]())
    assert utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")["step"] in (5, 6)  # the next one may have begun


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_at_the_very_beginning_of_a_session_leaves_it_with_an_end(tmp_path, monkeypatch):
    start = RunRecord.start_session

    def interrupted(record, *arguments):
        start(record, *arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunRecord, "start_session", interrupted)
    with pytest.raises(SystemExit):
        session(tmp_path / "run", LOADERS["tensors"]())
    (noted,) = utils.read_json(tmp_path / "run" / "run.json")["sessions"]
    assert (noted["last_step"], "stopped" in noted) == (0, True)


def test_an_experiment_that_was_replaced_by_another_is_not_written_to(tmp_path, monkeypatch):
    run = tmp_path / "run"

    class Moved(OwnBatches):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 4 and not (tmp_path / "moved").exists():
                    time.sleep(1)  # what is being written is written: no checkpoint begins while a batch is loaded
                    run.rename(tmp_path / "moved")
                    run.mkdir()
                    (run / ".lock").write_text("of another process")
                yield batch

    with pytest.raises(utils.UserError, match="run: was moved or replaced during training"):
        session(run, Moved())
    assert [file.name for file in run.iterdir()] == [".lock"]
    done = utils.read_checkpoint(tmp_path / "moved" / "last.pth.tar")["batches_done"]
    assert done in (1, 2)  # two that are loaded wait for their step; the last one may have been about to be written


def test_a_first_best_that_was_written_just_before_a_kill_is_written_again_and_leaves_no_trace(tmp_path):
    """Killed between best.pth.tar and last.pth.tar at the end of the first epoch: the run itself knows of no best yet."""
    loader = LOADERS["tensors"]()
    session(tmp_path / "straight", loader)
    session(tmp_path / "run", loader, 9)
    shutil.copy(tmp_path / "run" / "previous.pth.tar", tmp_path / "run" / "last.pth.tar")
    assert (tmp_path / "run" / "best.pth.tar").exists()
    assert utils.read_checkpoint(tmp_path / "run" / "last.pth.tar")["best"] is None
    session(tmp_path / "run", loader)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
    assert not list((tmp_path / "run").glob("replaced-*"))


class ModuleMetric(nn.Module):
    """In torchmetrics' protocol, with what it sums up in attributes that no state_dict knows."""

    def reset(self):
        self.right = self.total = 0

    def update(self, outputs, labels):
        self.right += (outputs.argmax(1) == labels).sum().item()
        self.total += len(labels)

    def compute(self):
        return self.right / self.total


def test_a_metric_that_is_a_module_resumes(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "METRICS", {"accuracy": ModuleMetric()})
    session(tmp_path / "straight", LOADERS["tensors"]())
    for steps in (4, None):
        session(tmp_path / "stopped", LOADERS["tensors"](), steps)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "straight")


def test_another_number_of_workers_is_refused_where_it_would_be_other_batches(tmp_path):
    loader = LOADERS["batches of one's own"]()
    session(tmp_path / "run", loader, 4, num_workers=0)
    with pytest.raises(
        utils.UserError, match="num_workers: a data loader that is not a plain DataLoader cannot resume in the middle"
    ):
        session(tmp_path / "run", loader, num_workers=2)
    session(tmp_path / "run", loader, 9, num_workers=0)
    session(tmp_path / "run", loader, 12, num_workers=0)


def test_naming_the_monitor_that_was_the_default_is_no_change(tmp_path):
    loader = LOADERS["tensors"]()
    session(tmp_path / "run", loader, 10)
    with pytest.raises(utils.UserError, match="of a run with another monitor"):
        session(tmp_path / "run", loader, 12, monitor="loss")
    session(tmp_path / "run", loader, 12, monitor="accuracy")


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # torch 2.6 warns of what its own SequentialLR does
@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=100),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.LambdaLR(o, lambda n: 0.9**n)], [5]
        ),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
    ],
)
def test_schedules_follow_a_new_learning_rate(make):
    from toolkit.core.checkpoint import change_learning_rate

    rates = []
    for change in (False, True):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        schedule = make(optimizer)
        rates.append([])
        for step in range(12):
            if step == 6 and change:
                change_learning_rate(optimizer, [schedule], 0.1, 0.2)
            optimizer.step()
            schedule.step()
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[1][:6] == rates[0][:6]
    assert rates[1][6:] == pytest.approx([2 * rate for rate in rates[0][6:]], rel=0.01)


def test_a_monitored_metric_that_is_nan_is_told_once_is_never_the_best_and_patience_counts_it(tmp_path, caplog):
    values = {"monitor": "auroc", "early_stopping_patience": 2, "num_epochs": 6}
    caplog.set_level("INFO")
    session(tmp_path / "later", LOADERS["tensors"](), metrics={"auroc": Sometimes(1)}, **values)
    assert caplog.text.count("val auroc selects the best checkpoint, but is nan in epoch 2") == 1
    assert "Stopped early: auroc did not improve in 2 epochs" in caplog.text
    state = utils.read_checkpoint(tmp_path / "later" / "last.pth.tar")
    assert (state["epoch"], state["best"]["epoch"]) == (3, 1)
    caplog.clear()
    session(tmp_path / "always", LOADERS["tensors"](), metrics={"auroc": Sometimes(0)}, **values)
    assert caplog.text.count("is nan in epoch 1") == 1
    assert "No epoch is the best: val auroc was always nan" in caplog.text
    state = utils.read_checkpoint(tmp_path / "always" / "last.pth.tar")
    assert (state["epoch"], state["best"]) == (2, None)
    assert not list((tmp_path / "always").glob("*best*"))
    record = json.loads((tmp_path / "always" / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["best"] is None
    for steps in (4, 20, None):
        session(tmp_path / "resumed", LOADERS["tensors"](), steps, metrics={"auroc": Sometimes(0)}, **values)
    assert utils.read_checkpoint(tmp_path / "resumed" / "last.pth.tar")["epoch"] == 2


class Sometimes:
    """A metric that is a number in the first epochs, and nan afterwards; it is computed for training and validation."""

    def __init__(self, epochs):
        self.left = 2 * epochs

    def __call__(self, outputs, labels):
        self.left -= len(labels) == 60
        return 0.5 if self.left >= 0 else float("nan")


@pytest.mark.parametrize("change", [{"values": torch.zeros(1, 3).expand(10**10, 3)}, {"values": torch.zeros(9, 3)}])
def test_a_history_of_absurd_length_is_named_as_damaged(tmp_path, change):
    session(tmp_path / "run", LOADERS["tensors"](), 10)
    file = tmp_path / "run" / "last.pth.tar"
    state = utils.read_checkpoint(file)
    state["history"] = [{"columns": ["epoch", "train_loss", "val_loss"]} | change]
    torch.save(state, file)
    (tmp_path / "run" / "previous.pth.tar").unlink()
    with pytest.raises(utils.UserError, match=r"last.pth.tar: .*damaged.*--restart"):
        session(tmp_path / "run", LOADERS["tensors"]())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_said_with_what_is_saved_and_how_to_go_on(tmp_path, monkeypatch, caplog):
    saved = utils.save_checkpoint

    def full(state, *arguments):
        if state["step"] == 5:
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise utils.UserError("last.pth.tar: cannot be written: No space left on device") from error
        saved(state, *arguments)

    caplog.set_level("INFO")
    monkeypatch.setattr(utils, "save_checkpoint", full)
    with pytest.raises(utils.UserError, match="No space left"):
        session(tmp_path / "run", LOADERS["tensors"]())
    assert re.search(r"Stopped by an error; saved in epoch 1 after batch [46]. To resume, run the same", caplog.text)


@pytest.mark.parametrize("values", [{"weight_decay": 0.1}, {"dropout": 0.3}, {"batch_size": 7}])
def test_what_changes_the_result_is_refused_in_the_middle_of_a_run(tmp_path, values):
    session(tmp_path / "run", LOADERS["tensors"](), 4)
    with pytest.raises(utils.UserError, match=f"of a run with another {next(iter(values))}"):
        session(tmp_path / "run", LOADERS["tensors"](), **values)


def test_an_optimizer_state_that_is_not_of_these_parameters_is_refused(tmp_path):
    session(tmp_path / "run", LOADERS["tensors"](), 4)
    file = tmp_path / "run" / "last.pth.tar"
    state = utils.read_checkpoint(file)
    state["optim_dict"]["state"][0]["momentum_buffer"] = torch.zeros(1)
    torch.save(state, file)
    with pytest.raises(utils.UserError, match="is damaged: momentum_buffer of the optimizer"):
        session(tmp_path / "run", LOADERS["tensors"]())


def test_the_results_of_an_epoch_that_a_kill_left_out_are_written_when_the_run_is_resumed(tmp_path):
    session(tmp_path / "run", LOADERS["tensors"](), 9)
    names = ["history.csv", "metrics_val_best_weights.json", "metrics_val_last_weights.json"]
    before = [(tmp_path / "run" / name).read_text() for name in names]
    for name in names:
        (tmp_path / "run" / name).unlink()
    session(tmp_path / "run", LOADERS["tensors"](), 10)
    assert [(tmp_path / "run" / name).read_text() for name in names] == before
