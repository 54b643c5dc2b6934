"""One step of the optimizer: the gradient of all its samples, clipped, scaled, averaged."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import train
import utils
from toolkit.core.checkpoint import TrainState
from toolkit.core.learning_rate_schedule import learning_rate_factor
from toolkit.core.optimizer_steps import MovingAverage, OptimizerStep, Updates
from utils import Params

torch.manual_seed(0)
INPUTS, LABELS = torch.randn(22, 5), torch.randn(22, 1)


@pytest.fixture
def trained(tmp_path):
    """Train a small model for one epoch: gives the weights after it, and the results."""

    def trained(
        batch_size, loss_fn=nn.functional.mse_loss, labels=LABELS, make_model=lambda: nn.Linear(5, 1), **values
    ):
        (tmp_path / "params.json").write_text(json.dumps({"batch_size": batch_size} | values))
        torch.manual_seed(1)
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(INPUTS, labels), batch_size)
        results = train.train(model, optimizer, loss_fn, loader, {}, Params(tmp_path / "params.json"))
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), results

    return trained


@pytest.mark.parametrize(("size", "times"), [(4, 2), (5, 2), (3, 4), (4, 6), (2, 100)])
def test_batches_that_are_accumulated_give_the_gradient_of_one(trained, size, times):
    """The last one of 22 samples is shorter, and so is the last step."""
    whole, whole_results = trained(min(size * times, 22))
    parts, results = trained(size, accumulation_steps=times)
    assert parts == pytest.approx(whole, rel=1e-5)
    if size * times >= 22:  # else the batches see other weights
        assert results == pytest.approx(whole_results)


class Tagger(nn.Module):
    """Scores of four tags for each of six words."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 24)

    def forward(self, inputs):
        return self.linear(inputs).view(-1, 6, 4)


def cross_entropy(outputs, labels):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())


def test_padding_does_not_count(trained):
    labels = torch.randint(0, 4, (22, 6))
    labels[torch.rand(22, 6) < 0.6] = -100
    whole, whole_results = trained(22, cross_entropy, labels, Tagger)
    parts, results = trained(4, cross_entropy, labels, Tagger, accumulation_steps=6)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert results == pytest.approx(whole_results, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_batches_in_which_nothing_counts_are_left_out(trained, steps):
    """cross_entropy returns NaN for them, the mean over nothing."""
    labels = torch.randint(0, 4, (22, 6))
    labels[4:12] = -100
    weights, results = trained(4, cross_entropy, labels, Tagger, accumulation_steps=steps)
    assert torch.isfinite(weights).all() and np.isfinite(results["loss"])
    nothing, results = trained(4, cross_entropy, torch.full((22, 6), -100), Tagger, accumulation_steps=steps)
    assert nothing == pytest.approx(trained(4, lambda o, y: 0 * o.sum(), labels, Tagger)[0])
    assert np.isnan(results["loss"])


def test_samples_without_a_label_do_not_count(trained):
    labels = torch.randint(0, 2, (22,))
    labels[:7] = -100
    options = nn.functional.cross_entropy, labels, lambda: nn.Linear(5, 2)
    whole, whole_results = trained(22, *options)
    parts, results = trained(4, *options, accumulation_steps=6)  # nothing counts in the first batch
    assert parts == pytest.approx(whole, rel=1e-4)
    assert results == pytest.approx(whole_results, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_targets_of_minus_one_and_minus_hundred_count(trained, dtype):
    """They are no padding where the outputs are numbers instead of scores of classes."""
    labels = torch.tensor([-1, 1, -100, 5]).repeat(6)[:22, None].to(dtype)

    def loss_fn(outputs, labels):
        return (outputs - labels).abs().mean()

    whole, whole_results = trained(22, loss_fn, labels)
    parts, results = trained(4, loss_fn, labels, accumulation_steps=6)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert results == pytest.approx(whole_results, rel=1e-5)


def test_gradients_are_clipped_to_their_norm(trained):
    start, _ = trained(22, learning_rate=0.1, max_grad_norm=1e-9)
    free, _ = trained(22)
    clipped, _ = trained(22, max_grad_norm=0.05)
    assert (clipped - start).norm().item() == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert torch.cosine_similarity(clipped - start, free - start, dim=0).item() == pytest.approx(1, abs=1e-4)


def test_fp16_is_scaled_so_that_small_gradients_stay(trained):
    """The gradients are 1e-9 of what they were: zero in float16."""
    tiny, _ = trained(22, lambda outputs, labels: (outputs * 1e-5 - labels).square().mean(), precision="fp16")
    exact, _ = trained(22, lambda outputs, labels: (outputs * 1e-5 - labels).square().mean())
    start, _ = trained(22, max_grad_norm=1e-9)
    assert (tiny - start).norm() > 0
    assert tiny == pytest.approx(exact, rel=1e-3)


def test_a_moving_average_is_that_of_its_definition():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average, expected = MovingAverage(model, 0.5), {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(1, 6):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor += 1
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {k: decay * v + (1 - decay) * model.state_dict()[k] for k, v in expected.items()}
    own = {k: v.clone() for k, v in model.state_dict().items()}
    with average.in_place():
        for name, value in model.state_dict().items():
            assert torch.allclose(value, (own if "num" in name else expected)[name])
        held = {k: v.clone() for k, v in average.state_dict().items()}
    assert all(torch.equal(value, own[name]) for name, value in held.items())
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


class Drawing(nn.Module):
    """Notes one random number for each batch that it is trained on, as dropout would draw it."""

    def __init__(self):
        super().__init__()
        self.linear, self.drawn = nn.Linear(5, 1), []

    def forward(self, inputs):
        if self.training:
            self.drawn.append(torch.rand(()).item())
        return self.linear(inputs)


@pytest.fixture
def run(tmp_path):
    """Train a Drawing for three epochs of six steps: gives the model, and the learning rate and weights of each step."""
    values = {"batch_size": 4, "num_epochs": 3, "lr_schedule": "cosine", "warmup_steps": 2, "ema_decay": 0.9}
    (tmp_path / "params.json").write_text(json.dumps(values))
    params, model, rates, weights = Params(tmp_path / "params.json"), Drawing(), [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights.append(model.linear.weight.detach().clone())

    def note(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        weights.append(model.linear.weight.detach().clone())

    optimizer.register_step_post_hook(note)
    loader = DataLoader(TensorDataset(INPUTS, LABELS), 4)
    train.train_and_evaluate(model, loader, loader, optimizer, nn.functional.mse_loss, {}, params, tmp_path)
    return model, params, rates, weights


def test_each_step_has_the_learning_rate_of_its_number(run):
    _, params, rates, _ = run
    assert rates == pytest.approx([0.1 * learning_rate_factor(params, step, 6, 0) for step in range(18)])


def test_the_moving_average_warms_up_once_in_a_run(run, tmp_path):
    _, _, _, weights = run
    average = weights[0]
    for step, latest in enumerate(weights[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * latest
    saved = utils.read_checkpoint(tmp_path / "last.pth.tar")["state_dict"]["linear.weight"]
    assert torch.allclose(saved, average, atol=1e-6)


def test_each_step_and_each_process_draws_its_own_numbers(run):
    model, params, _, _ = run
    assert len(set(model.drawn)) == len(model.drawn) == 18
    updates = Updates(model, torch.optim.SGD(model.parameters(), lr=0.1), params)
    drawn = []
    for updates.rank in (0, 1):
        OptimizerStep(updates, iter(()), TrainState()).seed()
        drawn.append(torch.rand(()).item())
    assert drawn[0] != drawn[1] and drawn[0] == model.drawn[0]
