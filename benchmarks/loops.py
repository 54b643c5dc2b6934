"""What the loops of train.py and evaluate.py cost beside bare ones, CS230's and Lightning's. See bench.py."""

import contextlib
import io
import logging
import time
import warnings

import cs230
import torch
import torch.nn.functional as F
from beside import comparison, timed
from epochs import bare_epoch, epochs_of
from subjects import MANY, experiment, hand_signs, many_pictures, small_digits
from torch.utils.data import DataLoader, TensorDataset

import utils
from evaluate import evaluate
from model.data_loader import BatchIndices

VISION = {"num_channels": 32, "batch_size": 32, "learning_rate": 1e-3}  # CS230's network
TINY = {"architecture": "TwoLayerNet", "hidden_size": 100, "batch_size": 32, "learning_rate": 1e-3}
TINY_STEPS = 1500  # in an epoch


def all_of(experiment):
    """The images and the labels of its training split, two tensors."""
    dataset = experiment.loaders["train"].dataset
    return dataset[torch.arange(len(dataset))]


def bare(other):
    """A function that goes once over the training split of an experiment in a bare loop, and returns the seconds."""
    images, labels = all_of(other)
    return timed(lambda: bare_epoch(other.model, other.optimizer, images, labels, other.params.batch_size))


def classic(files):
    """A function that trains an epoch in CS230's way, in this process alone, and returns the seconds."""
    loader, _ = cs230.loaders(files, num_workers=0)
    model = cs230.Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=VISION["learning_rate"])
    return timed(lambda: cs230.train(model, optimizer, loader))


@comparison("an epoch of the vision model (864 images of 64×64, batch 32)", "a bare loop over preloaded tensors", 1.05)
def epoch(place):
    _, data = hand_signs(place)
    with epochs_of(experiment(place / "epoch", data, **VISION)) as ours:
        yield ours, bare(experiment(place / "epoch-bare", data, **VISION))


@comparison("the same epoch", "CS230's way: default layout, a JPEG decoded for each item", 0.75)
def classic_epoch(place):
    files, data = hand_signs(place)
    with epochs_of(experiment(place / "classic_epoch", data, **VISION)) as ours:
        yield ours, classic(files)


@comparison("the same epoch in bf16", "CS230's way, as above", 0.45)
def bf16(place):
    files, data = hand_signs(place)
    with epochs_of(experiment(place / "bf16", data, **VISION, precision="bf16")) as ours:
        yield ours, classic(files)


def tiny(place, name):
    """The experiment of a tiny network on the digits of 8×8, with so many of them that an epoch has TINY_STEPS."""
    found = experiment(place / name, small_digits(place), **TINY)
    count = TINY_STEPS * TINY["batch_size"]
    images, labels = found.loaders["train"].dataset[torch.arange(count) % len(found.loaders["train"].dataset)]
    found.loaders["train"] = DataLoader(
        TensorDataset(images, labels), batch_size=None, sampler=BatchIndices(count, TINY["batch_size"], shuffle=True)
    )
    return found


@comparison(
    f"{TINY_STEPS:,} steps of a tiny MLP (64-100-10, batch 32)", "the bare five lines, `torch.optim.Adam(...)`", 1.1
)
def mlp(place):
    with epochs_of(tiny(place, "mlp")) as ours:
        other = tiny(place, "mlp-bare")
        other.optimizer = torch.optim.Adam(other.model.parameters(), lr=TINY["learning_rate"])
        yield ours, bare(other)


@comparison("the same steps", "the bare five lines with the fused Adam that train.py takes", 1.1)
def mlp_fused(place):
    with epochs_of(tiny(place, "mlp_fused")) as ours:
        yield ours, bare(tiny(place, "mlp_fused-bare"))


@comparison(
    f"a run of {TINY_STEPS:,} such steps, with metrics and a checkpoint",
    "Lightning's Trainer with its defaults",
    0.3,
)
def lightning(place):
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            images, labels = batch
            return F.cross_entropy(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=TINY["learning_rate"])

    def fit():
        other = tiny(place, "lightning-theirs")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            trainer = Trainer(max_epochs=1, default_root_dir=place / "lightning-theirs")
            started = time.perf_counter()
            trainer.fit(Module(other.model), other.loaders["train"])
            return time.perf_counter() - started

    def run_of_one():
        with epochs_of(tiny(place, "lightning-ours")) as epoch:
            started = time.perf_counter()
            epoch()
            return time.perf_counter() - started

    logging.getLogger("lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield run_of_one, fit


@comparison("validation (evaluate() of 864 images, metrics included)", "the same forward passes, bare", 1.1)
def validation(place):
    _, data = hand_signs(place)
    both = experiment(place / "validation", data, **VISION)
    images, labels = all_of(both)
    batches = DataLoader(TensorDataset(images, labels), batch_size=None, sampler=BatchIndices(len(labels), 32, False))

    @torch.inference_mode()
    def forward_passes():
        both.model.eval()
        for batch in images.split(32):
            both.model(batch)

    def ours():
        evaluate(both.model, both.loss_fn, batches, both.task.metrics, both.params)

    yield timed(ours), timed(forward_passes)


def state_and_step(place, name):
    """An experiment of the vision model, its state for a checkpoint (13.7 MB), and a function that does one step."""
    _, data = hand_signs(place)
    found = experiment(place / name, data, **VISION)
    images, labels = (part[: VISION["batch_size"]] for part in all_of(found))
    step = timed(lambda: bare_epoch(found.model, found.optimizer, images, labels, VISION["batch_size"]))
    step()
    state = {"epoch": 1, "state_dict": found.model.state_dict(), "optim_dict": found.optimizer.state_dict()}
    return found, state, step


@comparison("a durable, atomic checkpoint (13.7 MB)", "one training step of the vision model", 0.3)
def checkpoint(place):
    found, state, step = state_and_step(place, "checkpoint")
    yield timed(lambda: utils.save_checkpoint(state, False, found.folder)), step


@comparison("what a checkpoint after each step delays it by", "one training step of the vision model", 0.3)
def delay(place):
    """An epoch with a checkpoint after each step, less one without, for each of its checkpoints."""
    _, data = hand_signs(place)
    saving = experiment(place / "delay", data, **VISION)
    _, _, step = state_and_step(place, "delay-step")
    with epochs_of(saving) as epoch:
        steps = len(saving.loaders["train"])

        def one_delay():
            epoch.run.checkpoints.seconds = 1e9
            without = epoch()
            epoch.run.checkpoints.seconds = 1e-9
            return (epoch() - without) / steps

        yield one_delay, step


@comparison(
    f"an epoch over a mapped file ({MANY:,} images of 64×64, hidden layer of 100)", "over the same in memory", 1.3
)
def mapped(place):
    data = many_pictures(place)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(epochs_of(experiment(place / f"mapped-{mb}", data, **TINY, cache_above_mb=mb)))
            for mb in (0, 1e9)
        ]
