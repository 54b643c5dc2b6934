"""The model: network, loss, metrics, and the hyperparameters that they read. Change this file as you like."""

import functools
import itertools
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import nn

import utils


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    architecture: Literal["ConvNet", "DenseNet", "TwoLayerNet"] = Field("ConvNet", description="the network to train")
    num_channels: int = Field(32, ge=1, description="ConvNet: channels of the first block; then 2x and 4x as many")
    hidden_sizes: list[PositiveInt] = Field([256, 128], description="DenseNet: units of each hidden layer")
    hidden_size: int = Field(100, ge=1, description="TwoLayerNet: units of the hidden layer")
    dropout_rate: float = Field(0.5, ge=0, lt=1, description="probability that dropout zeroes a unit")
    label_smoothing: float = Field(0, ge=0, lt=1, description="fraction of the target spread evenly over all classes")
    balanced: bool = Field(False, description="weight the training loss by inverse class frequency")
    random_shift: int = Field(0, ge=0, description="shift training images by up to this many pixels")
    random_flip: bool = Field(False, description="mirror training images left to right, half of them")


def Net(params):
    """Return the network that `params.architecture` names."""
    params.declare(Hyperparameters)
    return {"ConvNet": ConvNet, "DenseNet": DenseNet, "TwoLayerNet": TwoLayerNet}[params.architecture](params)


class PixelInput(nn.Module):
    """Convert uint8 images to normalised floats; in training mode, shift and mirror each image at random first.

    Args:
        params: `random_shift`, `random_flip`; `mean` and `std` of the training images (facts of the dataset, one number
            per channel, for pixels scaled to [0, 1]).
    """

    def __init__(self, params):
        super().__init__()
        self.random_shift, self.random_flip = params.random_shift, params.random_flip
        self.register_buffer("mean", torch.tensor(params.mean).view(-1, 1, 1))  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(params.std).clamp(min=1 / 255).view(-1, 1, 1))  # 0 for constant images

    def forward(self, images):
        if self.training and self.random_shift:
            images = shifted(images, self.random_shift)
        if self.training and self.random_flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)  # (B, C, H, W)
        # channels_last (the channels of a pixel are adjacent in memory) makes convolutions fastest
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        return (pixels / 255 - self.mean) / self.std


def shifted(images, most):
    """Return images (B, C, H, W), each shifted by up to `most` pixels in both directions and padded with black."""
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), device=images.device)  # (B, 1) each
    rows = torch.arange(height, device=images.device) + down  # (B, H)
    columns = torch.arange(width, device=images.device) + right  # (B, W)
    sample = torch.arange(count, device=images.device).view(-1, 1, 1)
    padded = F.pad(images, (most,) * 4).permute(0, 2, 3, 1)  # (B, H + 2 most, W + 2 most, C)
    return padded[sample, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)  # (B, C, H, W)


class ConvNet(nn.Module):
    """Three blocks of convolution, batch normalisation, pooling and ReLU, then a head of two linear layers.

    This is the network of Stanford's CS230 project template. Images may have any size and number of channels.

    Args:
        params: `num_channels`, `dropout_rate`; facts of the dataset: `image_channels`, `image_height`, `image_width`,
            `num_classes`, `mean`, `std`.
    """

    def __init__(self, params):
        super().__init__()
        width = params.num_channels
        self.pixels = PixelInput(params)
        self.blocks = nn.Sequential(
            self.block(params.image_channels, width),
            self.block(width, 2 * width),
            self.block(2 * width, 4 * width),
        )
        features = 4 * width * -(-params.image_height // 8) * -(-params.image_width // 8)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, 4 * width),
            nn.BatchNorm1d(4 * width),  # without it, nearly all hidden units die on 64×64 photos
            nn.ReLU(),
            nn.Dropout(params.dropout_rate),
            nn.Linear(4 * width, params.num_classes),
        )
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def block(channels_in, channels_out):
        """Return a block from (B, channels_in, H, W) to (B, channels_out, H/2, W/2), rounded up."""
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(),  # after pooling: the same result for a quarter of the work
        )

    def forward(self, images):
        """Compute logits (B, num_classes) from uint8 images (B, C, H, W)."""
        x = self.pixels(images)  # (B, C, H, W)
        x = self.blocks(x)  # (B, 4 num_channels, H/8, W/8)
        return self.head(x)  # (B, num_classes)


