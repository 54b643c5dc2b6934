"""What surrounds an optimizer's step: accumulation, gradient scaling, clipping, the schedule, the moving average."""

import math
import weakref

import torch

from toolkit.core import processes
from toolkit.core.learning_rate_schedule import Progress, learning_rate_factor
from toolkit.core.monitor import monitored
from toolkit.core.moving_average import MovingAverage
from toolkit.core.precision import scaler_of
from toolkit.core.sharded_tensors import local
from toolkit.core.totals import weight_of
from utils import UserError

BETWEEN_NORMS = 20  # steps from one whose gradient's norm is measured to the next


class Steps:
    """An optimizer as the training loop calls it for each batch; it steps when `accumulation_steps` batches are done.

    The gradient of a step is that of the mean loss over all samples of its batches, in all processes together: that of
    one large batch, though the last ones may be smaller. Nothing here waits for the device.

    Args:
        model: what is trained.
        optimizer: a torch.optim.Optimizer of its parameters.
        params: hyperparameters.
        run: the Run that this is part of, or None: then there is neither a schedule nor a moving average.

    Attributes:
        trained: what the training calls in place of the model, perhaps DistributedDataParallel.
        scaler, average, progress: what belongs to a run.
    """

    def __init__(self, model, optimizer, params, run=None):
        self.trained, self.optimizer, self.params = model, optimizer, params
        # no cycle of references: a run that is over, and the workers of its data loaders, are to go at once
        self.run = weakref.proxy(run) if run is not None else None
        self.scaler = scaler_of(params, model)
        self.average = MovingAverage(model, params.ema_decay if run is not None else 0)
        self.progress, self.gradient_norms = Progress(params), []
        self.is_scheduled = run is not None and (params.lr_schedule != "constant" or params.warmup_steps > 0)
        self.accumulated, self.max_norm, self.unit = params.accumulation_steps, params.max_grad_norm, params.batch_size
        self.weighs = self.accumulated > 1 or processes.world_size() > 1
        self.batches = self.steps_before = 0  # of the epoch; of the run before it
        self.total = 0  # what the batches of a step weigh, so far
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def stateful(self):
        """What of it has a state to save, a dict from name to object."""
        found = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        return found | ({"average": self.average} if self.average.current else {})

    def resume(self, state):
        """Go on from a TrainState, the model's and the optimizer's part of which they have been given already."""
        if "average" in state.stateful:
            self.average.swap()  # what was saved as the model's weights is the average
        else:
            self.average.begin()
        self.gradient_norms = state.gradient_norms
        for row in state.history:
            self.take_in(row)

    def begin_epoch(self, epochs, batches, length):
        """Say where the training is: how many epochs, and batches of the next, are done, and how many it has.

        Raises:
            UserError: the warm-up never ends.
        """
        self.batches, self.steps_per_epoch = batches, -(-length // self.accumulated)
        self.steps_before = epochs * self.steps_per_epoch
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        total = self.params.num_epochs * self.steps_per_epoch
        if self.is_scheduled and self.params.warmup_steps >= total:
            warmup = self.params.warmup_steps
            raise UserError(f"params.json: warmup_steps is {warmup}, but the run has {total} steps in all; take fewer")

    def begin(self, inputs, labels, is_last, counts):
        """To be called before each batch.

        Args:
            inputs, labels: the batch.
            is_last: whether it is the last one of the epoch, after which there is a step in any case.
            counts: whether it is to have a gradient; else it is computed for company, while other processes have one.
        """
        if self.run is not None:
            self.run.begin_batch()
        self.is_first = self.batches % self.accumulated == 0
        self.is_step = is_last or (self.batches + 1) % self.accumulated == 0
        if self.weighs:
            self.weight = weight_of(labels, inputs) if counts else 0
            self.total = self.weight if self.is_first else self.total + self.weight
            processes.set_gradient_sync(self.trained, self.is_step)

    def end(self):
        """To be called after each batch."""
        self.batches += 1
        if self.run is not None:
            self.run.end_batch(self.is_step)

    def zero_grad(self):
        """Clear the gradients of the step before."""
        if self.is_first:
            self.optimizer.zero_grad()

    def scaled(self, loss):
        """The loss of a batch weighed by its samples and, for fp16, scaled: what is to be propagated back."""
        return self.scaler.scale(loss * (self.weight / self.unit) if self.weighs else loss)

    def step(self):
        """Update the weights, if it is time."""
        if not self.is_step:
            return
        number = self.batches // self.accumulated  # in the epoch, from 0
        self.scaler.unscale_(self.optimizer)
        if self.weighs:
            self._average_gradients()
        is_noted = self.run is not None and number % BETWEEN_NORMS == 0
        if self.max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        elif is_noted:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if is_noted:
            self.gradient_norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if self.is_scheduled:
            self._set_learning_rates(self.steps_before + number)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.steps_before + number + 1)

    def _average_gradients(self):
        """Make the sum of the weighed gradients of all batches and processes their mean over samples."""
        gradients = [local(p.grad) for p in self.parameters if p.grad is not None]
        total = (
            processes.all_reduce_sum(self.total, gradients[0].device) / processes.world_size()
        )  # DDP and FSDP take the mean
        torch._foreach_mul_(gradients, self.unit / total)

    def _set_learning_rates(self, step):
        factor = learning_rate_factor(self.params, step, self.steps_per_epoch, self.progress.decays)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def take_in(self, row):
        """Take in the results of an epoch, a row of the history."""
        monitor, mode = monitored(self.params, [name.removeprefix("val_") for name in row if name.startswith("val_")])
        self.progress.update(row[f"val_{monitor}"], mode)

    def summary(self):
        """What the history has of the steps of an epoch, a dict: the last learning rate, the mean of gradient norms."""
        norms = self.read_gradient_norms()
        mean = {"gradient_norm": math.fsum(norms) / len(norms)} if norms else {}
        return {"learning_rate": float(self.optimizer.param_groups[0]["lr"])} | mean

    def read_gradient_norms(self):
        """The norms of the gradients of some steps of the epoch so far, before they were clipped, a list of floats."""
        if self.gradient_norms:
            norms = torch.stack([torch.as_tensor(norm).float().cpu() for norm in self.gradient_norms]).tolist()
            self.gradient_norms = [norm for norm in norms if math.isfinite(norm)]  # not those that fp16 makes infinite
        return self.gradient_norms
