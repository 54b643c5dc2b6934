"""The model trains, resumes exactly, and its metrics are those of the whole split."""

import csv
import math

import pytest
import torch

import evaluate
import train
import utils
from toolkit.core.device_batches import batches_on_device

pytestmark = pytest.mark.filterwarnings("default")  # a warning in your own model is no error
MANY = 5000  # samples, above which a test does not go through a whole split


def loss_of(model, loss_fn, dataloader):
    """Return the loss of the first batch."""
    inputs, labels = next(iter(batches_on_device(dataloader, model)))
    return loss_fn(model(inputs), labels)


def weights(call, arguments, *steps):
    """Train until so many steps are done, in one run for each number of `steps`; return the weights at the end."""
    for number in steps:
        code, out, err = call(train.main, *arguments, "--max_steps", number)
        assert code == 0, out + err
    state = utils.read_checkpoint(f"{arguments[1]}/last.pth.tar")
    assert state["step"] == steps[-1]
    return {name: value for name, value in state["state_dict"].items() if isinstance(value, torch.Tensor)}


def differences(one, other):
    """Return the names of the weights that differ, if only in one bit."""
    assert one.keys() == other.keys()
    as_bits = {name: [w[name].contiguous().reshape(-1).view(torch.uint8) for w in (one, other)] for name in one}
    return [name for name, pair in as_bits.items() if not torch.equal(*pair)]


def skip_if_large(dataloader, params):
    if len(dataloader) * params.batch_size > MANY:
        pytest.skip(f"the split has more than {MANY} samples")


def test_the_loss_is_finite_in_training_and_validation(parts):
    model, loss_fn, dataloaders, _, _ = parts()
    assert math.isfinite(loss_of(model.train(), loss_fn, dataloaders["train"]).item())
    with torch.inference_mode():
        assert math.isfinite(loss_of(model.eval(), loss_fn, dataloaders["val"]).item())


def test_the_loss_has_a_finite_gradient(parts):
    model, loss_fn, dataloaders, _, _ = parts()
    loss_of(model.train(), loss_fn, dataloaders["train"]).backward()
    gradients = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    assert gradients, "no parameter has a gradient"
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert any(gradient.any() for gradient in gradients.values()), "all gradients are 0"


def test_training_changes_the_weights(call, new_experiment):
    arguments = new_experiment()
    first = weights(call, arguments, 1)
    assert differences(first, weights(call, arguments, 4))


def test_the_same_seed_gives_the_same_weights(call, new_experiment):
    one = weights(call, new_experiment("one"), 3)
    assert differences(one, weights(call, new_experiment("again"), 3)) == []


def test_a_run_that_was_stopped_resumes_exactly(call, new_experiment):
    straight = weights(call, new_experiment("straight"), 6)
    assert differences(straight, weights(call, new_experiment("stopped"), 2, 3, 6)) == []


def test_metrics_do_not_depend_on_the_batch_size(parts):
    results = []
    for batch_size in (16, 5):
        model, loss_fn, dataloaders, metrics, params = parts(f"by_{batch_size}", batch_size=batch_size)
        skip_if_large(dataloaders["val"], params)
        results.append(evaluate.evaluate(model, loss_fn, dataloaders["val"], metrics, params))
    assert results[0] == pytest.approx(results[1], rel=1e-3, abs=1e-6, nan_ok=True)


def test_evaluation_changes_nothing_and_repeats_its_numbers(parts):
    model, loss_fn, dataloaders, metrics, params = parts()
    skip_if_large(dataloaders["val"], params)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    first, second = (evaluate.evaluate(model, loss_fn, dataloaders["val"], metrics, params) for _ in range(2))
    assert first == pytest.approx(second, rel=0, abs=0, nan_ok=True)
    assert differences(before, {name: model.state_dict()[name] for name in before}) == []


def test_evaluate_works_on_a_checkpoint(call, new_experiment, parts, tmp_path):
    _, _, dataloaders, _, params = parts("to_be_counted")
    skip_if_large(dataloaders["val"], params)
    arguments = new_experiment()
    weights(call, arguments, 2)
    code, out, err = call(evaluate.main, *arguments, "--split", "val", "--restore_file", "last")
    assert code == 0, out + err
    results = utils.read_json(tmp_path / "experiment" / "metrics_val_last.json")
    assert math.isfinite(results["loss"])


def test_an_epoch_leaves_a_history_and_the_best_checkpoint(call, new_experiment, parts, tmp_path):
    _, _, dataloaders, _, params = parts("to_be_counted")
    skip_if_large(dataloaders["train"], params)
    code, out, err = call(train.main, *new_experiment(num_epochs=1))
    assert code == 0, out + err
    with open(tmp_path / "experiment" / "history.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert math.isfinite(float(row["train_loss"])) and math.isfinite(float(row["val_loss"]))
    best = utils.read_json(tmp_path / "experiment" / "metrics_val_best_weights.json")
    assert best["loss"] == pytest.approx(float(row["val_loss"]))
    assert (tmp_path / "experiment" / "best.pth.tar").exists()
