"""Checks that train for some steps: reproducibility, learning rate, and overfitting of a few samples."""

import itertools
import math
import tempfile
from pathlib import Path

import torch

import utils
from toolkit.preflight.experiment import SECONDS, Failed, NotApplicable, Trainer, identical, shuffled, within
from toolkit.preflight.learning_rate_range import run_range_test

STEPS = 3  # number of steps that are repeated and compared
SAMPLES, MOST_STEPS = 16, 500  # to overfit
ENOUGH_STEPS = 100  # if a model has not overfitted after so many steps, more time would not help
FAR = 100  # a learning rate this many times larger or smaller than the suggested one is wrong
OWN_GENERATOR = """the data depends on what was loaded before, or no seed controls it; draw random numbers from torch, \
numpy or random"""
NO_SEED = "an operation is not deterministic on this device, or no seed controls a value, such as the time"
NOT_SAVED = "model, loss or optimizer keep a value that is in no state_dict"


def check_reproducibility(experiment):
    """Find training that differs between two runs of one seed, or after a checkpoint is loaded."""
    task, params = experiment.task, experiment.params
    whole, resumed = (  # of new data loaders
        list(itertools.islice(type(experiment)(task, params, experiment.data_dir).batches(start=start), STEPS - start))
        for start in (0, 1)
    )
    if not identical(whole[1:], resumed):
        raise Failed(f"batches differ if loading starts with the second one: {OWN_GENERATOR}")
    batches = experiment.first_batches[:STEPS]
    trainer, again, other = (Trainer(experiment, seed) for seed in (params.seed, params.seed, params.seed + 1))
    first, second = ([loss.item() for *_, loss in each.train(batches)] for each in (trainer, again))
    if not all(map(math.isfinite, first)):
        raise NotApplicable("the loss becomes infinite or NaN; correct that first")
    if first != second:
        if params.cuda and not params.deterministic:
            raise NotApplicable('two runs differ, as they may on a GPU without "deterministic": true')
        raise Failed(f"two runs of one seed have the losses {first} and {second}: {NO_SEED}")
    with tempfile.TemporaryDirectory() as folder:
        state = {"epoch": 0, "state_dict": trainer.model.state_dict(), "optim_dict": trainer.optimizer.state_dict()}
        utils.save_checkpoint(state, False, folder)
        utils.load_checkpoint(Path(folder) / "last.pth.tar", other.model, other.optimizer)
    if trainer.loss_fn.module is not None:
        other.loss_fn.module.load_state_dict(trainer.loss_fn.module.state_dict())
    unsaved = unsaved_attribute(trainer.model, other.model)
    first, second = ([loss.item() for *_, loss in each.train(batches)] for each in (trainer, other))
    if str(first) != str(second):  # as text, because NaN does not equal NaN
        cause = f"{unsaved} is in no state_dict; make it a buffer (register_buffer)" if unsaved else NOT_SAVED
        raise Failed(f"the losses are {second} instead of {first} after a checkpoint is loaded: {cause}")
    return f"{STEPS} steps are identical in two runs, and after a checkpoint is loaded"


def unsaved_attribute(model, other):
    """Return the name of a number or tensor that differs between two models and is in no state_dict, or None."""
    for (prefix, module), twin in zip(model.named_modules(), other.modules(), strict=True):
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            # as text, because comparing tensors gives a tensor
            if isinstance(value, int | float | str | torch.Tensor) and str(value) != str(getattr(twin, name, value)):
                return f"{prefix}.{name}".strip(".")
    return None


def check_learning_rate(experiment):
    """Find a learning rate at which the loss rises, or hardly falls."""
    experiment.range_test, own = run_range_test(experiment, 2 * SECONDS), experiment.params.learning_rate
    suggested, diverges = experiment.range_test["suggested"], experiment.range_test["diverges"]
    if suggested is None:
        raise NotApplicable("in so few steps the loss falls at no learning rate; there is nothing to suggest")
    message = f"{own:.2g} in params.json; the range test suggests {suggested:.2g}"
    rises = f", and the loss rises from {diverges:.2g} on" if diverges is not None and own >= diverges else ""
    if rises or own > FAR * suggested:
        raise Failed(f"{message}{rises}; take a smaller one")
    if own * FAR < suggested and diverges is not None:  # otherwise steps are normalised, and no rate is too large
        raise Failed(f"{message}, at least {FAR} times as much; take a larger one")
    return message


def check_overfitting(experiment):
    """Find models that cannot fit a few samples, with the experiment's learning rate or the suggested one."""
    indices, load = experiment.sample_loader("train")
    batch = load(indices[:SAMPLES]) if indices else experiment.first_batches[0]
    if identical(batch[1], shuffled(batch[1], batch[0])):
        raise NotApplicable("their labels are all the same, which a constant output fits")
    own_rate = experiment.params.learning_rate
    for rate in filter(None, dict.fromkeys([own_rate, experiment.range_test.get("suggested")])):
        trainer, losses = Trainer(experiment), []
        trainer.scale_learning_rate(rate / own_rate)
        for outputs, labels, loss in within(SECONDS, trainer.train(itertools.repeat(batch, MOST_STEPS))):
            losses.append(loss.item())
            with torch.no_grad():  # equal if inputs have no influence
                shuffled_loss = trainer.loss_fn(outputs, shuffled(labels, outputs)).item()
            if all(start - losses[-1] > abs(start) / 2 for start in (losses[0], shuffled_loss)):
                return f"learned in {len(losses)} steps with learning rate {rate:.2g}"
            if not math.isfinite(losses[-1]):
                break
    message = f"in {len(losses)} steps the loss went from {losses[0]:.3g} to {losses[-1]:.3g}"
    if len(losses) < ENOUGH_STEPS and losses[-1] < losses[0]:
        raise NotApplicable(f"{message}; there was no time for more")
    raise Failed(f"{message}; do outputs depend on inputs, is the sign of loss_fn right, is softmax applied once?")
