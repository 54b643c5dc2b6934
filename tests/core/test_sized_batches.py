"""The number of samples in a batch is known or asked for: losses and metrics do not depend on how data are batched."""

import json
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset

import evaluate
import train
from toolkit.core import processes
from toolkit.core.device_batches import device_batches, to_device
from toolkit.core.sized_batches import join_last_sample, mark_samples, number_of_samples, shard_of_batch
from toolkit.core.smoke_test import smoke_test
from toolkit.core.totals import Totals
from toolkit.core.trees import PerSample, from_plain, tensors, to_plain, tree_cat, tree_map
from utils import Params, UserError

Pair = namedtuple("Pair", "first second")


class Plain(dict):
    """A dict whose entries are attributes, in the simplest way: a missing one is a KeyError."""

    def __getattr__(self, name):
        return self[name]


class Graphs:
    """As a batch of torch_geometric: nodes of all graphs in one tensor."""

    def __init__(self, counts):
        self.x, self.num_graphs = torch.zeros(sum(counts), 3), len(counts)


def boxes(*counts):
    return [{"boxes": torch.ones(count, 4), "image_id": torch.tensor(0)} for count in counts]


def images(count, channels=3):
    return [torch.ones(channels, 8, 8 + index) for index in range(count)]


B16, A16 = torch.zeros(16, 3), np.zeros((16, 3))


@pytest.mark.parametrize(
    ("inputs", "labels", "expected", "size"),
    [
        (B16, torch.zeros(16), None, 16),
        (torch.zeros(7, 16, 3), torch.zeros(16), None, 16),  # time first
        (B16, np.zeros(16), None, 16),
        (images(4), boxes(1, 2, 3, 4), None, 4),
        (tuple(images(4)), tuple(boxes(2, 2, 2, 2)), None, 4),
        (images(4), boxes(3, 3, 3, 3), 4, 4),  # as many boxes as channels
        (images(4), boxes(0, 0, 0, 0), None, 4),
        (torch.stack([torch.zeros(3, 8, 8)] * 4), boxes(5, 1, 1, 1), None, 4),
        ([B16, B16], [torch.zeros(16), torch.zeros(16)], 16, 16),  # two inputs and two labels
        (B16, [torch.zeros(16), torch.zeros(16, 2)], None, 16),
        ([B16, B16], torch.zeros(16), None, 16),
        ({"a": B16, "name": ["x"] * 16}, {"class": torch.zeros(16), "weights": torch.ones(3)}, None, 16),
        (OrderedDict(a=B16), UserDict(y=torch.zeros(16), z=torch.zeros(16)), None, 16),
        (Pair(B16, torch.zeros(16)), Pair(torch.zeros(16, 2), None), None, 16),
        (pack_sequence([torch.zeros(3), torch.zeros(2)]), {"y": torch.zeros(2)}, None, 2),
        (pack_sequence([torch.zeros(3), torch.zeros(2)]), None, None, 2),
        (Graphs([5, 3]), None, None, 2),
        (Graphs([5, 3]), torch.zeros(2), None, 2),
        (["a", "b", "c"], ["x", "y", "z"], None, 3),
        (["a", "b", "c"], torch.zeros(3), None, 3),
        (["a", "b", "c"], [["B", "I"], ["O"], ["O", "O"]], None, 3),
        (B16, None, None, 16),
        (B16, torch.tensor(0), 16, 16),
        ({"words": torch.zeros(4, 9), "lengths": torch.zeros(4)}, (torch.zeros(30), torch.zeros(4)), 4, 4),
        (object(), {"y": torch.zeros(5)}, None, 5),
        pytest.param(Plain(x=torch.zeros(5)), Plain(y=torch.zeros(5), z=[0] * 5), None, 5, id="plain"),
        (object(), object(), 5, 5),
    ],
)
def test_the_number_of_samples_is_that_of_each_kind_of_batch(inputs, labels, expected, size):
    assert number_of_samples(inputs, labels, expected) == size


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (images(4), boxes(3, 3, 3, 3), "could be 3 or 4: the inputs are a list of 4"),
        ([B16, B16], [torch.zeros(16), torch.zeros(16)], "could be 2 or 16"),
        (B16, torch.tensor(0), "could be 1 or 16"),
        (object(), object(), "no tensor shows it"),
    ],
)
def test_a_number_that_is_not_clear_is_asked_for(inputs, labels, message):
    with pytest.raises(UserError, match=f"not clear, .*{message}.*unpack_batch.* returns .inputs, labels, number"):
        list(device_batches([(inputs, labels)], nn.Linear(1, 1)))


