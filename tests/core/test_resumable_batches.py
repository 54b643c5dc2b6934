"""A batch is a function of (seed, epoch, number): whatever came before, and whichever process loads it."""

import itertools
import random
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, Subset

import train
from toolkit.core.resumable_batches import ResumableBatches, check_length, resumable_batches
from toolkit.core.seeds import generators_of, mix, seed_all
from utils import Params


class Noise(Dataset):
    """Items that draw from every generator there is, its own included."""

    def __init__(self):
        self.generator = np.random.default_rng(0)
        self.parts = {"deep": [random.Random(0)]}

    def __len__(self):
        return 20

    def __getitem__(self, index):
        drawn = [random.random(), np.random.rand(), self.generator.random(), self.parts["deep"][0].random()]
        return torch.tensor([index, *drawn, torch.rand(()).item()], dtype=torch.float64)


class NoiseInBatches(Noise):
    def __getitems__(self, indices):
        return [self[index] + np.random.rand() for index in indices]


def drawn(order, epoch, start=0):
    """All batches from `start`, while something else draws, too."""
    batches = []
    for batch in order.batches(epoch, start):
        torch.rand(7), random.random(), np.random.rand(3)
        batches.append(batch)
    return torch.cat(batches)


@pytest.mark.parametrize("dataset", [Noise(), NoiseInBatches(), Subset(Noise(), range(20))])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_workers": 2},
        pytest.param({"num_workers": 2, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
        {"num_workers": 1, "persistent_workers": True},
    ],
)
def test_batches_are_the_same_from_any_start_and_for_any_workers(dataset, options):
    if "multiprocessing_context" in options and not isinstance(dataset, Subset):
        pytest.skip("once is enough: workers that are spawned take seconds")
    reference = ResumableBatches(DataLoader(dataset, 3, shuffle=True), seed=5)
    order = ResumableBatches(DataLoader(dataset, 3, shuffle=True, **options), seed=5)
    for epoch, start in ((1, 0), (2, 3), (1, 6), (2, 5)):
        assert torch.equal(drawn(order, epoch, start), torch.cat([drawn(reference, epoch)[3 * start :]]))
    epochs = [drawn(reference, epoch) for epoch in (1, 2)]
    assert not torch.equal(*epochs)
    for rows in epochs:  # no two items have the same noise
        assert len(rows[:, 1].unique()) == len(rows) == 20
        assert sorted(rows[:, 0].int().tolist()) == list(range(20)) or isinstance(dataset, NoiseInBatches)
    other_seed = ResumableBatches(DataLoader(dataset, 3, shuffle=True), seed=6)
    assert not torch.equal(drawn(other_seed, 1), epochs[0])


def test_a_start_in_the_middle_loads_nothing_again():
    class Counted(Noise):
        loaded = 0

        def __getitem__(self, index):
            Counted.loaded += 1
            return super().__getitem__(index)

    rows = drawn(ResumableBatches(DataLoader(Counted(), 3, shuffle=True), seed=1), epoch=1, start=5)
    assert (len(rows), Counted.loaded) == (5, 5)


def test_a_sampler_with_set_epoch_is_told_the_epoch():
    sampler = DistributedSampler(Noise(), num_replicas=2, rank=0)
    order = ResumableBatches(DataLoader(Noise(), 5, sampler=sampler), seed=1)
    first, second, again = drawn(order, 1)[:, 0], drawn(order, 2)[:, 0], drawn(order, 1)[:, 0]
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_an_option_of_the_loader_is_kept():
    loader = DataLoader(Noise(), 5, drop_last=True, collate_fn=lambda rows: torch.stack(rows) + 1000)
    batches = list(ResumableBatches(loader, seed=1).batches(1))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert min(batch.min().item() for batch in batches) >= 1000
    assert len(list(ResumableBatches(DataLoader(Noise(), 6, drop_last=True), seed=1).batches(1))) == 3


def test_the_loader_itself_stays_as_it_was():
    dataset = Noise()
    loader = DataLoader(dataset, 5)
    resumable_batches(loader, 1)
    assert loader.dataset is dataset
    assert resumable_batches(loader, 1) is resumable_batches(loader, 1)
    assert resumable_batches(loader, 2) is not resumable_batches(loader, 1)


def test_what_an_order_is_made_of_goes_when_the_loader_does():
    """A loader whose workers persist takes five seconds for each of them to go where something holds it in a circle."""
    loader = DataLoader(Noise(), 5, num_workers=1, persistent_workers=True)
    for _ in resumable_batches(loader, 1).batches(1):
        break
    started = time.monotonic()
    del loader, _
    assert time.monotonic() - started < 4


def test_generators_are_found_in_modules_and_nested_attributes():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator()

    model = torch.nn.Sequential(torch.nn.Sequential(Layer()), Layer())
    assert len(generators_of(model)) == 2
    assert len(generators_of(Noise())) == 2
    assert generators_of([model, model]) and len(generators_of([model, model])) == 2
    assert generators_of(DataLoader(Noise(), 2)) != []

    class Shared(Dataset):
        generator = np.random.default_rng(0)  # of the class

    assert generators_of(Shared()) == [Shared.generator]


