"""Transfer learning: a network of torchvision with pretrained weights and a new head, for your own images."""

import functools
import logging
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torchvision import models

import utils
from utils import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights were trained with
AMONG_OTHERS = "resnet18, resnet50, mobilenet_v3_small, efficientnet_b0, convnext_tiny, vit_b_16"


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    backbone: str = Field("resnet18", description="name of a classification network of torchvision")
    weights: str = Field("imagenet", description="initial weights: imagenet (downloaded), none (random), or a file")
    frozen: bool = Field(False, description="train only the new head")
    backbone_learning_rate: float = Field(
        1e-4, gt=0, description="learning rate of the pretrained part, unless it is frozen"
    )
    input_size: int = Field(0, ge=0, description="resize images to this height and width; 0: keep their size")
    balanced: bool = Field(False, description="weight the loss by inverse class frequency")
    random_flip: bool = Field(False, description="mirror training images left to right, half of them")


class Net(nn.Module):
    """A network of torchvision whose last linear layer is replaced by one for the classes of the dataset.

    Args:
        params: `backbone`, `frozen`, `input_size`, `random_flip`; facts of the dataset: `num_classes`, `image_height`,
            `image_width`.

    Raises:
        UserError: there is no such backbone, it has no linear layer to replace, or the images are too small for it.
    """

    def __init__(self, params):
        super().__init__()
        params.declare(Hyperparameters)
        self.input_size, self.random_flip, self.frozen = params.input_size, params.random_flip, params.frozen
        self.backbone, self.head_name = backbone_and_head(params.backbone)
        parent, _, name = self.head_name.rpartition(".")
        head = nn.Linear(self.head.in_features, params.num_classes)
        setattr(self.backbone.get_submodule(parent), name, head)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(not self.frozen)
        self.head.requires_grad_(True)
        self.try_images(params)

    @property
    def head(self):
        """The last linear layer."""
        return self.backbone.get_submodule(self.head_name)

    @torch.no_grad()
    def try_images(self, params):
        """Raise UserError if the backbone does not accept images of this size."""
        images = torch.zeros(1, 3, params.image_height, params.image_width, dtype=torch.uint8)  # (1, 3, H, W)
        try:
            self.eval()(images)
        except (AssertionError, RuntimeError, ValueError) as error:
            size = params.input_size or f"{params.image_height}×{params.image_width}"
            reason = str(error).split("\n")[0]
            raise UserError(
                f"{params.backbone} takes no images of size {size} ({reason}); "
                f'try "input_size": 224, for which it was made'
            ) from None

    def train(self, mode=True):
        """Set the mode; a frozen backbone stays in evaluation mode, so that its batch norms never change."""
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, images):
        """Compute logits (B, num_classes) from uint8 images (B, 1 or 3, H, W)."""
        if self.training and self.random_flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        pixels = images.float().expand(-1, 3, -1, -1)  # (B, 3, H, W)
        if self.input_size:
            pixels = F.interpolate(pixels, (self.input_size,) * 2, mode="bilinear", antialias=True)
        return self.backbone((pixels / 255 - self.mean) / self.std)  # (B, num_classes)


def backbone_and_head(name):
    """Return a network of torchvision with random weights, and the name of its last linear layer.

    Raises:
        UserError: torchvision has no network of that name, or it cannot be used here.
    """
    if name not in models.list_models(module=models):
        raise UserError(f"backbone is {name!r}, which torchvision does not have; it has {AMONG_OTHERS} and others")
    if name in ("googlenet", "inception_v3"):
        raise UserError(f"{name} gives further outputs in training; choose another backbone, such as {AMONG_OTHERS}")
    backbone = models.get_model(name, weights=None)
    layers = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UserError(f"{name} has no linear layer to replace; choose another backbone, such as {AMONG_OTHERS}")
    return backbone, layers[-1]


def make_optimizer(model, params):
    """Return Adam: the head has `learning_rate`, the pretrained part `backbone_learning_rate` unless it is frozen."""
    head = list(model.head.parameters())
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not own for own in head)]
    groups = [{"params": head, "lr": params.learning_rate}]
    if rest:
        groups.append({"params": rest, "lr": params.backbone_learning_rate})
    return torch.optim.Adam(groups)


