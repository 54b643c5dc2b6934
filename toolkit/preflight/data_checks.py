"""Checks of the data: it can be loaded, fits the model, holds no invalid or constant values, and is shuffled."""

import itertools
import math
import time
import warnings

import torch

from toolkit.core.explanations import labels_out_of_range
from toolkit.core.setup import refuse_misspelled
from toolkit.core.sized_batches import size_of
from toolkit.core.smoke_test import smoke_test
from toolkit.core.trees import tensors, tree_map
from toolkit.preflight.experiment import FIRST, SECONDS, Failed, NotApplicable, Trainer, identical, within

TIMED_STEPS = 20


def check_parts(experiment):
    """Fail if data loaders, model, loss or optimizer cannot be made."""
    trainer = Trainer(experiment)
    counts = [f"{len(loader)} {split} batches" for split, loader in experiment.dataloaders.items()]
    weights = sum(parameter.numel() for parameter in trainer.model.parameters())
    return f"{weights:,} weights, {type(trainer.optimizer).__name__}, {', '.join(counts)}"


def check_batches(experiment):
    """Find NaN, labels that are no class, constant inputs or labels, and what the smoke test of train.py finds."""
    trainer, doubts = Trainer(experiment), []
    with warnings.catch_warnings(action="ignore"):  # about shapes that broadcast, which the smoke test refuses
        counts = [f"{examine(experiment, split, trainer)} {split}" for split in experiment.dataloaders]
    parts = trainer.model, trainer.loss_fn, experiment.dataloaders, experiment.task.metrics, experiment.params
    smoke_test(*parts, warn=lambda message, *values: doubts.append(message % values))
    refuse_misspelled(experiment.params)  # as train.py does, now that the code has read its keys
    if doubts:
        raise Failed("; ".join(doubts))
    return f"examined {' and '.join(counts)} batches"


@torch.no_grad()
def examine(experiment, split, trainer):
    """Look at the values of the batches of a split, as many as there is time for, and return their number."""
    inputs, labels = next(experiment.batches())
    outputs, shapes = tree_map(torch.Tensor.cpu, trainer.outputs((inputs, labels))), [t.shape for t in tensors(labels)]
    extremes = {"inputs": set(), "labels": set()}  # the smallest and largest value of each tensor
    for number, batch in enumerate(within(SECONDS / 2, experiment.batches(split)), 1):
        for name, tree in zip(extremes, batch, strict=True):
            for tensor in (t for t in tensors(tree) if t.numel() and not t.is_complex()):
                extremes[name] |= {tensor.min().item(), tensor.max().item()}
            if not all(map(math.isfinite, extremes[name])):
                raise Failed(f"batch {number} of {split} contains NaN or infinity; correct or remove its source")
        if [t.shape for t in tensors(batch[1])] == shapes:
            try:
                trainer.loss_fn(outputs, batch[1])  # on the CPU: on a GPU, an invalid class would end the process
            except IndexError as error:
                raise Failed(f"batch {number} of {split}: {labels_out_of_range(outputs, batch[1]) or error}") from None
    for name, values in extremes.items():
        if len(values) == 1 and split == "train" and number * size_of(batch, expected=2) > 1:
            raise Failed(f"all {name} of train are {min(values) + 0.0:g}; a model cannot learn from constants")
    return number


def check_speed(experiment):
    """Find data loading that is slower than training steps."""
    load = seconds_each(itertools.chain(experiment.batches(epoch=2), experiment.batches(epoch=3)))
    some = itertools.islice(itertools.cycle(experiment.first_batches), TIMED_STEPS)
    step = seconds_each(loss.item() for *_, loss in Trainer(experiment).train(some))  # item() waits for the GPU
    message = f"{1 / load:.3g} batches per second are loaded, {1 / step:.3g} trained on"
    if load > step and load * len(experiment.dataloaders["train"]) > 1:
        raise Failed(f"{message}: training waits for data; raise num_workers, or keep decoded data in memory")
    return message


def seconds_each(things):
    """Return the mean time in seconds in which an iterable yields one item, not counting the first, slower one."""
    times = [time.monotonic() for _ in within(SECONDS / 3, things)]
    return (times[-1] - times[0]) / (len(times) - 1)


def check_shuffling(experiment):
    """Find training data that has the same order in every epoch."""
    first, second = (list(itertools.islice(experiment.batches(epoch=epoch), FIRST)) for epoch in (1, 2))
    if len(first) == 1:
        raise NotApplicable("an epoch is one batch")
    if identical(first, second):
        problem = "the second epoch has the order of the first"
        raise Failed(f"{problem}; use shuffle=True, or a sampler that draws from torch")
    return "the second epoch has another order than the first"
