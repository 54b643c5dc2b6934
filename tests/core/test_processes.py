"""Several processes train as one: the same losses, the same metrics, one record, whatever becomes of them."""

import csv
import re
import shutil
import signal
import sys

import pytest
import torch
from conftest import IMAGES, ROOT, Experiment, run_process
from processes import finished, group, group_finished, wait_for
from project_kinds import EACH_STEP, differences, outcome, project

import utils

NET = {"architecture": "DenseNet", "hidden_sizes": [32], "dropout_rate": 0, "batch_size": 50}  # 1439 = 28 * 50 + 39


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not every torch for Windows can let processes meet")
needs_fsdp = pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch has no FSDP2 on CPUs")
KINDS = ["ddp", pytest.param("fsdp", marks=needs_fsdp)]


def history(folder):
    with open(folder / "history.csv") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_alike(folder, other, rel=1e-4):
    """The losses are the same to rounding, the metrics exactly."""
    rows, other_rows = history(folder), history(other)
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        for name, value in row.items():
            exact = name.endswith(("accuracy", "macro_f1", "epoch"))
            assert value == (other_row[name] if exact else pytest.approx(other_row[name], rel)), (name, row, other_row)


@pytest.fixture
def twin(tmp_path, digits_dir):
    """Makes further experiments of the same kind."""

    def twin(name, **values):
        experiment = Experiment(tmp_path / name, digits_dir)
        experiment.write(**NET | values)
        return experiment

    return twin


@pytest.mark.parametrize(
    "values",
    [
        {},
        pytest.param(
            {"parallel": "fsdp", "optimizer": "AdamW", "weight_decay": 0.1}, marks=[needs_fsdp, pytest.mark.slow]
        ),
        *(
            pytest.param(values, marks=pytest.mark.slow)
            for values in (
                {"accumulation_steps": 3, "max_grad_norm": 1.0},
                {"lr_schedule": "one_cycle", "ema_decay": 0.9},
                {"batch_size": 1438},
                {"batch_size": 718},
            )
        ),
    ],
    ids=["plain", "fsdp", "accumulated", "averaged", "a lone last sample", "three left over"],
)
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_one_two_and_four_processes_give_the_same_losses_and_metrics(call, twin, values, count):
    import train

    alone = twin("alone", **values)
    assert call(train.main, *alone.arguments)[0] == 0
    many = twin(f"of {count}", **values)
    codes, out, err = group_finished("train", count, *many.arguments)
    assert (codes, err) == ([0] * count, ""), out
    assert f"cpu and {count - 1} more ({values.get('parallel', 'ddp')})" in out
    assert_alike(many.folder, alone.folder)
    files = {file.name for file in alone.folder.iterdir()}
    assert {file.name for file in many.folder.iterdir()} == files


MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}


