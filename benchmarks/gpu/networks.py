"""What is trained in measure.py: networks, images, an epoch as train.py does it, and a bare one."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import torch
import torchvision
from beside import timed
from epochs import bare_epoch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import utils
from model.data_loader import BatchIndices, Images
from model.net import PixelInput
from toolkit.core.image_dataset import fits_on
from toolkit.core.task import find_task
from train import train

NUM_CLASSES = 10


class RandomImages(Images):
    """Images of random bytes, with the labels 0 to 9: on the device, or in a file that is mapped."""

    def __init__(self, count, shape, device, file=None):
        if file is None:
            pixels = np.empty((count, *shape), np.uint8)
        else:
            pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (count, *shape))
        rng = np.random.default_rng(0)
        for image in pixels:
            image[:] = rng.integers(0, 256, shape, np.uint8)
        if file is not None:
            pixels.flush()
            pixels = np.load(file, mmap_mode="c")
        self.images, self.labels = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.arange(count) % NUM_CLASSES
        if file is None and fits_on(device, self.images.nbytes):
            self.images, self.labels = self.images.to(device), self.labels.to(device)


class Classifier(nn.Module):
    """A network of torchvision's on uint8 images, in channels_last."""

    def __init__(self, name, params):
        super().__init__()
        self.pixels = PixelInput(params)
        self.network = getattr(torchvision.models, name)(num_classes=params.num_classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        """uint8 images (B, C, H, W) to logits (B, num_classes)."""
        return self.network(self.pixels(images))


def write_experiment(folder, **values):
    """Make an experiment's folder. Returns its path."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(values))
    return folder


def subject(folder, device, shape, count, *, network=None, mapped=False, **values):
    """An experiment on `count` random images, as train.py sets it up: its parts as attributes.

    Args:
        folder: where it is made.
        device: name of the device.
        shape: (height, width, channels) of the images.
        network: name of one of torchvision's, in place of the one that params name.
        mapped: whether the images stay in a file.
        values: hyperparameters.
    """
    write_experiment(folder, **values)
    task = find_task(folder)
    params = task.read_params(folder / "params.json")
    params.add_facts({"device": device, "cuda": torch.device(device).type == "cuda", "num_classes": NUM_CLASSES})
    params.add_facts(dict(zip(("image_height", "image_width", "image_channels"), shape, strict=True)))
    params.add_facts({"mean": [0.5] * shape[-1], "std": [0.25] * shape[-1]})
    params.num_epochs = 10**6  # as many as are asked for
    utils.set_seed(params.seed)
    dataset = RandomImages(count, shape, device, folder / "images.npy" if mapped else None)
    place = dataset.labels.device
    batches = BatchIndices(count, params.batch_size, shuffle=True, device=place)
    pinned = params.cuda and place.type == "cpu"
    loader = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)  # as model/data_loader.py does
    task.Net = task.Net if network is None else functools.partial(Classifier, network)
    model = task.make_model(params)
    return SimpleNamespace(
        folder=folder,
        task=task,
        params=params,
        loaders={"train": loader},
        model=model,
        optimizer=task.make_optimizer(model, params),
        loss_fn=task.loss_fn(params),
    )


def synchronize(device):
    """Wait until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def train_once(ours):
    """A function that trains an epoch, and returns its seconds."""
    arguments = ours.model, ours.optimizer, ours.loss_fn, ours.loaders["train"], ours.task.metrics, ours.params
    return timed(lambda: train(*arguments))  # reads the losses when it ends, and so waits for the device


def bare(other):
    """A function that goes once over the images in a bare loop, all of it on the device, and returns the seconds."""
    images, labels = other.loaders["train"].dataset.images, other.loaders["train"].dataset.labels

    def epoch():
        bare_epoch(other.model, other.optimizer, images, labels, other.params.batch_size)
        synchronize(labels.device)

    return timed(epoch)


def operations_of_a_step(ours):
    """Floating-point operations of a step, forward and backward (a multiplication and an addition are two)."""
    images, labels = next(iter(ours.loaders["train"]))
    counter = FlopCounterMode(display=False)
    with counter:
        ours.loss_fn(ours.model(images.to(ours.params.device)), labels.to(ours.params.device)).backward()
    ours.optimizer.zero_grad()
    return counter.get_total_flops()
