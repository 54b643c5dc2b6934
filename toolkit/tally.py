"""The loss and the metrics of a whole split, collected batch by batch."""

import contextlib
import copy
import math
import os
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from toolkit.batches import batches_on_device
from toolkit.metrics import is_streaming, load_metric_state, metric_state, results_of
from toolkit.order import order_of
from toolkit.precision import precision_of
from toolkit.trees import batch_size, from_plain, tensors, to_plain, tree_cat, tree_map
from utils import UserError

SECONDS_BETWEEN_READINGS = 1.0  # of the loss, where steps are slow
SHARE_OF_MEMORY = 0.5  # of what is free, that the outputs of a split may take


class NonFiniteLoss(UserError):
    """The training loss became NaN or infinite."""


class Tally:
    """Sums up an epoch: `update` after each batch, `compute` at the end. Draws the progress bar.

    The loss is the mean over samples (batches count by their size), and a metric is a function of all outputs and
    labels of the split, so that neither depends on the batch size. Nothing here waits for the device but a reading of
    the loss every `params.save_summary_steps` steps, or every second.

    Args:
        name: what goes on, for the bar and for messages.
        metrics: dict from name to `fn(outputs, labels) -> float` of numpy arrays (or the nested tuples, lists and
            dicts of them that the model and the loader use), or to an object with `update(outputs, labels)` of
            tensors, `compute()` and `reset()`, for outputs too large to hold. A third argument gets `params`; a dict
            of numbers in place of one number is several results.
        dataloader: what the batches come from.
        params: hyperparameters.
        optimizer: for the learning rate in the message about a loss that is not finite.
    """

    def __init__(self, name, metrics, dataloader, params, optimizer=None):
        self.name, self.metrics, self.params, self.optimizer = name, metrics, params, optimizer
        self.dataloader, self.steps_between_readings = dataloader, params.save_summary_steps
        self.streaming = [metric for metric in metrics.values() if is_streaming(metric)]
        for metric in self.streaming:
            metric.reset()
        self.sizes, self.pending = [], []
        self.losses = {"loss": []}  # name -> mean over each batch, read from the device
        self.outputs, self.labels = [], []
        self.kept = 0  # how many of them lie in main memory
        self.results = None  # once all is computed
        self.read_at = time.monotonic()
        self.bar = tqdm(
            total=len(dataloader), desc=name, leave=False, disable=sys.stderr is None or None, dynamic_ncols=True
        )

    def update(self, outputs, labels, loss):
        """Take in a batch.

        Args:
            outputs: what the model gave, tensors of shape (batch, ...).
            labels: what the loader gave.
            loss: scalar tensor, the mean over the batch.

        Raises:
            NonFiniteLoss: the loss was NaN or infinite, here or since the last reading.
            UserError: the outputs of the split would not fit into memory.
        """
        outputs = tree_map(torch.Tensor.detach, outputs)
        self.sizes.append(weight_of(labels, outputs))
        self.pending.append({"loss": loss.detach(), **getattr(loss, "parts", {})})
        for metric in self.streaming:
            metric.update(outputs, labels)
        if len(self.streaming) < len(self.metrics):
            if not self.outputs:
                self._check_memory(outputs, labels)
            self.outputs.append(outputs)
            self.labels.append(labels)
        waited = time.monotonic() - self.read_at
        if len(self.pending) >= self.steps_between_readings or waited > SECONDS_BETWEEN_READINGS:
            self._read_losses()
        try:
            self.bar.update()
        except OSError:  # the terminal is gone
            self.bar.disable = True

    def compute(self):
        """The results of the split, a dict from name to float: "loss", further parts of the loss, the metrics."""
        if self.results is None:
            self._read_losses()
            self.results = self._compute()
            self.outputs, self.labels = [], []
        self.bar.close()
        return self.results

    def state_dict(self):
        """All that was collected so far, for a checkpoint: a dict of plain values and tensors.

        Raises:
            TypeError: outputs, labels or a metric hold something that a checkpoint does not.
        """
        self._read_losses()
        if self.outputs:
            self._join()
            self.kept = 1
        metrics = {name: metric_state(metric) for name, metric in self.metrics.items() if is_streaming(metric)}
        collected = {"sizes": self.sizes, "losses": self.losses, "outputs": self.outputs, "labels": self.labels}
        return to_plain(collected | {"metrics": metrics, "results": self.results})

    def load_state_dict(self, state):
        """Go on from what `state_dict` gave."""
        state = from_plain(state)
        self.sizes, self.losses = list(state["sizes"]), dict(state["losses"])
        self.outputs, self.labels, self.results = list(state["outputs"]), list(state["labels"]), state["results"]
        self.kept = len(self.outputs)
        for name, metric in self.metrics.items():
            if is_streaming(metric):
                load_metric_state(metric, state["metrics"][name])
        self.bar.update(len(self.sizes))

    def _compute(self):
        if not self.sizes:
            raise UserError(f"{self.name}: the data loader gave no batch")
        total = sum(self.sizes) or math.nan  # nothing but padding
        results = {
            name: math.fsum(mean * size for mean, size in zip(means, self.sizes, strict=True)) / total
            for name, means in self.losses.items()
        }
        outputs, labels = self._gathered()
        for name, metric in self.metrics.items():
            found = results_of(name, metric, outputs, labels, self.params)
            if found.keys() & results.keys():
                raise UserError(f"metrics[{name!r}]: there is another {min(found.keys() & results.keys())}; rename one")
            results |= found
        return results

    def _read_losses(self):
        """Bring the losses since the last reading, and the outputs, to main memory."""
        self.read_at = time.monotonic()
        if not self.pending:
            return
        first = len(self.losses["loss"])
        for name in self.pending[0]:
            means = torch.stack([losses[name] for losses in self.pending]).tolist()
            self.losses.setdefault(name, []).extend(means)
        self.pending.clear()
        self.sizes[first:] = torch.stack([torch.as_tensor(size) for size in self.sizes[first:]]).tolist()
        if len(self.outputs) > self.kept:  # small tensors that stay would keep what steps freed from being used again
            self._join(self.kept)
            self.outputs[-1], self.labels[-1] = tree_map(torch.Tensor.cpu, (self.outputs[-1], self.labels[-1]))
        self.kept = len(self.outputs)
        means = self.losses["loss"]
        if self.optimizer is not None:
            for step in range(first, len(means)):
                if not math.isfinite(means[step]):
                    self._not_finite(step, means[step])
        if not self.bar.disable:
            self.bar.set_postfix(loss=f"{np.mean(means[first:]):.4f}", refresh=False)  # since the last reading

    def _not_finite(self, step, loss):
        self.bar.close()
        epoch = getattr(self.params, "epoch", None)
        where = f"step {step + 1}" + (f" of epoch {epoch}" if epoch else "")
        rate = self.optimizer.param_groups[0]["lr"]
        raise NonFiniteLoss(
            f"the training loss became {loss} at {where}, with learning rate {rate:g}; stopped (what was saved so far "
            f"is kept). Try a smaller learning_rate, and look for NaN or huge values in the inputs"
        )

    def _join(self, first=0):
        """Make one batch of those that were collected, from number `first` on."""
        outputs, labels = self.outputs[first:], self.labels[first:]
        flat = [label.reshape(-1) for label in labels] if all(map(is_flat, outputs, labels)) else labels
        for joinable in (labels, flat):
            with contextlib.suppress(RuntimeError):
                self.outputs[first:], self.labels[first:] = [tree_cat(outputs)], [tree_cat(joinable)]
                return
        shapes = sorted({tuple(t.shape[1:]) for tree in outputs + labels for t in tensors(tree)})
        raise UserError(
            f"the outputs or labels of different batches cannot be put together for the metrics: behind the first "
            f"dimension, their shapes are {shapes[0]} and {shapes[-1]}; pad them alike, flatten them, or use metrics "
            f"with update, compute and reset"
        )

    def _gathered(self):
        if not self.outputs:
            return None, None
        self._join()
        return tree_map(to_numpy, self.outputs[0]), tree_map(to_numpy, self.labels[0])

    def _check_memory(self, outputs, labels):
        size = sum(t.numel() * t.element_size() for t in tensors((outputs, labels)))
        needed = 2 * size * len(self.dataloader)  # the batches, and all of them put together
        free = available_memory()
        if needed > SHARE_OF_MEMORY * free:
            raise UserError(
                f"{self.name}: the outputs and labels of the split need about {needed / 2**30:.1f} GiB, more than "
                f"{SHARE_OF_MEMORY:.0%} of the {free / 2**30:.1f} GiB of memory that are free; use metrics that take "
                f"batch after batch: objects with update(outputs, labels), compute() and reset(), as torchmetrics has"
            )