class Detector(nn.Module):
    """Gives each image one row of four numbers: a tensor, or a list of one tensor per image."""

    def __init__(self, gives_list=False):
        super().__init__()
        self.linear, self.gives_list = nn.Linear(5, 4), gives_list

    def forward(self, inputs):
        outputs = self.linear(torch.stack(list(inputs)))
        return [row[None] for row in outputs] if self.gives_list else outputs


def losses(outputs, targets):
    return [(row - target["boxes"]).square().mean() for row, target in zip(outputs, targets, strict=True)]


def detection_loss(outputs, targets):
    return torch.stack(losses(outputs, targets)).mean()


def mean_loss(outputs, targets):
    """The same for all images, which are lists of arrays."""
    assert len(outputs) == len(targets) and all(isinstance(target["boxes"], np.ndarray) for target in targets)
    return np.mean([np.mean((row - target["boxes"]) ** 2) for row, target in zip(outputs, targets, strict=True)])


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def as_lists(batch):
    return [image for image, _ in batch], [target for _, target in batch]


def as_tuples(batch):
    return tuple(zip(*batch, strict=True))


@pytest.mark.parametrize("kind", [list, Stream])
@pytest.mark.parametrize("collate", [as_lists, as_tuples])
@pytest.mark.parametrize("gives_list", [False, True])
def test_a_detector_has_the_same_losses_and_metrics_for_any_batch_size(tmp_path, kind, collate, gives_list):
    generator = torch.Generator().manual_seed(0)
    counts = [1, 2, 3, 4, 7, 1, 1, 5, 5, 5, 2, 2, 3]
    items = [
        (torch.randn(5, generator=generator), {"boxes": torch.randn(c, 4, generator=generator) + c}) for c in counts
    ]
    torch.manual_seed(0)
    model, found = Detector(gives_list), []
    for size in (13, 5, 4, 2, 1):
        (tmp_path / "params.json").write_text(json.dumps({"batch_size": size}))
        loader = DataLoader(kind(items), size, collate_fn=collate)
        params = Params(tmp_path / "params.json")
        found.append(evaluate.evaluate(model, detection_loss, loader, {"mean": mean_loss}, params))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # a last batch of one image joins the one before it
        found.append(train.train(model, optimizer, detection_loss, loader, {"mean": mean_loss}, params))
    for results in found:
        assert results == pytest.approx(found[0], rel=1e-5) and results["loss"] == pytest.approx(results["mean"])


def test_lists_per_sample_are_shared_out_among_processes(monkeypatch):
    """Each process takes its images and their targets, and a process without one takes another's with weight 0."""
    batch = (images(3), boxes(3, 1, 4))
    monkeypatch.setattr(processes, "shard_of", lambda length: (1, 3))
    inputs, labels = shard = shard_of_batch(batch, 3)
    assert shard.num_samples == 2 and inputs[0] is batch[0][1] and labels[1] is batch[1][2]
    monkeypatch.setattr(processes, "shard_of", lambda length: (3, 3))
    inputs, labels = shard = shard_of_batch(({"x": torch.arange(3), "names": list("abc")}, torch.arange(3)), None)
    assert shard.num_samples == 0 and inputs["names"] == ["a"] and labels.tolist() == [0]


def test_two_streamed_batches_of_several_images_are_not_joined():
    batches = [(images(4), boxes(3, 2, 2, 2)), (images(4), boxes(1, 2, 2, 2))]
    assert [len(inputs) for inputs, _ in join_last_sample(batches, 4)] == [4, 4]
    ((inputs, labels),) = join_last_sample([*batches[:1], (images(1), boxes(5))], 4)
    assert len(inputs) == len(labels) == 5 and labels[4]["boxes"].shape == (5, 4)


