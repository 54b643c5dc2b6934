"""One optimizer step: its batches, what is done to their gradients, and the moving average of the weights."""

import contextlib
import math

import torch

from toolkit.core import processes
from toolkit.core.explanations import explain_backward
from toolkit.core.forward_pass import gradient_scaler
from toolkit.core.learning_rate_schedule import Progress, learning_rate_factor
from toolkit.core.monitor import monitored_in
from toolkit.core.seeds import MODEL, generators_of, seed_all
from toolkit.core.sharded_tensors import divided_like, local

STEPS_BETWEEN_NORMS = 20  # the norm of the gradients is measured at every 20th step of an epoch


class Updates:
    """The objects and settings that all optimizer steps of a run share.

    `is_scheduled` is False for a single epoch outside a run: then there is no schedule, no EMA and no seeding.

    Attributes:
        ddp_model: the model as training calls it: with several processes, its DDP wrapper.
        scaler: torch.amp.GradScaler, disabled unless the precision is fp16.
        average: the MovingAverage of the weights.
        progress: the Progress of the monitored metric.
        gradient_norms: list of float or scalar tensors, measured in the current epoch before clipping.
        is_weighted: bool, True if losses are weighted by numbers of samples: a step has several batches or shards.
        steps_per_epoch: int.
        parameters: list of the optimizer's parameters.
    """

    def __init__(self, model, optimizer, params, is_scheduled=True):
        self.optimizer, self.params, self.is_scheduled = optimizer, params, is_scheduled
        self.ddp_model = processes.wrap_in_ddp(model, params) if is_scheduled else model
        self.scaler = gradient_scaler(params, model)
        self.average = MovingAverage(model, params.ema_decay if is_scheduled else 0)
        self.progress, self.gradient_norms = Progress(params), []
        self.generators = generators_of(model) if is_scheduled else []
        self.has_schedule = is_scheduled and (params.lr_schedule != "constant" or params.warmup_steps > 0)
        self.seed, self.rank, self.max_grad_norm = params.seed, processes.rank(), params.max_grad_norm
        self.accumulation_steps = params.accumulation_steps  # copies, because reading params takes longer
        self.is_weighted = params.accumulation_steps > 1 or processes.world_size() > 1
        self.steps_per_epoch, self.parameters = 0, []  # set by start_epoch

    @property
    def stateful(self):
        """The parts that a checkpoint should hold, a dict from name to object."""
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        return scaler | ({"average": self.average} if self.average.current else {})

    def start_epoch(self, num_batches):
        """Prepare for an epoch of `num_batches` batches."""
        self.steps_per_epoch = -(-num_batches // self.params.accumulation_steps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def resume(self, state, has_average):
        """Continue from a TrainState, after model, optimizer, scaler and average were restored."""
        if has_average:
            self.average.swap()  # the weights in a checkpoint are the averaged ones
        else:
            self.average.start()
        for row in state.history:
            self.end_epoch(row)
        self.gradient_norms = state.gradient_norms

    def end_epoch(self, row):
        """Add the results of an epoch, a row of the history."""
        self.gradient_norms = []
        monitor, mode = monitored_in(row, self.params)
        self.progress.update(row[f"val_{monitor}"], mode)

    def summary(self):
        """Return the learning rate and the mean gradient norm of an epoch, a dict for the history."""
        norms = self.read_gradient_norms()
        mean = {"gradient_norm": math.fsum(norms) / len(norms)} if norms else {}
        return {"learning_rate": float(self.optimizer.param_groups[0]["lr"])} | mean

    def read_gradient_norms(self):
        """Return the norms measured in the epoch so far, a list of float, without the infinite ones of fp16."""
        if self.gradient_norms:
            norms = torch.stack([torch.as_tensor(norm).float().cpu() for norm in self.gradient_norms]).tolist()
            self.gradient_norms = [norm for norm in norms if math.isfinite(norm)]
        return self.gradient_norms


class OptimizerStep:
    """One optimizer step of an epoch.

    Args:
        updates: the Updates of the run.
        batches: iterator over the batches of the epoch, as `device_batches` yields them.
        state: the TrainState, which says where in the run this step is.

    Attributes:
        number: int, number of the step in the run, from 0.
        num_batches: int, batches that were taken so far.
        is_last_batch: bool, True if the epoch has no batch after these.
    """

    def __init__(self, updates, batches, state):
        self.updates, self.remaining, self.state = updates, batches, state
        self.number_in_epoch = state.batches_done // updates.accumulation_steps
        self.number = state.epoch * updates.steps_per_epoch + self.number_in_epoch
        self.num_batches, self.num_samples, self.is_last_batch = 0, 0, False

    def batches(self):
        """Yield (inputs, labels, num_samples) for each batch of the step, on the device."""
        updates, accumulation_steps = self.updates, self.updates.accumulation_steps
        while self.num_batches < accumulation_steps and not self.is_last_batch:
            inputs, labels, num_samples, self.is_last_batch = next(self.remaining)
            if updates.is_weighted:  # gradients are all-reduced once per step
                is_last = self.is_last_batch or self.num_batches + 1 == accumulation_steps
                processes.set_gradient_sync(updates.ddp_model, is_last)
            yield inputs, labels, num_samples
            self.num_batches += 1

    def seed(self):
        """Seed what the model draws, such as dropout, as a function of (seed, epoch, batch, rank)."""
        if self.updates.is_scheduled:
            epoch, batch = self.state.epoch + 1, self.state.batches_done + self.num_batches
            seed_all(self.updates.seed, epoch, batch, MODEL, self.updates.generators, self.updates.rank)

    def backward(self, loss, num_samples):
        """Add the gradients of a batch's loss, weighted by its number of samples, and scaled for fp16."""
        if self.updates.is_weighted:
            num_samples = getattr(loss, "num_counted", num_samples) if num_samples else 0
            self.num_samples = self.num_samples + num_samples
            loss = loss * (num_samples / self.updates.params.batch_size)
        try:
            self.updates.scaler.scale(loss).backward()
        except RuntimeError as error:
            explain_backward(error)
            raise

    def average_gradients(self):
        """Make the gradients those of the mean loss over all samples of the step, in all processes together."""
        updates = self.updates
        if self.number_in_epoch == 0 and any(p.grad is not None and p.grad.is_sparse for p in updates.parameters):
            for group in updates.optimizer.param_groups:
                group["fused"] = False  # fused optimizers do not take sparse gradients
        updates.scaler.unscale_(updates.optimizer)
        if updates.is_weighted:
            gradients = [local(p.grad) for p in updates.parameters if p.grad is not None]
            total = processes.mean(self.num_samples, gradients[0].device)  # DDP and FSDP average the gradients, too
            total = total + (total == 0)  # if there is nothing but padding, all gradients are 0
            torch._foreach_mul_(gradients, updates.params.batch_size / total)

    def clip_gradients(self):
        """Scale the gradients down to the norm `max_grad_norm`, if there is one; measure their norm now and then."""
        updates, norm, max_norm = self.updates, None, self.updates.max_grad_norm
        is_measured = updates.is_scheduled and self.number_in_epoch % STEPS_BETWEEN_NORMS == 0
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(updates.parameters, max_norm)
        elif is_measured:
            norm = torch.nn.utils.get_total_norm([p.grad for p in updates.parameters if p.grad is not None])
        if is_measured:
            updates.gradient_norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def set_learning_rate(self):
        """Set the learning rates that the schedule has for this step."""
        updates = self.updates
        if updates.has_schedule:
            decays = updates.progress.decays
            factor = learning_rate_factor(updates.params, self.number, updates.steps_per_epoch, decays)
            for group in updates.optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


class MovingAverage:
    """The exponential moving average (EMA) of all floating-point parameters and buffers of a model.

    During the first steps it forgets faster, so that the random initial weights do not stay in it: the decay is at most
    (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
        model: nn.Module.
        decay: weight of the previous average at each step, in [0, 1). With 0 there is no average, and nothing is done.

    Attributes:
        kept: dict from name to tensor, the average; while it is swapped into the model, the model's own weights.
    """

    def __init__(self, model, decay):
        self.decay = decay
        named = [*model.named_parameters(), *model.named_buffers()] if decay else []
        self.current = {name: tensor for name, tensor in named if tensor.is_floating_point()}
        self.start()

    def start(self):
        """Start with the weights that the model has now."""
        self.kept = {name: tensor.detach().clone() for name, tensor in self.current.items()}

    @torch.no_grad()
    def update(self, step):
        """Add the weights after optimizer step number `step` (from 1) of the run."""
        if self.current:
            torch._foreach_lerp_(*self._shards(), 1 - min(self.decay, (1 + step) / (10 + step)))

    def _shards(self):
        """Return this rank's shards of `kept` and of the model's weights; FSDP may replace both."""
        return [[local(tensor.detach()) for tensor in named.values()] for named in (self.kept, self.current)]

    @contextlib.contextmanager
    def in_place(self):
        """Give the model the averaged weights within this context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self):
        """Swap the model's weights with those in `kept`."""
        for kept, current in zip(*self._shards(), strict=True):
            own = kept.clone()
            kept.copy_(current)
            current.copy_(own)

    def state_dict(self):
        """Return the weights in `kept`, a dict from name to tensor."""
        return self.kept

    def load_state_dict(self, state):
        """Load what `state_dict` returned."""
        for name, tensor in self.kept.items():
            tensor.copy_(divided_like(state[name], tensor))
