"""The beginning of a training, rehearsed as often as it takes: what train.py would do, and nothing of it is kept."""

import functools
import itertools
import math
import time

import torch
from torch.nn.modules.batchnorm import _BatchNorm

import utils
from toolkit.core.curves import png
from toolkit.core.device_batches import batches_on_device
from toolkit.core.memory import peak_memory
from toolkit.core.optimizer_steps import Steps
from toolkit.core.precision import autocast
from toolkit.core.resumable_batches import is_divisible, resumable_batches
from toolkit.core.sample_batches import load_batch
from toolkit.core.seeds import MODEL, generators_of, seed_all
from toolkit.core.trees import tensors

FIRST = 8  # batches of the first epoch that are kept
LOWEST, HIGHEST, RANGE_STEPS = 1e-6, 100, 120  # learning rates of the range test, and steps from the one to the other
SMOOTHING = 0.9  # what stays of its smoothed loss at a step
DIVERGED = 3  # times the loss at the start, where it stops


def within(seconds, things, least=2):
    """Yield `things`, so many at least, until the time is over."""
    until = time.monotonic() + seconds
    for number, thing in enumerate(things, 1):
        yield thing
        if number >= least and time.monotonic() > until:
            return


class Rehearsal:
    """An experiment as train.py would begin it.

    Args:
        task, params, data_dir: as `set_up` gives them.

    Attributes:
        most: samples of a batch, where a step on a whole one takes long; else None.
        repeats: whether two runs are known to be the same.
        range_test: what the function `range_test` gave.
    """

    def __init__(self, task, params, data_dir):
        self.task, self.params, self.data_dir = task, params, data_dir
        self.most, self.repeats, self.range_test = None, False, {}
        params.compile = False  # of each of its models, which would take longer than all the rest

    @functools.cached_property
    def dataloaders(self):
        """The data loaders of the splits train and val, a dict."""
        utils.set_seed(self.params.seed)
        return self.task.fetch_dataloader(["train", "val"], self.data_dir, self.params)

    @functools.cached_property
    def first_batches(self):
        """The first batches of the first epoch, of at most `most` samples, a list."""
        return list(itertools.islice(self.light_batches(1), FIRST))

    def batches(self, split="train", epoch=1):
        """Yield the batches of an epoch as train.py would get them."""
        return resumable_batches(self.dataloaders[split], self.params.seed).batches(epoch, joins=split == "train")

    def light_batches(self, epoch):
        """Yield the batches of an epoch of the training split, or the first `most` samples of each."""
        if self.most is None:
            return self.batches(epoch=epoch)
        return (self.batch_of("train", torch.as_tensor(key).tolist()[: self.most]) for key in self.keys(epoch))

    def keys(self, epoch, split="train"):
        """What the sampler of a split gives for each batch of an epoch, a list; empty of a loader without such."""
        order = resumable_batches(self.dataloaders[split], self.params.seed)
        if not order.can_skip:
            return []
        order.sampler.draw(epoch, 0, False)
        return order.sampler.order

    def indices(self, split):
        """The indices of the samples of a split, in the order of its first epoch, a list; empty where it has none."""
        keys = self.keys(1, split)
        return [i for key in keys for i in torch.as_tensor(key).tolist()] if all(map(is_divisible, keys)) else []

    def batch_of(self, split, indices):
        """The batch of chosen samples, as the split's own loader puts it together."""
        order = resumable_batches(self.dataloaders[split], self.params.seed)
        key = next(iter(order.sampler.sampler))
        return load_batch(order, (1, 0, 0, key.new_tensor(indices) if isinstance(key, torch.Tensor) else indices))

    def begin(self, seed=None):
        """A Trainee with the weights that a run with this seed (by default the experiment's) begins with."""
        return Trainee(self, self.params.seed if seed is None else seed)


class Trainee:
    """A model that is about to be trained, with its optimizer and loss; see `Rehearsal.begin`."""

    def __init__(self, rehearsal, seed):
        task, self.params = rehearsal.task, rehearsal.params
        length = len(rehearsal.dataloaders["train"])  # first of all, for loaders may tell params what the model needs
        utils.set_seed(seed)
        self.model = task.make_model(self.params)
        task.load_pretrained(self.model, self.params)
        self.optimizer = task.make_optimizer(self.model, self.params)
        self.loss_fn = task.loss_fn(self.params)
        self.stateful = self.loss_fn.stateful
        self.generators, self.precision = generators_of(self.model), autocast(self.params, self.model)
        self.steps = Steps(self.model, self.optimizer, self.params)
        self.steps.is_scheduled = self.params.lr_schedule != "constant" or self.params.warmup_steps > 0
        self.steps.begin_epoch(0, 0, length)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def at_rate(self, rate):
        """Give the optimizer another learning rate; those of its groups stay in proportion. The schedule is off."""
        self.steps.is_scheduled = False
        for group, own in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = own * rate / self.params.learning_rate

    def train(self, batches, is_random=True):
        """Train on batches. Yields (outputs, labels, loss) of each when its gradient is there; its step comes next.

        If not `is_random`, in eval mode, without dropout and augmentation, but for batch norms and recurrent layers.
        """
        kinds = _BatchNorm | torch.nn.RNNBase
        needed = [module for module in self.model.train().modules() if module.training and isinstance(module, kinds)]
        self.model.train(is_random)
        for module in needed:
            module.train()
        for outputs, labels, loss in self.forward(batches):
            self.steps.zero_grad()
            self.steps.scaled(loss).backward()
            yield outputs, labels, loss
            self.steps.step()

    def forward(self, batches):
        """Yield (outputs, labels, loss) of each batch."""
        for number, (inputs, labels) in enumerate(batches_on_device(batches, self.model, self.steps)):
            self.seed(number)
            with self.precision:
                outputs = self.model(inputs)
                loss = self.loss_fn(outputs, labels)
            yield outputs, labels, loss

    def seed(self, number):
        """Seed all generators for a step of the first epoch."""
        seed_all(self.params.seed, 1, number, MODEL, self.generators)

    def on_device(self, batch):
        """A batch, (inputs, labels), on the model's device."""
        return next(iter(batches_on_device([batch], self.model)))

    def outputs(self, batch, mode="eval", number=0, batch_norm=True):
        """What the model gives for a batch in train or eval mode, a list of tensors.

        `number` is the step whose random numbers are drawn; without `batch_norm`, batch norms are in eval mode.
        """
        self.model.train(mode == "train")
        for module in self.model.modules():
            if isinstance(module, _BatchNorm) and not batch_norm:
                module.eval()
        self.seed(number)
        with torch.set_grad_enabled(mode == "train"):
            return [tensor.detach() for tensor in tensors(self.model(self.on_device(batch)[0])) if tensor.ndim]