@dataclass
class ModelOutput(OrderedDict):
    """As in transformers: a dict whose entries are attributes, too, and which leaves out those that are None."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self):
        if isinstance(self.loss, dict):
            given, self.loss = self.loss, None
            for name, value in given.items():
                self[name] = value
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __reduce__(self):
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


@pytest.mark.parametrize(
    "tree",
    [
        ModelOutput(logits=torch.zeros(2, 3)),
        UserDict(logits=torch.zeros(2, 3)),
        pytest.param(Plain(logits=torch.zeros(2, 3)), id="plain"),
        OrderedDict(logits=torch.zeros(2, 3)),
        Pair(torch.zeros(2, 3), {"names": ["a", "b"]}),
        PerSample([torch.zeros(1, 3), torch.zeros(4, 3)]),
    ],
)
def test_mappings_and_tuples_stay_what_they_are(tree):
    for other in (tree_map(lambda t: t + 1, tree), tree_cat([tree, tree]), to_device(tree, torch.device("cpu"))):
        assert type(other) is type(tree) and len(tensors(other)) >= len(tensors(tree))
    loaded = from_plain(to_plain(tree))  # as a checkpoint stores it
    assert type(loaded).__name__ == type(tree).__name__ and torch.equal(tensors(loaded)[0], tensors(tree)[0])
    if isinstance(tree, ModelOutput):
        assert tree_cat([tree, tree]).logits.shape == (4, 3) and loaded.logits.shape == (2, 3)
        assert tree_map(lambda t: t + 1, tree).logits.sum() == 6 and tree.logits.sum() == 0


def test_objects_with_a_method_to_are_moved_and_the_sizes_of_packed_sequences_are_not():
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)], enforce_sorted=False)
    moved = to_device({"x": packed}, torch.device("meta"))["x"]
    assert moved.data.device.type == "meta" and moved.batch_sizes.device.type == "cpu"
    assert tree_map(lambda t: t.double(), packed).batch_sizes.dtype == torch.int64


def test_arrays_reach_the_metrics_whole_and_what_cannot_be_joined_is_refused(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    totals = Totals("val", {"sum": lambda outputs, labels: labels.sum()}, 2, Params(tmp_path / "params.json"))
    for start in (0, 3):
        totals.update(torch.zeros(3, 2), np.arange(start, start + 3), torch.tensor(0.0), 3)
    assert totals.compute()["sum"] == 15
    totals = Totals("val", {"m": lambda outputs, labels: 0.0}, 2, Params(tmp_path / "params.json"))
    for _ in range(2):
        totals.update(torch.zeros(3, 2), Graphs([2, 1]), torch.tensor(0.0), 2)
    with pytest.raises(UserError, match="a Graphs cannot be concatenated .* metrics with update, compute and reset"):
        totals.compute()


def test_lists_of_parts_are_not_taken_for_lists_of_samples():
    heads = (torch.zeros(2, 5), torch.zeros(2, 7))
    assert type(mark_samples(heads, 2)) is tuple
    assert type(mark_samples([torch.zeros(3, 4), torch.zeros(2, 4)], 2)) is PerSample  # one image has two boxes
    assert [t.shape for t in tree_cat([mark_samples(heads, 2)] * 2)] == [(4, 5), (4, 7)]


def test_a_metric_of_lists_that_needs_several_batches_gets_all_their_samples(tmp_path):
    """The smoke test tries it on more batches, each of which is a list of images."""

    def metric(outputs, targets):
        if len(outputs) < 5:
            raise ValueError("needs five images")
        return mean_loss(outputs, targets)

    (tmp_path / "params.json").write_text("{}")
    items = [(torch.randn(5), {"boxes": torch.ones(2, 4)}) for _ in range(8)]
    loader = DataLoader(items, 2, collate_fn=as_lists)
    warnings, metrics = [], {"mean": metric}
    params = Params(tmp_path / "params.json")
    assert smoke_test(Detector(True), detection_loss, {"val": loader}, metrics, params, warnings.append) == [
        "loss",
        "mean",
    ]
    assert not warnings
