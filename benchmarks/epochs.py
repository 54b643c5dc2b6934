"""Training epochs to be timed: those of train.py, and those of a bare loop."""

import contextlib
import time

import torch
import torch.nn.functional as F

from toolkit.core.run import Run
from train import train


@contextlib.contextmanager
def epochs_of(ours):
    """Yield a function that trains an epoch of an experiment in a Run, as train.py does, and returns its seconds.

    Its attribute `run` is the Run.
    """
    with Run(ours.model, ours.optimizer, ours.params, ours.folder, restart=True) as run:
        numbers = run.epochs()

        def epoch():
            number = next(numbers)
            started = time.perf_counter()
            results = train(
                ours.model, ours.optimizer, ours.loss_fn, ours.loaders["train"], ours.task.metrics, ours.params, run=run
            )
            seconds = time.perf_counter() - started
            run.record(number, results, results)
            run.checkpoints.wait()  # its time is not to count for the other side
            return seconds

        epoch.run = run
        yield epoch


def bare_epoch(model, optimizer, images, labels, batch_size):
    """Train one epoch with five plain lines, over tensors in memory."""
    model.train()
    for indices in torch.randperm(len(labels), device=labels.device).split(batch_size):
        outputs = model(images[indices])
        loss = F.cross_entropy(outputs, labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
