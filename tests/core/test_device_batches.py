import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from toolkit.core.device_batches import device_batches
from toolkit.core.sized_batches import join_last_sample
from utils import UserError

MODEL = nn.Linear(1, 1)


def sizes(total, batch_size, training):
    dataset = TensorDataset(torch.arange(total).float()[:, None], torch.arange(total))
    batches = DataLoader(dataset, batch_size)
    batches = list(device_batches(join_last_sample(batches) if training else batches, MODEL))
    assert torch.cat([labels for _, labels, *_ in batches]).tolist() == list(range(total))  # all, once, in order
    assert [len(labels) for _, labels, *_ in batches] == [num_samples for *_, num_samples, _ in batches]
    assert [is_last for *_, is_last in batches] == [False] * (len(batches) - 1) + [True]
    return [num_samples for *_, num_samples, _ in batches]


def test_a_lone_last_sample_joins_the_batch_before_it_in_training_alone():
    assert sizes(9, 4, training=True) == [4, 5]
    assert sizes(9, 4, training=False) == [4, 4, 1]
    assert sizes(10, 4, training=True) == [4, 4, 2]
    assert sizes(3, 1, training=True) == [1, 1, 1]
    assert sizes(1, 4, training=True) == [1]


def test_a_batch_of_one_sample_in_the_middle_of_an_epoch_ends_nothing():
    batches = [(torch.ones(size), torch.ones(size)) for size in (4, 1, 4, 1, 1)]
    assert [len(labels) for _, labels in join_last_sample(batches)] == [4, 1, 4, 1, 1]
    assert [len(labels) for _, labels in join_last_sample(batches[:4])] == [4, 1, 5]


def test_nested_batches_keep_their_structure():
    batch = ({"a": torch.ones(2, 3), "name": ["x", "y"]}, [torch.zeros(2), (torch.ones(2),)])
    ((inputs, labels, *_),) = device_batches([batch], MODEL)
    assert inputs["name"] == ["x", "y"]
    assert isinstance(labels[1], tuple)
    assert torch.equal(inputs["a"], torch.ones(2, 3))
    lone = ({"a": torch.zeros(1, 3), "name": ["z"]}, [torch.ones(1), (torch.zeros(1),)])
    ((inputs, labels, *_),) = device_batches(join_last_sample([batch, lone]), MODEL)
    assert inputs["name"] == ["x", "y", "z"]
    assert labels[1][0].tolist() == [1, 1, 0]


def test_a_lone_sample_of_another_shape_stays_alone():
    batches = [(torch.ones(4, 7), torch.ones(4)), (torch.ones(1, 3), torch.ones(1))]
    assert [num_samples for *_, num_samples, _ in device_batches(join_last_sample(batches), MODEL)] == [4, 1]


@pytest.mark.parametrize("batch", [{"x": 1}, torch.ones(2, 3), (1, 2, 3)])
def test_a_batch_that_is_no_pair(batch):
    with pytest.raises(
        UserError, match=r"a batch of the data loader is a .*; it should be a pair \(inputs, labels\), .*unpack_batch"
    ):
        list(device_batches([batch], MODEL))