def weight_of(labels, outputs):
    """How many samples the loss of a batch is the mean over, an int or a tensor that holds one.

    That is the first dimension of the first tensor. Where that is a table of integers, such as a tag for each word of
    each sentence, it is the number of its entries that are not -1 (CS230's padding) or -100 (torch's `ignore_index`).
    """
    first = next(iter(tensors(labels) or tensors(outputs)), None)
    if first is None or first.ndim < 2 or first.dtype != torch.int64:
        return batch_size(first)
    return ((first != -1) & (first != -100)).sum()


def is_flat(outputs, labels):
    """Whether outputs have a row for each entry of the labels, as those of CS230's named entity recognition do."""
    return isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor) and len(outputs) == labels.numel()


def try_one_batch(model, loss_fn, dataloaders, metrics, params):
    """Put one batch of each split through model, loss and metrics, to find what does not fit before an epoch is spent.

    The model is in evaluation mode; neither it nor a loss with a state is changed.

    Returns:
        The names of the results that an evaluation will have, a list.

    Raises:
        UserError: a batch is not a pair, the loss cannot be minimised, a metric gives no number.
    """
    model.eval()
    module = getattr(loss_fn, "module", None)
    state = copy.deepcopy(module.state_dict()) if module is not None else None
    for split, dataloader in dataloaders.items():
        batches = order_of(dataloader, params.seed).batches(epoch=0)
        ((inputs, labels),) = batches_on_device([next(batches)], model)
        with precision_of(params, model):
            outputs = model(inputs)
            loss = loss_fn(outputs, labels)
        tally = Tally(split, {}, [None], params)
        tally.update(outputs, labels, loss)
        outputs, labels = (tree_map(torch.Tensor.detach, tree) for tree in (outputs, labels))
        arrays = [tree_map(to_numpy, tree) for tree in (outputs, labels)]
        names = tally.compute()
        for name, metric in metrics.items():
            try:
                if is_streaming(metric):
                    metric.reset()
                    metric.update(outputs, labels)
                names |= results_of(name, metric, *arrays, params)
            except UserError:
                raise
            except Exception:  # one batch may be too little for it: of one class alone, say
                names |= {name: None, params.monitor or name: None}  # which may be one of those that it gives
    if module is not None:
        module.load_state_dict(state)
    return list(names)


def to_numpy(tensor):
    """A tensor as a numpy array; half-precision numbers, which numpy has no or slow arithmetic for, as float32."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).cpu().numpy()


def available_memory():
    """Bytes of main memory that can be had without swapping (all of it, where the system does not say)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return math.inf
