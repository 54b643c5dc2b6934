"""The loss and the metrics of a whole split, collected batch by batch."""

import contextlib
import math
import time

import numpy as np
import torch

from toolkit.core import processes
from toolkit.core.memory import available_memory
from toolkit.core.metrics import is_streaming, load_metric_state, metric_state, results_of
from toolkit.core.progress_bar import EpochBar
from toolkit.core.trees import batch_size, from_plain, tensors, to_plain, tree_cat, tree_map
from utils import UserError

SECONDS_BETWEEN_READINGS = 1.0  # of the loss, where steps are slow
LONGEST_FOR_SHOW = 0.05  # seconds that a metric for the bar alone may take
SHARE_OF_MEMORY = 0.5  # of what is free, that the outputs of a split may take


class NonFiniteLoss(UserError):
    """The training loss became NaN or infinite."""


class Totals:
    """Sums up an epoch: `update` after each batch, `compute` at the end. Draws the progress bar.

    The loss is the mean over samples (batches count by their size), and a metric is a function of all outputs and
    labels of the split, so that neither depends on the batch size. Nothing here waits for the device but a reading of
    the loss every `params.save_summary_steps` steps, or every second. Of several processes, the main one gets what all
    have collected, in the order of one process, at each reading, and computes.

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
        self.counts = True  # whether the batch that comes next does; see ZeroWeightBatch
        self.sizes, self.pending = [], []
        self.losses = {"loss": []}  # name -> mean over each batch, read from the device
        self.outputs, self.labels = [], []
        self.parts = []  # of this one of several processes: (outputs, labels) of each batch, None where it has none
        self.kept = 0  # how many of them lie in main memory
        self.results, self.shows_metric = None, True  # results: once all is computed
        self.started = self.read_at = time.monotonic()
        self.samples_per_second = None  # in this process's time; set by `compute`
        self.bar = EpochBar(
            title_of(name, params), len(dataloader), unit_of(params), silent=not processes.is_rank_zero()
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
        outputs, alone = tree_map(torch.Tensor.detach, outputs), processes.world_size() == 1
        self.sizes.append(weight_of(labels, outputs) * self.counts)  # on the device, or not, like the others'
        self.pending.append({"loss": loss.detach(), **getattr(loss, "parts", {})})
        if alone:
            self._keep(outputs, labels)
        else:
            self.parts.append((outputs, labels) if self.counts else None)
        self.bar.update(batch_size(tensors(labels) or outputs) if alone else 0)  # of several, once all are known
        waited = time.monotonic() - self.read_at if alone else 0  # several read after the same step
        if len(self.pending) >= self.steps_between_readings or waited > SECONDS_BETWEEN_READINGS:
            self._read_losses()

    def _keep(self, outputs, labels):
        for metric in self.streaming:
            metric.update(outputs, labels)
        if len(self.streaming) < len(self.metrics):
            if not self.outputs:
                self._check_memory(outputs, labels)
            self.outputs.append(outputs)
            self.labels.append(labels)

    def compute(self):
        """The results of the split, a dict from name to float: "loss", further parts of the loss, the metrics."""
        if self.results is None:
            self._read_losses()
            seconds = max(time.monotonic() - self.started, 1e-9)
            self.samples_per_second = self.bar.samples / seconds
            self.results = processes.on_rank_zero(self._compute)
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
        self.bar.skip(len(self.sizes))

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
        """Bring the losses since the last reading, and the outputs, to main memory, that of the main process."""
        self.read_at = time.monotonic()
        if not self.pending:
            return
        first = len(self.losses["loss"])
        means = {name: torch.stack([losses[name] for losses in self.pending]).tolist() for name in self.pending[0]}
        sizes = torch.stack([torch.as_tensor(size) for size in self.sizes[first:]]).tolist()
        self.pending.clear()
        if processes.world_size() > 1:
            self._exchange(sizes, means)
        else:
            self._take_in(sizes, means)

    def _take_in(self, sizes, means):
        """Add the sizes and losses of the latest batches; bring their outputs, too, to main memory."""
        first = len(self.losses["loss"])
        self.sizes[first:] = sizes
        for name in means:
            self.losses.setdefault(name, []).extend(means[name])
        metric = {}
        if len(self.outputs) > self.kept:  # small tensors that stay would keep what steps freed from being used again
            self._join(self.kept)
            self.outputs[-1], self.labels[-1] = tree_map(torch.Tensor.cpu, (self.outputs[-1], self.labels[-1]))
            metric = self._metric_to_show() if self.bar.is_shown else {}
        self.kept = len(self.outputs)
        losses = self.losses["loss"]
        if self.optimizer is not None:
            for step in range(first, len(losses)):
                if not math.isfinite(losses[step]):
                    self._not_finite(step, losses[step])
        self.bar.show({"loss": np.mean(losses[first:])} | metric)  # since the last reading

    def _metric_to_show(self):
        """The metric that selects the best checkpoint, or the first one, of the outputs that came last: a dict."""
        wanted = self.params.monitor if self.params.monitor in self.metrics else next(iter(self.metrics))
        if is_streaming(self.metrics[wanted]) or not self.shows_metric:
            return {}
        started, last = time.monotonic(), (self.outputs[-1], self.labels[-1])
        try:
            outputs, labels = tree_map(to_numpy, last)
            results = results_of(wanted, self.metrics[wanted], outputs, labels, self.params)
        except Exception:  # few samples may be too little for it, and it is but for show
            return {}
        self.shows_metric = time.monotonic() - started < LONGEST_FOR_SHOW
        return dict(list(results.items())[:1])

    def _exchange(self, sizes, means):
        """Let the main process take in what all have collected since the last reading, batch after batch."""
        losses = [dict(zip(means, values, strict=True)) for values in zip(*means.values(), strict=True)]
        parts = tree_map(torch.Tensor.cpu, self.parts)
        everyone = processes.gather(list(zip(sizes, losses, parts, strict=True)))
        self.sizes, self.parts = self.sizes[: -len(sizes)], []

        def take_in():
            totals, merged = [], {name: [] for name in means}
            for batch in zip(*everyone, strict=True):
                counted = [part for part in batch if part[2] is not None]
                totals.append(sum(size for size, *_ in counted))
                for name in merged:
                    total = math.fsum(size * losses[name] for size, losses, _ in counted)
                    merged[name].append(total / (totals[-1] or math.nan))
                for _, _, (outputs, labels) in counted:
                    self.bar.update(batch_size(tensors(labels) or outputs), batches=0)
                    self._keep(outputs, labels)
            self._take_in(totals, merged)

        processes.on_rank_zero(take_in)

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
        needed = 2 * size * len(self.dataloader) * processes.world_size()  # the batches, and all of them put together
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


def title_of(name, params):
    """What the bar calls an epoch, or an evaluation by itself."""
    epoch = getattr(params, "epoch", None)
    return f"epoch {epoch}/{params.num_epochs} {name}" if epoch else name


def unit_of(params):
    """What the bar calls the samples."""
    return "images" if "image_channels" in params.values else "samples"


def is_flat(outputs, labels):
    """Whether outputs have a row for each entry of the labels, as those of CS230's named entity recognition do."""
    return isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor) and len(outputs) == labels.numel()


def to_numpy(tensor):
    """A tensor as a numpy array; half-precision numbers, which numpy has no or slow arithmetic for, as float32."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).cpu().numpy()
