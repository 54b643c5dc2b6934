import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, optional, run_process, snapshot
from PIL import Image

import evaluate
import train
import utils


def history(folder):
    with open(folder / "history.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_a_run_leaves_a_complete_record(call, experiment):
    code, out, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    assert {f.name for f in experiment.folder.iterdir()} == {
        "params.json",
        "train.log",
        "history.csv",
        "speed.csv",
        "run.json",
        "curves.png",
        "tensorboard",
        "last.pth.tar",
        "previous.pth.tar",
        "best.pth.tar",
        "metrics_val_best_weights.json",
        "metrics_val_last_weights.json",
    }
    rows = history(experiment.folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    names = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "accuracy", "macro_f1")}
    assert set(rows[0]) == {"epoch", "learning_rate", "gradient_norm"} | names
    assert experiment.metrics("metrics_val_last_weights.json")["accuracy"] == rows[-1]["val_accuracy"]
    best = max(rows, key=lambda row: (row["val_accuracy"], row["epoch"]))
    assert experiment.metrics("metrics_val_best_weights.json")["loss"] == best["val_loss"]
    assert utils.read_checkpoint(experiment.folder / "best.pth.tar")["epoch"] == best["epoch"]
    assert {"epoch", "state_dict", "optim_dict"} <= utils.read_checkpoint(experiment.folder / "last.pth.tar").keys()
    with Image.open(experiment.folder / "curves.png") as picture:
        assert picture.size[0] > 500
    for line in out.splitlines()[:-1]:  # all but the last, which says what to do next
        assert line in (experiment.folder / "train.log").read_text()