class DenseNet(nn.Module):
    """Linear layers with ReLU on the flattened pixels: for MNIST's 28×28 images 784-256-128-10 by default.

    Args:
        params: `hidden_sizes`, `dropout_rate`; facts of the dataset as for ConvNet.
    """

    def __init__(self, params):
        super().__init__()
        self.pixels = PixelInput(params)
        sizes = [params.image_channels * params.image_height * params.image_width, *params.hidden_sizes]
        layers = []
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU(), nn.Dropout(params.dropout_rate)]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], params.num_classes))

    def forward(self, images):
        """Compute logits (B, num_classes) from uint8 images (B, C, H, W)."""
        return self.layers(self.pixels(images))


class TwoLayerNet(nn.Module):
    """One hidden layer with ReLU on the flattened pixels.

    Args:
        params: `hidden_size`; facts of the dataset as for ConvNet.
    """

    def __init__(self, params):
        super().__init__()
        self.pixels = PixelInput(params)
        self.linear1 = nn.Linear(params.image_channels * params.image_height * params.image_width, params.hidden_size)
        self.linear2 = nn.Linear(params.hidden_size, params.num_classes)

    def forward(self, images):
        """Compute logits (B, num_classes) from uint8 images (B, C, H, W)."""
        x = self.pixels(images).flatten(1)  # (B, C * H * W)
        return self.linear2(F.relu(self.linear1(x)))


def loss_fn(outputs, labels, params=None):
    """Return the mean cross entropy of a batch; `label_smoothing` and `balanced` change it in training only.

    Args:
        outputs: logits, float (B, num_classes).
        labels: int64 (B,).
        params: hyperparameters, with the facts of the dataset.

    Returns:
        scalar tensor.
    """
    is_training = params is not None and outputs.requires_grad
    if not is_training or not (params.label_smoothing or params.balanced):
        return F.cross_entropy(outputs, labels)
    losses = F.cross_entropy(outputs, labels, reduction="none", label_smoothing=params.label_smoothing)  # (B,)
    weights = class_weights(params, labels.device)[labels] if params.balanced else 1
    return (weights * losses).mean()


@functools.lru_cache(maxsize=1)  # copied to the device once; a copy in each step would stall the GPU
def class_weights(params, device):
    """Return the weight of each class, float (num_classes,): inversely proportional to its images in train.

    The weights do not depend on the batch, and their mean over the training images is 1.
    """
    counts = torch.tensor([params.counts["train"][name] for name in params.class_names], dtype=torch.float32)
    return (counts.sum() / (counts > 0).sum() / counts.clamp(min=1)).to(device)


def accuracy(outputs, labels):
    """Return the fraction of samples whose largest logit is that of their class.

    Args:
        outputs: array (N, num_classes), for all samples of a split.
        labels: int array (N,).

    Returns:
        float in [0, 1].
    """
    return np.mean(outputs.argmax(axis=1) == labels)


def macro_f1(outputs, labels):
    """Return the mean of the classes' F1 scores: every class has the same weight, however rare it is.

    A class that neither occurs nor is predicted is left out, as in scikit-learn's `f1_score(average="macro")`.

    Args:
        outputs: array (N, num_classes), for all samples of a split.
        labels: int array (N,).

    Returns:
        float in [0, 1].
    """
    predictions = outputs.argmax(axis=1)
    hits = labels[predictions == labels]
    predicted, actual, correct = (np.bincount(c, minlength=outputs.shape[1]) for c in (predictions, labels, hits))
    occurs = predicted + actual > 0
    return np.mean(2 * correct[occurs] / (predicted + actual)[occurs])


metrics = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