def test_two_generators_of_one_dataset_draw_different_numbers():
    dataset = Noise()
    dataset.other = np.random.default_rng(0)
    list(ResumableBatches(DataLoader(dataset, 20), seed=1).batches(1))
    assert dataset.other.random() != np.random.default_rng(0).random()
    assert dataset.other.random() != dataset.generator.random()
    rows = []
    for number in range(5):
        seed_all(1, 1, number, 0, [dataset.generator, dataset.other])
        rows.append((dataset.generator.random(), dataset.other.random()))
    assert len({value for row in rows for value in row}) == 10


class OpenedByWorkers(Dataset):
    """As one that reads a file which each worker opens for itself."""

    file = None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.file[index]


def open_file(worker):
    dataset = torch.utils.data.get_worker_info().dataset
    assert dataset.file is None
    dataset.file = list(range(100, 108))


def test_a_worker_init_fn_sets_attributes_of_the_dataset():
    loader = DataLoader(OpenedByWorkers(), 4, num_workers=2, worker_init_fn=open_file)
    assert torch.cat(list(ResumableBatches(loader, seed=1).batches(1))).tolist() == list(range(100, 108))


def test_streams_and_numbers_give_different_values():
    values = {
        mix(seed, epoch, number, stream)
        for seed in range(5)
        for epoch in range(20)
        for number in range(50)
        for stream in range(3)
    }
    assert len(values) == 5 * 20 * 50 * 3
    assert all(0 <= value < 2**64 for value in values)
    firsts = []
    for number in range(2000):
        seed_all(1, 1, number, 0)
        firsts.append([torch.rand(()).item(), np.random.rand(), random.random()])
    means, correlation = np.mean(firsts, axis=0), np.corrcoef(np.array(firsts).T)
    assert np.abs(means - 0.5).max() < 0.03
    assert np.abs(correlation - np.eye(3)).max() < 0.08


class OwnLength:
    """A loader of one's own that gives another number of batches than its length; None: it never ends."""

    def __init__(self, count, length):
        self.count, self.length = count, length

    def __len__(self):
        return self.length

    def __iter__(self):
        for number in itertools.count() if self.count is None else range(self.count):
            yield torch.full((2, 1), float(number)), torch.zeros(2)


class Forever(Sampler):
    def __len__(self):
        return 6

    def __iter__(self):
        return itertools.cycle(range(20))


@pytest.mark.parametrize(
    ("count", "word"), [(None, "more batches than its length"), (4, "gave 4 batches, but"), (6, "")]
)
@pytest.mark.parametrize("join_last", [False, True])
def test_an_epoch_ends_with_the_length_of_the_loader_and_another_number_is_told_once(caplog, count, word, join_last):
    check_length.cache_clear()
    batches = ResumableBatches(OwnLength(count, 6), seed=1)
    for epoch in (1, 2):
        found = [inputs[0].item() for inputs, _ in batches.batches(epoch, start=1, join_last=join_last)]
        assert found == list(range(1, count or 6))[:5]
    told = [message for message in caplog.messages if "batches" in message]
    assert len(told) == bool(word) and word in "".join(told)


def test_a_sampler_that_never_ends_gives_as_many_batches_as_it_says():
    batches = ResumableBatches(DataLoader(Noise(), 1, sampler=Forever()), seed=1)
    assert drawn(batches, 1)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_loader_that_never_ends_is_trained_on_for_its_length(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = []
    optimizer.register_step_post_hook(lambda *arguments: steps.append(1))
    train.train(model, optimizer, lambda o, y: o.mean(), OwnLength(None, 6), {}, Params(tmp_path / "params.json"))
    assert len(steps) == 6


def test_each_epoch_has_an_order_of_its_own_and_set_epoch_gets_its_number():
    orders = [
        drawn(ResumableBatches(DataLoader(Noise(), 5, shuffle=True), 1), epoch)[:, 0].tolist() for epoch in (1, 2)
    ]
    assert orders[0] != orders[1]
    sampler = DistributedSampler(Noise(), num_replicas=2, rank=0)
    list(ResumableBatches(DataLoader(Noise(), 5, sampler=sampler), seed=1).batches(3))
    assert sampler.epoch == 3


def test_a_last_batch_of_two_stays_alone_and_one_of_one_is_joined():
    for size, sizes in ((6, [6, 6, 6, 2]), (19, [20])):
        batches = ResumableBatches(DataLoader(Noise(), size), seed=1).batches(1, join_last=True)
        assert [len(batch) for batch in batches] == sizes


def test_a_step_and_the_loading_of_any_other_batch_draw_different_numbers():
    """Streams must not be added to numbers: batch n + 1 would be loaded with the draws of step n."""
    firsts = set()
    for number, stream in itertools.product(range(20), range(3)):
        seed_all(1, 1, number, stream)
        firsts.add(torch.rand(()).item())
    assert len(firsts) == 60