@pytest.mark.parametrize(
    ("environment", "is_told"),
    [
        ({"RANK": "1"}, False),
        ({"RANK": "1", "WORLD_SIZE": "1", "LOCAL_RANK": "1", **MEETING}, False),
        ({"RANK": "", "WORLD_SIZE": "", "LOCAL_WORLD_SIZE": ""}, False),
        ({"WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"RANK": "2", "WORLD_SIZE": "2", **MEETING}, True),
        ({"RANK": "node-1", "WORLD_SIZE": "2", **MEETING}, True),
    ],
)
def test_variables_that_another_job_left_over_neither_silence_nor_stop_a_run(twin, environment, is_told):
    experiment = twin("one", num_epochs=1)
    code, out, err = finished(*experiment.arguments, "--max_steps", 1, environment=environment)
    assert (code, err) == (0, "") and "Stopped after 1 steps" in out
    assert ("training in one process; torchrun starts several" in out) is is_told
    assert (experiment.folder / "train.log").read_text()


@pytest.mark.slow
def test_random_changes_of_items_are_those_of_one_process(call, tmp_path, digits_dir):
    import train

    experiment, values = project("classic", tmp_path, digits_dir)
    values |= {"num_epochs": 1, "batch_size": 30, "dropout_rate": 0.0}
    experiment.write(**values)
    net = experiment.folder.parents[1] / "model" / "net.py"
    net.write_text(re.sub(r"nn.BatchNorm[12]d\(", "nn.Identity(", net.read_text()))
    assert call(train.main, *experiment.arguments)[0] == 0
    first = experiment.folder.rename(tmp_path / "alone")
    experiment.folder.mkdir()
    experiment.write(**values)
    codes, _, err = group_finished("train", 2, *experiment.arguments)
    assert (codes, err) == ([0, 0], "")
    assert_alike(experiment.folder, first)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_an_evaluation_counts_each_sample_once(call, twin, count):
    import evaluate
    import train

    experiment = twin("one", num_epochs=1)
    assert call(train.main, *experiment.arguments)[0] == 0
    for batch_size in (1, 50, 178):  # of 179 images in the test split
        experiment.write(**NET | {"batch_size": batch_size})
        assert call(evaluate.main, *experiment.arguments)[0] == 0
        alone = experiment.metrics("metrics_test_best.json")
        codes, out, err = group_finished("evaluate", count, *experiment.arguments)
        assert (codes, err) == ([0] * count, "")
        assert out.count("| test") == 1
        together = experiment.metrics("metrics_test_best.json")
        assert together == alone | {"loss": pytest.approx(alone["loss"], rel=1e-6)}


@pytest.mark.slow
def test_averaged_batch_normalisation_is_evaluated_alike_by_all(call, twin):
    import evaluate

    experiment = twin("averaged", architecture="ConvNet", num_channels=2, ema_decay=0.9, num_epochs=1)
    assert group_finished("train", 2, *experiment.arguments)[0] == [0, 0]
    assert call(evaluate.main, *experiment.arguments, "--split", "val", "--restore_file", "last")[0] == 0
    trained = experiment.metrics("metrics_val_last_weights.json")
    assert experiment.metrics("metrics_val_last.json") == trained | {"loss": pytest.approx(trained["loss"], rel=1e-6)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_another_number_of_processes(call, twin, kind):
    import train

    values = {"parallel": kind, "num_epochs": 3, "lr_schedule": "cosine", "ema_decay": 0.9, "accumulation_steps": 2}
    alone, many = twin("alone", **values), twin("many", **values)
    assert call(train.main, *alone.arguments)[0] == 0
    steps = utils.read_checkpoint(alone.folder / "last.pth.tar")["step"]
    for count, until in ((2, 5), (1, 17), (4, steps - 3), (2, steps)):
        if count == 1:
            code, out, err = call(train.main, *many.arguments, "--max_steps", until)
            assert (code, err) == (0, ""), out
        else:
            codes, out, err = group_finished("train", count, *many.arguments, "--max_steps", until)
            assert (codes, err) == ([0] * count, ""), out
    assert_alike(many.folder, alone.folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=needs_fsdp)])
def test_stopped_and_gone_on_with_by_as_many_it_gives_the_same_bits(twin, kind):
    straight, stopped = (twin(name, parallel=kind, checkpoint_minutes=EACH_STEP) for name in ("straight", "stopped"))
    assert group_finished("train", 2, *straight.arguments)[0] == [0, 0]
    processes = group("train", 2, *stopped.arguments)
    wait_for(processes[0], (stopped.folder / "last.pth.tar").exists)
    processes[1].send_signal(signal.SIGTERM)  # one of them is told, all stop
    texts = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [143, 143], texts
    assert "Stopped by" in texts[0][0] and "To resume, run the same command again." in texts[0][0]
    assert group_finished("train", 2, *stopped.arguments)[0] == [0, 0]
    assert not differences(outcome(stopped.folder), outcome(straight.folder))


@pytest.mark.slow
@pytest.mark.xdist_group("torchrun")  # its port is taken by one at a time
def test_a_process_that_dies_ends_the_run_and_torchrun_goes_on_with_it(twin, tmp_path):
    straight, killed = (twin(name, checkpoint_minutes=EACH_STEP) for name in ("straight", "killed"))
    assert group_finished("train", 2, *straight.arguments)[0] == [0, 0]
    net = tmp_path / "model"
    shutil.copytree(IMAGES / "model", net, dirs_exist_ok=True)
    dying = f"""
import os, signal
from pathlib import Path
class Dying(DenseNet):
    def forward(self, images):
        once = Path({str(tmp_path / "died")!r})
        self.calls = getattr(self, "calls", 0) + self.training
        if self.calls == 40 and os.environ["RANK"] == "1" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)

def Net(params):
    return Dying(params)
"""
    (net / "net.py").write_text((net / "net.py").read_text() + dying)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max_restarts=1"]
    done = run_process(*torchrun, ROOT / "train.py", *killed.arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists() and "exitcode: -9" in done.stderr
    assert "Resuming in epoch 2 after batch" in done.stdout
    assert "Traceback" not in done.stderr
    assert not differences(outcome(killed.folder), outcome(straight.folder))
    sessions = utils.read_json(killed.folder / "run.json")["sessions"]
    assert len(sessions) == 2 and "finished" in sessions[1]


@pytest.mark.slow
def test_a_mistake_is_said_once(twin, tmp_path):
    wrong = twin("wrong", optimizer="Sgd")
    codes, _, err = group_finished("train", 2, *wrong.arguments)
    assert codes == [2, 2]
    assert err.startswith("error: params.json: optimizer is 'Sgd'; did you mean SGD?") and err.count("error: ") == 1
    diverging = twin("diverging", learning_rate=1e6, optimizer="SGD", save_summary_steps=3)
    codes, _, err = group_finished("train", 2, *diverging.arguments)
    assert codes == [2, 2]
    assert "the training loss became" in err and err.count("error: ") == 1
    warming = twin("warming", warmup_steps=1000)
    codes, _, err = group_finished("train", 2, *warming.arguments)
    assert codes == [2, 2] and err.count("error: ") == 1
    assert "warmup_steps is 1000, but the run has 58 steps in all" in err
    nothing = twin("nothing")
    codes, _, err = group_finished("train", 2, "--model_dir", nothing.folder, "--data_dir", tmp_path / "nowhere")
    assert codes == [2, 2]
    assert "no such dataset" in err and err.count("error: ") == 1


@pytest.mark.slow
def test_a_mistake_before_they_meet_is_said_once(twin, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    wrong = [*twin("wrong").arguments, "--device", "nowhere"]
    done = run_process(*torchrun, ROOT / "train.py", *wrong, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("error: --device nowhere: not there") == 1, done.stderr


@pytest.mark.slow
def test_a_process_that_fails_alone_says_why_and_the_others_end(twin, tmp_path):
    shutil.copytree(IMAGES / "model", tmp_path / "model", dirs_exist_ok=True)
    net = tmp_path / "model" / "net.py"
    failing = """
class Failing(DenseNet):
    def forward(self, images):
        if self.training and len(images) == 20 and __import__("os").environ["RANK"] == "1":  # of the last 39
            raise ArithmeticError("mine")
        return super().forward(images)

def Net(params):
    return Failing(params)
"""
    net.write_text(net.read_text() + failing)
    experiment = twin("one", checkpoint_minutes=EACH_STEP)
    codes, out, err = group_finished("train", 2, *experiment.arguments)
    assert codes[1] == 1 and "ArithmeticError: mine" in err
    assert codes[0] != 0
    assert "another process of this run has ended" in err
