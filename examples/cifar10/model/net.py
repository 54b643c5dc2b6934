"""A small residual network for 32×32 photographs that learns in few epochs.

Sources: D. Page, "How to train your ResNet" (2018); K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
arXiv:2404.00498 (2024).
"""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

import utils
from toolkit.core.image_dataset import load_images

PATCH = 2  # height and width in pixels of what the first layer sees


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    num_channels: int = Field(64, ge=1, description="channels of the first block; the other two have 4x as many")
    random_shift: int = Field(0, ge=0, le=8, description="shift training images by up to this many pixels")
    random_flip: bool = Field(False, description="mirror training images left to right, half of them")
    flip_in_evaluation: bool = Field(False, description="average the logits of an image and its mirror image")
    label_smoothing: float = Field(0, ge=0, lt=1, description="fraction of the target spread evenly over all classes")


class Net(nn.Module):
    """A first layer that whitens, three residual blocks, and a linear layer.

    Args:
        params: `num_channels`, `random_shift`, `random_flip`, `flip_in_evaluation`; facts of the dataset:
            `image_channels`, `image_height`, `image_width`, `num_classes`, `mean`, `std`.
    """

    def __init__(self, params):
        super().__init__()
        params.declare(Hyperparameters)
        self.flip_in_evaluation = params.flip_in_evaluation
        self.pixels = PixelInput(params)
        width, patch_values = params.num_channels, params.image_channels * PATCH**2
        self.whiten = nn.Conv2d(params.image_channels, 2 * patch_values, PATCH)  # its weights: see load_pretrained
        self.whiten.weight.requires_grad = False
        self.blocks = nn.Sequential(
            nn.GELU(),
            Block(2 * patch_values, width),
            Block(width, 4 * width),
            Block(4 * width, 4 * width),
        )
        self.linear = nn.Linear(4 * width, params.num_classes, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        """Compute logits (B, num_classes) from uint8 images (B, C, H, W)."""
        x = self.pixels(images)  # (B, C, H, W)
        if self.flip_in_evaluation and not self.training:
            return (self.logits(x) + self.logits(x.flip(3))) / 2
        return self.logits(x)

    def logits(self, pixels):
        """Compute logits (B, num_classes) from normalised pixels (B, C, H, W)."""
        x = self.blocks(self.whiten(pixels)).amax((2, 3))  # (B, 4 num_channels)
        return self.linear(x) / 9  # small at first, for a large learning rate


class Block(nn.Module):
    """A residual block from (B, channels_in, H, W) to (B, channels_out, H/2, W/2), rounded down, at least 1."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), min(2, *x.shape[2:]))))  # (B, channels_out, H/2, W/2)
        return x + F.gelu(self.norm2(self.conv2(x)))


class PixelInput(nn.Module):
    """Convert uint8 images to normalised floats; in training mode, shift and mirror each image at random first.

    Args:
        params: `random_shift`, `random_flip`; `mean` and `std` of the training images (facts of the dataset, one number
            per channel, for pixels scaled to [0, 1]).
    """

    def __init__(self, params):
        super().__init__()
        self.random_shift, self.random_flip = params.random_shift, params.random_flip
        self.register_buffer("mean", 255 * torch.tensor(params.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(params.std).view(-1, 1, 1), persistent=False)

    def forward(self, images):
        if self.training:
            images = self.augment(images)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # (B, C, H, W)

    def augment(self, images):
        """Return shifted and mirrored images (B, C, H, W); pixels that move in at a border mirror those beside it."""
        count, _, height, width = images.shape
        sample = torch.arange(count, device=images.device).view(-1, 1, 1)
        rows = self.positions(count, height, images.device)  # (B, H)
        cols = self.positions(count, width, images.device)  # (B, W)
        if self.random_flip:
            cols = torch.where(torch.rand(count, 1, device=images.device) < 0.5, cols.flip(1), cols)
        moved = images.permute(0, 2, 3, 1)[sample, rows.unsqueeze(2), cols.unsqueeze(1)]  # (B, H, W, C)
        return moved.permute(0, 3, 1, 2)  # (B, C, H, W)

    def positions(self, count, size, device):
        """Return the source index of each of `size` pixels of an axis after a random shift, int64 (count, size)."""
        shift = torch.randint(-self.random_shift, self.random_shift + 1, (count, 1), device=device)
        last = size - 1
        return last - (last - (torch.arange(size, device=device) + shift).abs()).abs()  # mirrored at 0 and at `last`


@torch.no_grad()
def load_pretrained(model, params):
    """Initialise the first layer of a new run so that it whitens: its outputs are principal components of 2×2 patches.

    All have the same scale, and each occurs with both signs, because the activation that follows passes only one.
    """
    images, _ = load_images(params.data_dir, "train", params.cache_above_mb)
    images = images[:: max(1, len(images) // 5000)]  # from all classes: they are sorted by class
    pixels = model.pixels.eval()(images.to(model.whiten.weight.device))  # (N, C, H, W)
    patches = F.unfold(pixels, PATCH).transpose(1, 2).flatten(0, 1)  # (patches, C * PATCH**2)
    covariance = patches.T @ patches / len(patches)  # (C * PATCH**2, C * PATCH**2)
    variances, components = torch.linalg.eigh(covariance.cpu())
    components = (components / (variances + 5e-4).sqrt()).T  # one component per row
    filters = torch.cat([components, -components]).view_as(model.whiten.weight)
    model.whiten.weight.copy_(filters)
    model.whiten.bias.zero_()


def loss_fn(outputs, labels, params):
    """Return the mean cross entropy of a batch; in training, with labels smoothed by `label_smoothing`.

    Args:
        outputs: logits, float (B, num_classes).
        labels: int64 (B,).
        params: `label_smoothing`.

    Returns:
        Scalar tensor.
    """
    return F.cross_entropy(outputs, labels, label_smoothing=params.label_smoothing if outputs.requires_grad else 0)


def accuracy(outputs, labels):
    """Return the fraction of samples whose largest logit is that of their class.

    Args:
        outputs: array (N, num_classes), for all samples of a split.
        labels: int array (N,).

    Returns:
        float in [0, 1].
    """
    return np.mean(outputs.argmax(axis=1) == labels)


metrics = {"accuracy": accuracy}
