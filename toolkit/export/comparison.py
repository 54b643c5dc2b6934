"""Compare an exported model with the model itself on real inputs."""

import itertools
import math

import torch

from toolkit.core.sized_batches import size_of
from toolkit.core.trees import tensors
from utils import UserError

SAMPLES = 1000  # compared in batches of the usual size
OTHER_BATCHES = ((1, 8), (7, 56))  # pairs of a batch size and the number of samples compared in such batches
TOLERANCE = 1e-3  # relative to the largest value of an output; another order of float32 sums changes far less


def real_inputs(task, split, data_dir, params):
    """Return (batches, sizes): inputs from a split, batches of several sizes spread over it; and these sizes."""
    batches, sizes, usual = [], [], params.batch_size
    for size, samples in ((usual, SAMPLES), *OTHER_BATCHES):
        params.batch_size = size
        loader = task.fetch_dataloader([split], data_dir, params)[split]
        step = math.ceil(len(loader) / max(1, samples // (size or samples)))
        for batch in itertools.islice(loader, 0, None, step):
            batches.append(batch[0])
            sizes.append(size_of(batch, expected=size))
    params.batch_size = usual
    return batches, sizes


def compare(model, run, batches, name):
    """Compare `run`, which executes the exported file `name`, with the model on batches of inputs.

    Returns:
        The largest absolute difference, and the share of rows with the same largest output (None without scores).

    Raises:
        UserError: the file does not compute what the model does.
    """
    expected, actual = ([tensors(function(inputs)) for inputs in batches] for function in (model, run))
    difference = 0.0
    for ours, theirs in zip(zip(*expected, strict=True), zip(*actual, strict=True), strict=True):  # for each output
        largest = max(torch.where(t.isfinite(), t.double().abs(), 0).max().item() for t in ours)
        try:
            torch.testing.assert_close(theirs, ours, rtol=0, atol=TOLERANCE * largest + 1e-6)
        except AssertionError as error:
            problem = f"it does not compute what the model does: {' '.join(str(error).split())}"
            cause = "randomness, or state that changes in evaluation mode, cannot be exported"
            raise UserError(f"{name}: not kept, because {problem} ({cause})") from None
        for a, b in zip(ours, theirs, strict=True):
            apart = torch.where(a == b, 0, (a.double() - b.double()).abs())  # 0 if both are infinite
            difference = max(difference, apart.max().item())
    if expected[0][0].ndim < 2 or expected[0][0].shape[-1] < 2:
        return difference, None
    rows = [torch.cat([batch[0].argmax(-1).flatten() for batch in outputs]) for outputs in (expected, actual)]
    return difference, torch.eq(*rows).double().mean().item()
