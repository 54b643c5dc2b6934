import contextlib

import numpy as np
import pytest
import torch

import toolkit.core.totals
from toolkit.core.forward_pass import forward_pass
from toolkit.core.totals import NonFiniteLoss, Totals
from utils import Params, UserError


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.json").write_text('{"save_summary_steps": 3}')
    return Params(tmp_path / "params.json")


def computed(batches, params, metrics, **options):
    totals = Totals("train", metrics, len(batches), params, **options)
    for outputs, labels in batches:
        totals.update(outputs, labels, outputs.mean(), len(labels))
    return totals.compute()


def test_metrics_see_the_whole_split_once_and_in_order(params):
    outputs, labels = torch.randn(50, 4), torch.arange(50)
    seen = []
    metrics = {"first": lambda o, lab: seen.append((o, lab)) or o[0, 0]}
    results = computed(list(zip(outputs.split(7), labels.split(7), strict=True)), params, metrics)
    assert len(seen) == 1
    assert np.array_equal(seen[0][0], outputs.numpy())
    assert np.array_equal(seen[0][1], labels.numpy())
    assert list(results) == ["loss", "first"]


@pytest.mark.parametrize("batch_size", [1, 7, 49, 50])
def test_the_loss_is_the_mean_over_samples_for_any_batch_size(params, batch_size):
    outputs, labels = torch.randn(50, 4), torch.arange(50)
    batches = list(zip(outputs.split(batch_size), labels.split(batch_size), strict=True))
    assert computed(batches, params, {})["loss"] == pytest.approx(outputs.double().mean().item(), abs=1e-7)


def test_outputs_may_be_nested_and_in_half_precision(params):
    totals = Totals("val", {"m": lambda o, lab: o["a"].sum() + lab[1].sum()}, 2, params)
    for _ in range(2):
        totals.update(
            {"a": torch.ones(3, 2, dtype=torch.bfloat16)}, (torch.zeros(3), torch.ones(3)), torch.tensor(1.0), 3
        )
    assert totals.compute()["m"] == 12 + 6


class Streaming:
    """A metric in torchmetrics' protocol."""

    def reset(self):
        self.total, self.batches = 0, 0

    def update(self, outputs, labels):
        assert isinstance(outputs, torch.Tensor)
        self.total += outputs.sum().item()
        self.batches += 1

    def compute(self):
        return torch.tensor(self.total / self.batches)


def test_a_streaming_metric_takes_batch_after_batch_and_keeps_nothing(params):
    totals = Totals("val", {"m": Streaming()}, 4, params)
    for i in range(4):
        totals.update(torch.full((2, 1), float(i)), torch.zeros(2), torch.tensor(0.0), 2)
    assert totals.outputs == []
    assert totals.compute()["m"] == 3.0
    assert Totals("val", totals.metrics, 1, params).metrics["m"].batches == 0