def test_run_json_holds_what_reproduces_the_run(call, experiment):
    call(train.main, *experiment.arguments)
    run = experiment.metrics("run.json")
    facts = json.loads((experiment.data_dir / "dataset.json").read_text())
    assert run["dataset"]["fingerprint"] == facts["fingerprint"]
    assert run["params"] | SMALL == run["params"]
    assert (run["seed"], run["params"]["dropout_rate"], run["facts"]["num_classes"]) == (230, 0.5, 10)
    session = run["sessions"][0]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert session["template"] == commit
    assert session["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert session["started"] <= session["finished"]


def test_tensorboard_reads_the_events(call, experiment):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    call(train.main, *experiment.arguments)
    events = EventAccumulator(str(experiment.folder / "tensorboard")).Reload()
    values = [event.value for event in events.Scalars("accuracy/val")]
    assert values == pytest.approx([row["val_accuracy"] for row in history(experiment.folder)])


def test_training_learns(call, experiment):
    experiment.write(num_channels=16, num_epochs=4)
    call(train.main, *experiment.arguments)
    assert experiment.metrics("metrics_val_best_weights.json")["accuracy"] > 0.95


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(call, experiment):
    results = []
    for seed in (1, 1, 2):
        experiment.write(seed=seed)
        call(train.main, *experiment.arguments, "--restart")
        results.append(history(experiment.folder))
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("architecture", ["DenseNet", "TwoLayerNet"])
def test_net_is_picked_by_name(call, experiment, architecture):
    experiment.write(architecture=architecture)
    code, out, _ = call(train.main, *experiment.arguments)
    assert code == 0
    assert f"{architecture} with" in out
    assert "num_channels has no effect" in out


def test_a_finished_run_says_so_and_does_nothing(call, experiment):
    call(train.main, *experiment.arguments)
    (experiment.folder / "train.log").unlink()
    before = snapshot(experiment.folder)
    code, out, _ = call(train.main, *experiment.arguments)
    assert code == 0
    assert "is finished: 2 of 2 epochs are done" in out
    after = snapshot(experiment.folder)
    after.pop("train.log", None)
    assert after == before


def test_a_run_with_more_epochs_goes_on_and_equals_the_one_that_had_them_all_along(call, experiment):
    experiment.write(num_epochs=3, random_shift=1)
    call(train.main, *experiment.arguments)
    straight = history(experiment.folder), utils.read_checkpoint(experiment.folder / "last.pth.tar")["state_dict"]
    experiment.write(num_epochs=1, random_shift=1)
    call(train.main, *experiment.arguments, "--restart")
    experiment.write(num_epochs=3, random_shift=1)
    code, out, _ = call(train.main, *experiment.arguments)
    assert code == 0
    assert "Resuming after epoch 1" in out
    assert history(experiment.folder) == straight[0]
    state = utils.read_checkpoint(experiment.folder / "last.pth.tar")["state_dict"]
    assert all(torch.equal(state[name], straight[1][name]) for name in state)
    assert len(experiment.metrics("run.json")["sessions"]) == 2


def test_what_code_sets_and_defaults_that_are_spelt_out_are_no_change_of_the_hyperparameters(call, experiment):
    from test_errors import NET, own_model

    old = "def loss_fn(outputs, labels, params=None):"
    own_model(experiment, net=NET.replace(old, old + "\n    params.seen = len(labels)"))
    assert call(train.main, *experiment.arguments)[0] == 0
    experiment.write(num_epochs=3, dropout_rate=0.5, seed=230)
    code, out, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    assert "Resuming after epoch 2" in out


def test_restart_moves_the_old_results_aside(call, experiment):
    call(train.main, *experiment.arguments)
    call(evaluate.main, *experiment.arguments)
    (experiment.folder / "model.onnx").write_text("")
    old = snapshot(experiment.folder)
    code, _, _ = call(train.main, *experiment.arguments, "--restart")
    assert code == 0
    kept, stays = (
        snapshot(experiment.folder / "replaced-1"),
        ("params.json", "train.log", "test_looks.json", ".test_looks.json.lock"),
    )
    assert kept == {name: content for name, content in old.items() if name not in stays}
    assert len(history(experiment.folder)) == 2


def test_restore_file_begins_a_new_run_with_old_weights(call, experiment, tmp_path):
    call(train.main, *experiment.arguments)
    other = type(experiment)(tmp_path / "other", experiment.data_dir)
    other.write(learning_rate=1e-9, num_epochs=1)
    code, out, _ = call(train.main, *other.arguments, "--restore_file", experiment.folder / "best.pth.tar")
    assert code == 0
    assert "Starting with the weights of" in out
    assert len(history(other.folder)) == 1
    began = utils.read_checkpoint(experiment.folder / "best.pth.tar")["state_dict"]
    ended = utils.read_checkpoint(other.folder / "last.pth.tar")["state_dict"]
    for name in (n for n in began if n.endswith("weight")):
        assert torch.allclose(ended[name], began[name], atol=1e-6)  # at a learning rate of 1e-9


def test_restore_file_in_the_same_folder_keeps_the_earlier_run(call, experiment):
    call(train.main, *experiment.arguments)
    before = history(experiment.folder)
    assert call(train.main, *experiment.arguments, "--restore_file", "best")[0] == 0
    assert history(experiment.folder / "replaced-1") == before
    assert history(experiment.folder) != before
    code, out, _ = call(train.main, *experiment.arguments, "--restore_file", "best")  # the same command again
    assert "is finished" in out


def test_the_bundled_dataset_is_built_where_it_is_missing(call, experiment):
    from test_errors import own_model

    own_model(experiment)  # so that data/ is beside it
    experiment.write(dataset="digits")
    code, out, err = call(train.main, "--model_dir", experiment.folder)
    assert (code, err) == (0, "")
    assert "data/digits is not there yet: building it" in out
    made = json.loads((experiment.folder.parent / "data" / "digits" / "dataset.json").read_text())
    assert made == json.loads((Path(experiment.data_dir) / "dataset.json").read_text())


@pytest.mark.slow
def test_odd_names_of_folders_are_names_and_nothing_else(experiment, tmp_path):
    """Everything that gets a path is given it as it is: scripts, worker processes, git, messages."""
    odd = tmp_path / "it's; touch was-run $(touch was-run) & 'ü'"
    experiment.folder.rename(odd)
    arguments = ["--model_dir", odd, "--data_dir", experiment.data_dir, "--device", "cpu"]
    for script in ("train.py", "evaluate.py"):
        done = run_process(sys.executable, ROOT / script, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert (odd / "metrics_test_best.json").exists()
    assert not (tmp_path / "was-run").exists()


def test_a_new_experiment_from_an_old_one(call, experiment, tmp_path):
    wide = tmp_path / "wide"
    arguments = ["--model_dir", wide, "--data_dir", experiment.data_dir, "--device", "cpu"]
    changes = ["num_channels=8", "learning_rate=3e-3", "note=as wide"]
    code, out, err = call(train.main, *arguments, "--from", experiment.folder, *changes)
    assert (code, err) == (0, "")
    changed = SMALL | {"num_channels": 8, "learning_rate": 3e-3, "note": "as wide"}
    assert json.loads((wide / "params.json").read_text()) == changed
    assert len(history(wide)) == 2
    assert "note has no effect" in out
    assert call(train.main, *arguments, "--from", experiment.folder, *changes)[0] == 0  # again: it is finished
    code, _, err = call(train.main, *arguments, "--from", experiment.folder, "num_channels=16")
    assert code == 2
    assert "is there already, with another learning_rate, note, num_channels" in err


def test_a_last_batch_of_one_image_is_trained_on(call, experiment):
    """On images of 2×2, so that batch normalisation sees one value a channel of a single image, and would refuse it."""
    call(optional("build_dataset").main, "digits", "--name", "tiny", "--image_size", 2)
    total = sum(json.loads(Path("data/tiny/dataset.json").read_text())["counts"]["train"].values())
    experiment.data_dir = "data/tiny"
    experiment.write(batch_size=(total - 1) // 2)
    assert total % ((total - 1) // 2) == 1
    code, _, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")


def test_of_equally_good_epochs_the_last_is_best(call, experiment):
    experiment.write(architecture="TwoLayerNet", learning_rate=1e-30, num_epochs=3)  # so small that nothing changes
    call(train.main, *experiment.arguments)
    assert len({row["val_accuracy"] for row in history(experiment.folder)}) == 1
    assert utils.read_checkpoint(experiment.folder / "best.pth.tar")["epoch"] == 3


def test_restart_with_the_weights_of_the_run_that_it_replaces(call, experiment):
    call(train.main, *experiment.arguments)
    code, out, err = call(train.main, *experiment.arguments, "--restart", "--restore_file", "best")
    assert (code, err) == (0, "")
    assert "Starting with the weights of best" in out
    assert utils.read_checkpoint(experiment.folder / "last.pth.tar")["restored_from"] == "best"


def test_results_without_a_last_checkpoint_are_not_overwritten(call, experiment):
    call(train.main, *experiment.arguments)
    best = (experiment.folder / "best.pth.tar").read_bytes()
    for name in ("last.pth.tar", "previous.pth.tar"):
        (experiment.folder / name).unlink()
    assert call(train.main, *experiment.arguments)[0] == 0
    assert (experiment.folder / "replaced-1" / "best.pth.tar").read_bytes() == best


def test_restart_leaves_the_users_own_files_where_they_are(call, experiment):
    (experiment.folder / "notes.md").write_text("mine")
    (experiment.folder / "replaced-7").mkdir()
    call(train.main, *experiment.arguments)
    call(train.main, *experiment.arguments, "--restart")
    assert (experiment.folder / "notes.md").read_text() == "mine"
    assert (experiment.folder / "replaced-8" / "best.pth.tar").exists()


def test_a_validation_loss_that_is_nan_is_not_saved_as_a_result(call, experiment):
    experiment.write(learning_rate=1e6, batch_size=4000, num_epochs=3)  # one step an epoch: its loss is still finite
    from test_errors import NET, own_model

    loss = "return F.cross_entropy(outputs, labels)"
    own_model(
        experiment,
        net=NET.replace(loss, loss + " * (1 if torch.is_grad_enabled() or len(labels) < 2 else float('nan'))"),
    )
    code, _, err = call(train.main, *experiment.arguments)
    assert code == 2
    assert "the validation loss became nan in epoch 1, with learning rate 1e+06" in err
    assert not list(experiment.folder.glob("*.pth.tar"))


def test_a_value_that_code_sets_on_params_does_not_spoil_the_checkpoint(call, experiment):
    from test_errors import NET, own_model

    net = NET.replace("width = params.num_channels", "width = params.num_channels; params.weights = np.ones(3)")
    own_model(experiment, net=net)
    assert call(train.main, *experiment.arguments)[0] == 0
    code, _, err = call(evaluate.main, *experiment.arguments)
    assert (code, err) == (0, "")


def test_the_monitor_selects_the_best_checkpoint_in_its_direction(call, experiment):
    experiment.write(monitor="loss", num_epochs=3, learning_rate=0.05)
    call(train.main, *experiment.arguments)
    losses = [row["val_loss"] for row in history(experiment.folder)]
    assert utils.read_checkpoint(experiment.folder / "best.pth.tar")["epoch"] == 1 + int(np.argmin(losses))
    experiment.write(monitor="macro_f1", monitor_mode="min", num_epochs=3, learning_rate=0.05)
    call(train.main, *experiment.arguments, "--restart")
    scores = [row["val_macro_f1"] for row in history(experiment.folder)]
    last_of_the_lowest = 3 - int(np.argmin(scores[::-1]))
    assert utils.read_checkpoint(experiment.folder / "best.pth.tar")["epoch"] == last_of_the_lowest


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_best_checkpoint(call, experiment):
    experiment.write(num_epochs=1)
    call(train.main, *experiment.arguments)
    best = (experiment.folder / "best.pth.tar").read_bytes()
    state = utils.read_checkpoint(experiment.folder / "last.pth.tar")
    for group in state["optim_dict"]["param_groups"]:
        group["lr"] = 1e30
    torch.save(state, experiment.folder / "last.pth.tar")
    last = (experiment.folder / "last.pth.tar").read_bytes()
    experiment.write(num_epochs=3)
    code, _, err = call(train.main, *experiment.arguments)
    assert code == 2
    assert "the training loss became" in err
    assert (experiment.folder / "last.pth.tar").read_bytes() == last  # a smaller learning rate can go on from it
    assert "of epoch 2, with learning rate 1e+30" in err
    assert err.count("\n") == 1
    assert err.strip() in (experiment.folder / "train.log").read_text()
    assert (experiment.folder / "best.pth.tar").read_bytes() == best


def test_an_error_in_the_users_code_in_mid_training_is_in_the_log_too(experiment):
    from test_errors import NET, own_model

    own_model(
        experiment,
        net=NET.replace("return F.cross_entropy", "assert outputs.shape[0] != 31\n    return F.cross_entropy"),
    )
    done = run_process(sys.executable, ROOT / "train.py", *experiment.arguments)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert "AssertionError" in (experiment.folder / "train.log").read_text()


def test_the_classic_functions_work_without_the_scripts(experiment):
    """As a CS230 user calls them, from a notebook."""
    from model import data_loader, net

    params = utils.Params(experiment.folder / "params.json", declared=net.Hyperparameters)
    params.add_facts(json.loads((experiment.data_dir / "dataset.json").read_text()))
    params.cuda = False
    loaders = data_loader.fetch_dataloader(["train", "val"], experiment.data_dir, params)
    model = net.Net(params)
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
    train.train_and_evaluate(
        model, loaders["train"], loaders["val"], optimizer, net.loss_fn, net.metrics, params, experiment.folder
    )
    assert len(history(experiment.folder)) == 2
    results = evaluate.evaluate(model, net.loss_fn, loaders["val"], net.metrics, params)
    assert results == pytest.approx(experiment.metrics("metrics_val_last_weights.json"))


def test_list_params_prints_every_declared_key(call):
    from model import net

    code, out, _ = call(train.main, "--list_params")
    assert code == 0
    for name, field in net.Hyperparameters.model_fields.items():
        assert f"| {name} " in out
        assert field.description in out


def test_bf16_is_another_run_that_resumes_exactly_and_is_evaluated_as_it_was_trained(call, experiment):
    assert call(train.main, *experiment.arguments)[0] == 0
    plain = history(experiment.folder)
    code, _, err = run_with(call, experiment, precision="bf16")
    assert code == 2 and "is of a run with another precision" in err
    assert run_with(call, experiment, "--restart", precision="bf16")[0] == 0
    straight = history(experiment.folder)
    losses = [(a["train_loss"], b["train_loss"]) for a, b in zip(plain, straight, strict=True)]
    assert all(a != b and float(a) == pytest.approx(float(b), rel=0.05) for a, b in losses)
    assert run_with(call, experiment, "--restart", "--max_steps", 5, precision="bf16")[0] == 0
    assert run_with(call, experiment, precision="bf16")[0] == 0
    assert history(experiment.folder) == straight
    arguments = [*experiment.arguments, "--split", "val", "--restore_file", "last"]
    assert call(evaluate.main, *arguments)[0] == 0
    in_bf16 = experiment.metrics("metrics_val_last.json")["loss"]
    assert in_bf16 == float(straight[-1]["val_loss"])
    experiment.write()
    assert call(evaluate.main, *arguments)[0] == 0
    in_float32 = experiment.metrics("metrics_val_last.json")["loss"]
    assert in_float32 != in_bf16 and in_float32 == pytest.approx(in_bf16, rel=0.05)


def run_with(call, experiment, *arguments, **values):
    experiment.write(**values)
    return call(train.main, *experiment.arguments, *arguments)


def test_a_checkpoint_from_before_there_were_options_goes_on(call, experiment):
    assert call(train.main, *experiment.arguments, "--max_steps", 5)[0] == 0
    file = experiment.folder / "last.pth.tar"
    state = utils.read_checkpoint(file)
    for name in ("precision", "lr_schedule", "optimizer", "ema_decay", "label_smoothing"):
        del state["params"][name]
    del state["gradient_norms"]
    torch.save(state, file)
    assert call(train.main, *experiment.arguments)[0] == 0
