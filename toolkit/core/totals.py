"""The loss and the metrics of an epoch or an evaluation, accumulated batch by batch on the device."""

import math
import time

import numpy as np
import torch

from toolkit.core import processes
from toolkit.core.memory import available_memory
from toolkit.core.metrics import compute_metric, is_streaming, load_metric_state, metric_state
from toolkit.core.progress_bar import EpochBar
from toolkit.core.sized_batches import mark_batch
from toolkit.core.trees import from_plain, tensors, to_plain, tree_cat, tree_map
from utils import UserError

SECONDS_BETWEEN_READINGS = 1.0  # of the loss, if steps are slow
MAX_SECONDS_FOR_BAR = 0.05  # that computing a metric for the progress bar may take
MAX_SHARE_OF_MEMORY = 0.5  # of the free memory, that outputs and labels of a split may take


class NonFiniteLoss(UserError):
    """The training loss became NaN or infinite."""


class Totals:
    """The loss and metrics of a split: `update` after each batch, `compute` at the end. Draws the progress bar.

    The loss is the mean over all samples, and a metric is a function of all outputs and labels, so that neither depends
    on the batch size. Nothing here waits for the device, except that the losses are read every `save_summary_steps`
    batches, or every second. With several processes, whenever the losses are read rank 0 receives what all of them have
    collected, in the order that a single process would have, and computes.

    Args:
        name: str, for the progress bar and for messages.
        metrics: dict from name to `fn(outputs, labels) -> float` of numpy arrays (or the nested tuples, lists and dicts
            of arrays that the model and the loader use), or to an object with `update(outputs, labels)` of tensors,
            `compute()` and `reset()`, for outputs that are too large to keep. A function with a third argument gets
            `params`. A dict of numbers in place of one number gives several results.
        num_batches: int, how many batches will come.
        params: hyperparameters.
        optimizer: in training, for the learning rate in the message about a loss that is not finite.
    """

    def __init__(self, name, metrics, num_batches, params, optimizer=None):
        self.name, self.metrics, self.params, self.optimizer = name, metrics, params, optimizer
        self.num_batches, self.batches_between_readings = num_batches, params.save_summary_steps
        self.streaming = [metric for metric in metrics.values() if is_streaming(metric)]
        for metric in self.streaming:
            metric.reset()
        self.sizes, self.unread = [], []  # samples in each batch; losses that are still on the device
        self.losses = {"loss": []}  # name -> the mean over each batch
        self.outputs, self.labels = [], []  # of each batch, the first `num_read` of them in main memory
        self.num_read = 0
        self.shards = []  # with several processes: (outputs, labels) of this one's batches since the last reading
        self.results, self.samples = None, 0  # what `compute` returns; samples so far, for the progress bar
        self.shows_metric = True  # in the progress bar; False once it took too long
        self.is_single_process, self.read_at = processes.world_size() == 1, time.monotonic()
        epoch = getattr(params, "epoch", None)
        title = f"epoch {epoch}/{params.num_epochs} {name}" if epoch else name
        unit = "images" if "image_channels" in params.values else "samples"
        self.bar = EpochBar(title, num_batches, unit, silent=not processes.is_rank_zero())

    def update(self, outputs, labels, loss, num_samples):
        """Add a batch.

        Args:
            outputs: what the model returned, tensors of shape (batch, ...).
            labels: those of the batch.
            loss: scalar tensor, the mean over the batch.
            num_samples: int, 0 for a batch that only other processes have samples of. The loss is the mean over them,
                or over `loss.num_counted` labels if it has that attribute.

        Raises:
            NonFiniteLoss: the training loss is NaN or infinite in one of the batches since the last reading.
            UserError: the outputs of the split would not fit into memory.
        """
        outputs = tree_map(torch.Tensor.detach, outputs)
        count = getattr(loss, "num_counted", num_samples)
        self.sizes.append(count if num_samples else 0 * count)  # a 0 on the device, if the counts are there
        self.unread.append({"loss": loss.detach(), **getattr(loss, "parts", {})})
        if self.is_single_process:
            self._keep(outputs, labels, num_samples)
            is_late = time.monotonic() - self.read_at > SECONDS_BETWEEN_READINGS
        else:
            self.shards.append((outputs, labels, num_samples) if num_samples else None)
            is_late = False  # all processes read after the same batch
        if is_late or len(self.unread) >= self.batches_between_readings:
            self._read_losses()

    def compute(self):
        """Return the results of the split, a dict from name to float: "loss", its parts if any, and the metrics."""
        if self.results is None:
            self._read_losses()
            self.results = processes.on_rank_zero(self._compute)
            self.outputs, self.labels = [], []
        self.bar.close()
        return self.results

    @property
    def samples_per_second(self):
        """The speed so far in this session, a float."""
        return self.bar.samples / max(self.read_at - self.bar.started, 1e-9)

    def state_dict(self):
        """Return everything collected so far, as a dict of plain values and tensors for a checkpoint.

        Raises:
            TypeError: outputs, labels or a metric hold something that a checkpoint cannot hold.
        """
        self._read_losses()
        if self.outputs:
            self._join()
            self.num_read = 1
        metrics = {name: metric_state(metric) for name, metric in self.metrics.items() if is_streaming(metric)}
        collected = {"sizes": self.sizes, "losses": self.losses, "outputs": self.outputs, "labels": self.labels}
        return to_plain(collected | {"metrics": metrics, "results": self.results})

    def load_state_dict(self, state):
        """Load what `state_dict` returned."""
        state = from_plain(state)
        self.sizes, self.losses = list(state["sizes"]), dict(state["losses"])
        self.outputs, self.labels, self.results = list(state["outputs"]), list(state["labels"]), state["results"]
        self.num_read = len(self.outputs)
        for name, metric in self.metrics.items():
            if is_streaming(metric):
                load_metric_state(metric, state["metrics"][name])
        self.bar.skip(len(self.sizes))

    def _keep(self, outputs, labels, num_samples):
        """Update the streaming metrics, and keep outputs and labels for the others."""
        self.samples += num_samples
        for metric in self.streaming:
            metric.update(outputs, labels)
        if len(self.streaming) < len(self.metrics):
            if not self.outputs:
                self._check_memory(outputs, labels)
            if not (isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor)):
                outputs, labels = mark_batch((outputs, labels), num_samples)
            self.outputs.append(outputs)
            self.labels.append(labels)

    def _read_losses(self):
        """Read the losses since the last reading from the device, and move outputs and labels to main memory."""
        self.read_at = time.monotonic()
        if not self.unread:
            return
        first = len(self.losses["loss"])
        means = {name: torch.stack([losses[name] for losses in self.unread]).tolist() for name in self.unread[0]}
        sizes = torch.stack([torch.as_tensor(size) for size in self.sizes[first:]]).tolist()
        self.unread.clear()
        if self.is_single_process:
            self._add(sizes, means)
        else:
            self._gather(sizes, means)

    def _add(self, sizes, means):
        """Add the sizes and losses of the latest batches, and show them in the progress bar."""
        first = len(self.losses["loss"])
        self.sizes[first:] = sizes
        for name in means:
            self.losses.setdefault(name, []).extend(means[name])
        metric = {}
        if len(self.outputs) > self.num_read:  # one large tensor instead of many small ones, which fragment the memory
            self._join(self.num_read)
            self.outputs[-1], self.labels[-1] = tree_map(torch.Tensor.cpu, (self.outputs[-1], self.labels[-1]))
            metric = self._metric_for_bar() if self.bar.is_shown else {}
        self.num_read = len(self.outputs)
        for number, loss in enumerate(means["loss"], first + 1):
            if self.optimizer is not None and not math.isfinite(loss):
                self._raise_not_finite(number, loss)
        self.bar.update(self.samples - self.bar.samples, len(sizes))
        self.bar.show({"loss": np.mean(means["loss"])} | metric)  # of the batches since the last reading

    def _gather(self, sizes, means):
        """Send to rank 0, which adds the shards of each batch, what this process collected since the last reading."""
        losses = [dict(zip(means, values, strict=True)) for values in zip(*means.values(), strict=True)]
        shards = tree_map(torch.Tensor.cpu, self.shards)
        gathered = processes.gather(list(zip(sizes, losses, shards, strict=True)))
        self.sizes, self.shards = self.sizes[: -len(sizes)], []  # rank 0 adds the sizes of whole batches

        def add():
            totals, merged = [], {name: [] for name in means}
            for batch in zip(*gathered, strict=True):  # for each process: size, losses and shard
                sizes, losses, shards = zip(*(part for part in batch if part[2] is not None), strict=True)
                totals.append(sum(sizes))
                for name in merged:
                    merged[name].append(weighted_mean([means[name] for means in losses], sizes))
                for shard in shards:
                    self._keep(*shard)
            self._add(totals, merged)

        processes.on_rank_zero(add)

    def _compute(self):
        if not self.sizes:
            raise UserError(f"{self.name}: the data loader gave no batch")
        results = {name: weighted_mean(means, self.sizes) for name, means in self.losses.items()}
        outputs = labels = None
        if self.outputs:
            self._join()
            outputs, labels = tree_map(to_numpy, self.outputs[0]), tree_map(to_numpy, self.labels[0])
        for name, metric in self.metrics.items():
            found = compute_metric(name, metric, outputs, labels, self.params)
            if found.keys() & results.keys():
                raise UserError(f"metrics[{name!r}]: there is another {min(found.keys() & results.keys())}; rename one")
            results |= found
        return results

    def _metric_for_bar(self):
        """Return {name: value} of the monitored metric, or the first one, for the latest outputs; {} if it is slow."""
        wanted = self.params.monitor if self.params.monitor in self.metrics else next(iter(self.metrics))
        if is_streaming(self.metrics[wanted]) or not self.shows_metric:
            return {}
        started, latest = time.monotonic(), (self.outputs[-1], self.labels[-1])
        try:
            outputs, labels = tree_map(to_numpy, latest)
            results = compute_metric(wanted, self.metrics[wanted], outputs, labels, self.params)
        except Exception:  # a few samples may be too little for this metric, which is only shown
            return {}
        self.shows_metric = time.monotonic() - started < MAX_SECONDS_FOR_BAR
        return dict(list(results.items())[:1])

    def _raise_not_finite(self, batch, loss):
        self.bar.close()
        epoch, rate = getattr(self.params, "epoch", None), self.optimizer.param_groups[0]["lr"]
        where = f"step {batch} of epoch {epoch}" if epoch else f"step {batch}"
        raise NonFiniteLoss(
            f"the training loss became {loss} at {where}, with learning rate {rate:g}; stopped (checkpoints saved "
            f"before are kept). Try a smaller learning_rate, and look for NaN or huge values in the inputs"
        )

    def _join(self, first=0):
        """Concatenate the outputs and labels of all batches from number `first` on."""
        outputs, labels = self.outputs[first:], self.labels[first:]
        flat = [label.reshape(-1) for label in labels] if all(map(is_flat, outputs, labels)) else labels
        for joinable in (labels, flat):
            try:
                self.outputs[first:], self.labels[first:] = [tree_cat(outputs)], [tree_cat(joinable)]
                return
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
        shapes = sorted({tuple(t.shape[1:]) for tree in outputs + labels for t in tensors(tree)})
        if len(shapes) > 1:
            reason = f"after the first dimension, their shapes are {shapes[0]} and {shapes[-1]}"
        raise UserError(
            f"the outputs or labels of different batches cannot be concatenated for the metrics: {reason}; pad them to "
            f"one shape, flatten them, or use metrics with update, compute and reset"
        )

    def _check_memory(self, outputs, labels):
        size = sum(t.numel() * t.element_size() for t in tensors((outputs, labels)))
        needed = 2 * size * self.num_batches * processes.world_size()  # the batches, and their concatenation
        free = available_memory()
        if needed > MAX_SHARE_OF_MEMORY * free:
            raise UserError(
                f"{self.name}: the outputs and labels of the split need about {needed / 2**30:.1f} GiB, more than "
                f"{MAX_SHARE_OF_MEMORY:.0%} of the {free / 2**30:.1f} GiB of free memory; use metrics that take one "
                f"batch at a time: objects with update(outputs, labels), compute() and reset(), as in torchmetrics"
            )


def weighted_mean(means, sizes):
    """Return the mean over all samples of means over `sizes` samples each; NaN if there is no sample."""
    pairs = [(mean, size) for mean, size in zip(means, sizes, strict=True) if size]
    return math.fsum(mean * size for mean, size in pairs) / (sum(sizes) or math.nan)


def is_flat(outputs, labels):
    """Return True if the outputs have a row for each entry of the labels, as in CS230's named-entity recognition."""
    return isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor) and len(outputs) == labels.numel()


def to_numpy(tensor):
    """Return a tensor as a numpy array; float16 and bfloat16 as float32, for numpy lacks or is slow with them."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).cpu().numpy()
