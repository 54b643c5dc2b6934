"""The data of an experiment, and new models to train on it, made as train.py makes them. Nothing is saved."""

import functools
import itertools
import time

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

import utils
from toolkit.core.device_batches import batches_on_device
from toolkit.core.forward_pass import autocast, forward_pass
from toolkit.core.resumable_batches import has_sample_indices, resumable_batches
from toolkit.core.seeds import MODEL, generators_of, seed_all
from toolkit.core.sized_batches import mark_samples, number_of_samples, possible_sizes
from toolkit.core.trees import PerSample, tensors, tree_map

SECONDS = 8  # time limit of a check whose number of steps or batches does not matter
FIRST = 8  # number of batches of the first epoch that most checks use


class Failed(Exception):
    """A check failed; the message says what was found and what to do."""


class NotApplicable(Exception):
    """A check cannot be made for this experiment; the message says why."""


class Experiment:
    """An experiment as train.py would start it; the arguments are what `set_up` returns.

    `range_test` is the dict that `run_range_test` returned; empty before that check has run.
    """

    def __init__(self, task, params, data_dir):
        self.task, self.params, self.data_dir, self.range_test = task, params, data_dir, {}
        params.compile = False  # compiling each of the models would take longer than all checks

    @functools.cached_property
    def dataloaders(self):
        """The data loaders of train and val, a dict."""
        utils.set_seed(self.params.seed)
        return self.task.fetch_dataloader(["train", "val"], self.data_dir, self.params)

    def batches(self, split="train", epoch=1, start=0):
        """Return an iterator over the batches of an epoch, as train.py loads them."""
        batches = resumable_batches(self.dataloaders[split], self.params.seed)
        return batches.batches(epoch, start, join_last=split == "train")

    @functools.cached_property
    def first_batches(self):
        """The first batches of the first epoch, a list."""
        return list(itertools.islice(self.batches(), FIRST))

    def sample_loader(self, split):
        """Return (indices, load): the indices of the samples of an epoch, and a function from indices to their batch.

        If the data loader cannot load chosen samples, the result is ([], None).
        """
        batches = resumable_batches(self.dataloaders[split], self.params.seed)
        next(batches.batches(1))  # draws the order of the samples, which `keys` holds
        if not all(map(has_sample_indices, batches.keys)):
            return [], None
        indices = [int(index) for key in batches.keys for index in key]
        as_key = torch.as_tensor if batches.keys and isinstance(batches.keys[0], torch.Tensor) else list
        return indices, lambda chosen: batches.load_batch(1, 0, 0, as_key(chosen))


class Trainer:
    """A new model with its loss and optimizer, as at the start of a run with `seed` (default: the experiment's)."""

    def __init__(self, experiment, seed=None):
        task, self.params = experiment.task, experiment.params
        assert experiment.dataloaders  # made first, as they may add facts to params that the model needs
        utils.set_seed(self.params.seed if seed is None else seed)
        self.model = task.make_model(self.params)
        task.load_pretrained(self.model, self.params)
        self.optimizer = task.make_optimizer(self.model, self.params)
        self.loss_fn, self.generators = task.loss_fn(self.params), generators_of(self.model)
        self.precision = autocast(self.params, self.model)
        if any(map(is_lazy, self.model.parameters())):  # a first batch gives them their shapes
            self.outputs(experiment.first_batches[0])

    def scale_learning_rate(self, factor):
        """Multiply the learning rates of all parameter groups."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def forward(self, batches):
        """Yield (outputs, labels, loss) of each batch in training mode."""
        self.model.train()
        for number, (inputs, labels) in enumerate(batches_on_device(batches, self.model)):
            seed_all(self.params.seed, 1, number, MODEL, self.generators)
            outputs, loss = forward_pass(self.model, self.loss_fn, inputs, labels, self.precision)
            yield outputs, labels, loss

    def train(self, batches):
        """Train on each batch. Yield (outputs, labels, loss) after the backward pass, before the optimizer's step."""
        for outputs, labels, loss in self.forward(batches):
            self.optimizer.zero_grad()
            loss.backward()
            yield outputs, labels, loss
            self.optimizer.step()

    def outputs(self, batch, training=False, gradients=False, batch_norm=True, seed=0):
        """Return the model's detached outputs for a batch, with the random numbers of step `seed`.

        `training` sets the mode of all modules; `batch_norm=False` keeps batch normalisation in evaluation mode.
        `gradients` records operations in evaluation mode, too.
        """
        for module in self.model.train(training).modules():
            if isinstance(module, _BatchNorm) and not batch_norm:
                module.eval()
        seed_all(self.params.seed, 1, seed, MODEL, self.generators)
        ((inputs, _),) = batches_on_device([batch], self.model)
        with torch.set_grad_enabled(training or gradients):
            outputs, _ = forward_pass(self.model, None, inputs, None, self.precision)
        return tree_map(torch.Tensor.detach, outputs)


def within(seconds, things):
    """Yield `things` until `seconds` have passed, but at least two of them."""
    end = time.monotonic() + seconds
    for number, thing in enumerate(things, 1):
        yield thing
        if number > 1 and time.monotonic() > end:
            return


def shuffled(labels, outputs):
    """Return the labels of a batch, each assigned to another sample; `outputs` (or inputs) help to count them."""
    size = number_of_samples(outputs, labels, expected=max(possible_sizes(labels), default=1))
    marked, half = mark_samples(labels, size), size // 2
    if isinstance(marked, PerSample):
        return [*marked[half:], *marked[:half]]
    return tree_map(lambda t: t.roll(half, 0) if t.ndim and len(t) == size else t, labels)


def identical(one, other):
    """Return True if two trees hold the same tensors."""
    one, other = tensors(one), tensors(other)
    return len(one) == len(other) and all(map(torch.equal, one, other))