def numbers_in(batch):
    """How many numbers a batch holds."""
    return sum(tensor.numel() for tensor in tensors(tuple(batch)))


def differ(one, other, whole):
    """Whether two tensors differ by more than rounding does, measured by the numbers in a third."""
    allowed = 1e-2 * whole.float().std(correction=0) + 1e-4 * whole.float().abs().max()
    return not bool((one.float() - other.float()).abs().max() <= allowed)


def step_memory(rehearsal, batch):
    """The bytes that training on a batch takes: on CUDA as measured; else what it keeps for the way back, the weights,
    their gradients and the optimizer's state, counted."""
    trainee, kept, is_measured = rehearsal.begin(), {}, rehearsal.params.cuda

    def keep(tensor):
        storage = (tensor.coalesce().values() if tensor.is_sparse else tensor).untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    if is_measured:
        torch.cuda.reset_peak_memory_stats(trainee.params.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        list(trainee.train([batch, batch] if is_measured else [batch]))
    weights = [*trainee.model.parameters(), *trainee.model.buffers()]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for tensor in (*weights, *gradients, *tensors(list(trainee.optimizer.state.values()))):
        keep(tensor)
    return peak_memory(trainee.params.device) if is_measured else sum(kept.values())


def range_test(rehearsal, seconds):
    """Train while the learning rate rises exponentially, and watch the loss.

    After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), https://arxiv.org/abs/1506.01186,
    section 3.3. What is suggested is a tenth of the rate at which the smoothed loss is lowest, as in J. Howard and S.
    Gugger, "fastai: A Layered API for Deep Learning" (2020).

    Args:
        rehearsal: the Rehearsal.
        seconds: that it takes; there are fewer steps where they are slow.

    Returns:
        dict with "rates" and "losses" (smoothed), lists of floats, and two rates, None where there is none:
        "suggested", and "diverges", from which on the loss is not below what it was at the start.
    """
    trainee, rate, smoothed, rates, losses, times = rehearsal.begin(), LOWEST, 0.0, [], [], []
    trainee.at_rate(rate)
    batches = itertools.chain.from_iterable(map(rehearsal.light_batches, itertools.count(1)))
    for number, (_, _, loss) in enumerate(trainee.train(batches)):
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss.item()
        losses.append(smoothed / (1 - SMOOTHING ** (number + 1)))
        rates.append(rate)
        times.append(time.monotonic())
        if rate > HIGHEST or not losses[-1] <= losses[0] + (DIVERGED - 1) * abs(losses[0]):
            break
        taken = (times[-1] - times[0]) / number if number else 0  # by a step, but for the first, which takes longer
        rate *= (HIGHEST / LOWEST) ** max(1 / RANGE_STEPS, min(taken / seconds, 1 / 24))
        trainee.at_rate(rate)
    lowest = losses.index(min((loss for loss in losses if math.isfinite(loss)), default=losses[0]))
    above = [rate for rate, loss in zip(rates[lowest:], losses[lowest:], strict=True) if not loss < losses[0]]
    falls = losses[lowest] < losses[0] - 0.01 * abs(losses[0]) and lowest < len(losses) - 1  # and rises again
    return {
        "rates": rates,
        "losses": losses,
        "suggested": rates[lowest] / 10 if falls else None,
        "diverges": above[0] if above else None,
    }


def plot_range_test(found, own_rate):
    """The picture of a range test, with the rate that it suggests and the experiment's own: the bytes of a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    top = found["losses"][0] + DIVERGED * abs(found["losses"][0])  # the last loss may be many times that
    axes.plot(found["rates"], [min(loss, top) for loss in found["losses"]], color="tab:blue")
    axes.axvline(own_rate, color="tab:gray", linestyle="--", label=f"params.json: {own_rate:.2g}")
    if found["suggested"]:
        axes.axvline(found["suggested"], color="tab:green", label=f"suggested: {found['suggested']:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title="Learning rate range test")
    axes.legend()
    axes.grid(alpha=0.3)
    return png(figure)