def test_parts_of_a_loss_are_averaged_too(params):
    totals = Totals("train", {}, 2, params)
    for size, part in ((3, 1.0), (1, 5.0)):
        loss = torch.tensor(2.0)
        loss.parts = {"kl": torch.tensor(part)}
        totals.update(torch.zeros(size), torch.zeros(size), loss, size)
    assert totals.compute() == {"loss": 2.0, "kl": 2.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_loss_that_is_not_finite_names_its_step(params, bad, at):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
    params.add_facts({"epoch": 5})
    totals = Totals("train", {}, 10, params, optimizer)
    with pytest.raises(NonFiniteLoss, match=rf"became {bad} at step {at + 1} of epoch 5, with learning rate 0.25"):
        for step in range(10):
            totals.update(torch.zeros(2), torch.zeros(2), torch.tensor(bad if step == at else 1.0), 2)
        totals.compute()


def test_outputs_that_would_not_fit_are_refused_before_they_do_harm(params, monkeypatch):
    monkeypatch.setattr(toolkit.core.totals, "available_memory", lambda: 1e6)
    totals = Totals("val", {"m": lambda o, lab: 0.0}, 1000, params)
    with pytest.raises(
        UserError,
        match=r"val: the outputs and labels of the split need about .*update\(outputs, labels\), compute\(\) and reset",
    ):
        totals.update(torch.zeros(100, 10), torch.zeros(100), torch.tensor(0.0), 100)
    Totals("val", {"m": Streaming()}, 1000, params).update(
        torch.zeros(100, 10), torch.zeros(100), torch.tensor(0.0), 100
    )


def test_available_memory_is_plausible():
    assert 1e8 < toolkit.core.totals.available_memory() < 1e14


def test_a_metric_that_gives_no_number_is_named(params):
    with pytest.raises(UserError, match=r"metrics\['per_class'\] should return one number for the split, not a"):
        computed([(torch.zeros(2, 3), torch.zeros(2))], params, {"per_class": lambda o, lab: o.mean(0)})


def test_outputs_of_different_widths_are_explained(params):
    batches = [(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 5), torch.zeros(2))]
    with pytest.raises(UserError, match="cannot be concatenated"):
        computed(batches, params, {"m": lambda o, lab: 0.0})


def test_labels_that_are_padding_do_not_count_in_the_loss(params):
    """The mean over tokens of losses that are means over tokens, as `cross_entropy` gives, whatever the batches are."""
    generator = torch.Generator().manual_seed(1)
    outputs, labels = torch.randn(40, 7, 3, generator=generator), torch.randint(0, 3, (40, 7), generator=generator)
    labels[torch.rand(40, 7, generator=generator) < 0.6] = -100
    labels[:, 0] = 1

    def loss_fn(rows, tags):
        return torch.nn.functional.cross_entropy(rows, tags.flatten())

    whole = loss_fn(outputs.flatten(0, 1), labels).item()
    for size in (1, 3, 16):
        totals = Totals("test", {}, 1, params)
        for rows, tags in zip(outputs.split(size), labels.split(size), strict=True):
            rows = rows.flatten(0, 1)
            _, loss = forward_pass(lambda rows: rows, loss_fn, rows, tags, contextlib.nullcontext())
            totals.update(rows, tags, loss, len(tags))
        assert totals.compute()["loss"] == pytest.approx(whole, rel=1e-6)


def test_a_batch_of_padding_alone_has_no_gradient_whatever_the_loss_divides_by():
    def mean_over_words(outputs, labels):
        counts = labels >= 0
        return (outputs.logsumexp(-1) * counts).sum() / counts.sum()  # 0 / 0, and so is its gradient

    model = torch.nn.Linear(4, 3)
    labels = torch.full((2, 5), -1)
    loss = forward_pass(model, mean_over_words, torch.randn(2, 5, 4), labels, contextlib.nullcontext())[1]
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_a_rank_without_samples_counts_no_labels_and_keeps_the_zero_on_the_device(params):
    totals = Totals("train", {}, 2, params)
    for num_samples in (2, 0):
        loss = torch.tensor(1.0)
        loss.num_counted = torch.tensor(5)
        totals.update(torch.zeros(2, 3), torch.zeros(2), loss, num_samples)
    assert all(isinstance(size, torch.Tensor) for size in totals.sizes), "a GPU cannot stack these with numbers"
    assert [int(size) for size in totals.sizes] == [5, 0]


def test_flat_outputs_of_sentences_of_different_lengths_reach_the_metrics(params):
    seen = []
    totals = Totals("test", {"seen": lambda outputs, labels: seen.append((outputs, labels)) or 0}, 1, params)
    for count, length in ((2, 3), (4, 5), (1, 3)):
        totals.update(torch.zeros(count * length, 6), torch.full((count, length), length), torch.tensor(1.0), 1)
        totals.state_dict()  # a checkpoint in between changes nothing
    totals.compute()
    assert seen[0][0].shape == (29, 6)
    assert seen[0][1].tolist() == [3] * 6 + [5] * 20 + [3] * 3