def load_pretrained(model, params):
    """Give a new run its initial weights. Those of the head are used if they are for as many classes.

    Raises:
        UserError: they cannot be downloaded or read, or are those of another network.
    """
    if params.weights == "none":
        return
    state = downloaded(params.backbone) if params.weights == "imagenet" else read_weights(params.weights)
    # densenets are published with names such as denselayer1.norm.1, which are now denselayer1.norm1
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.(?=\d)", r"\1", key): value for key, value in state.items()}
    own, head = model.backbone.state_dict(), [f"{model.head_name}.weight", f"{model.head_name}.bias"]
    if any(key in state and state[key].shape != own[key].shape for key in head):
        logging.info("Its head is for %d classes; the new head starts from random weights", len(state[head[0]]))
        state |= {key: own[key] for key in head}
    try:
        model.backbone.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).split("\n")[1].strip()
        raise UserError(f"weights {params.weights}: not those of {params.backbone}: {reason}") from None
    logging.info("The weights to begin with are those of %s", params.weights)


def downloaded(backbone):
    """Return torchvision's best weights for a backbone, a state dict; the file is kept in torch's cache.

    Raises:
        UserError: they cannot be downloaded.
    """
    weights = models.get_model_weights(backbone).DEFAULT
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # network, disk, or another hash
        raise UserError(
            f"the weights of {backbone} cannot be downloaded from {weights.url}: {error}. Put the file "
            f"{Path(weights.url).name} into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            f'or name it with "weights": "<path>", or begin with "weights": "none", random ones'
        ) from None


def read_weights(file):
    """Return the state dict in `file`, which is one that torchvision publishes, or a checkpoint with a "state_dict".

    Raises:
        UserError: there is no such file, or it holds no weights.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        reason = str(error).split("\n")[0]
        raise UserError(f"weights {file}: cannot be read, or are damaged: {reason}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"weights {file}: no weights: it should be a state dict, or a checkpoint with one")
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}


def loss_fn(outputs, labels, params):
    """Return the mean cross entropy of a batch; if `balanced`, weighted by inverse class frequency.

    Args:
        outputs: logits, float (B, num_classes).
        labels: int64 (B,).
        params: `balanced`; facts of the dataset: `counts` (of images by split and class), `class_names`.

    Returns:
        dict of scalar tensors: "loss", and "cross_entropy" without weights, which is comparable between runs.
    """
    each = F.cross_entropy(outputs, labels, reduction="none")  # (B,)
    weights = torch.ones_like(each)
    if params.balanced:
        weights = class_weights(params, each.device)[labels]  # (B,); their mean over the train split is 1
    return {"loss": (weights * each).mean(), "cross_entropy": each.mean()}


@functools.lru_cache(maxsize=1)  # copied to the device once; a copy in each step would stall the GPU
def class_weights(params, device):
    """Return the weight of each class, float (num_classes,): inverse to its images in train, with mean 1 over them."""
    counts = torch.tensor([params.counts["train"][name] for name in params.class_names])
    return (counts.sum() / len(counts) / counts).to(device)


def accuracy(outputs, labels):
    """Return the fraction of samples whose largest logit is that of their class.

    Args:
        outputs: array (N, num_classes), for all samples of a split.
        labels: int array (N,).

    Returns:
        float in [0, 1].
    """
    return np.mean(outputs.argmax(axis=1) == labels)


class BalancedAccuracy:
    """Return the mean of the accuracies of the classes: a class with few images weighs as much as one with many.

    It is updated batch by batch and keeps no outputs. Metrics of torchmetrics have the same form, and can be used too.
    """

    def reset(self):
        """Start a split."""
        self.right = self.total = torch.tensor(0)  # from the first batch on int64 (num_classes,)

    def update(self, outputs, labels):
        """Add a batch: logits, float (B, num_classes), and labels, int64 (B,)."""
        num_classes = outputs.shape[1]
        self.total = self.total + torch.bincount(labels, minlength=num_classes)
        self.right = self.right + torch.bincount(labels[outputs.argmax(1) == labels], minlength=num_classes)

    def compute(self):
        """Return the balanced accuracy over the classes that occur in the split, a scalar tensor in [0, 1]."""
        occurs = self.total > 0
        return (self.right[occurs] / self.total[occurs]).mean()


metrics = {"accuracy": accuracy, "balanced_accuracy": BalancedAccuracy()}
