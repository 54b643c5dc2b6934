"""Regression: numbers in, one number out. Network, loss, optimizer, metrics, and the hyperparameters they read."""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

import utils
from model.data_loader import precise


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    hidden_size: int = Field(512, ge=1, description="units of the hidden layer")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the optimizer")
    weight_decay: float = Field(0, ge=0, description="weight decay of the optimizer")


class Net(nn.Module):
    """One hidden layer with tanh. Inputs and outputs have their own units; the network standardises them itself.

    Args:
        params: `hidden_size`; facts of the dataset: `num_inputs`, and for the train split `mean` and `std` (one number
            per input), `target_mean`, `target_std`.
    """

    def __init__(self, params):
        super().__init__()
        params.declare(Hyperparameters)
        for name in ("mean", "std", "target_mean", "target_std"):  # (num_inputs,) and scalars, float64
            self.register_buffer(name, torch.tensor(getattr(params, name), dtype=precise(params)))
        self.layers = nn.Sequential(
            nn.Linear(params.num_inputs, params.hidden_size),
            nn.Tanh(),
            nn.Linear(params.hidden_size, 1),
        )

    def forward(self, inputs):
        """Compute predictions, float64 (B,), from rows of inputs, float (B, num_inputs)."""
        x = self.layers(((inputs - self.mean) / self.std).float())  # (B, 1)
        return x.squeeze(1).to(self.target_mean.dtype) * self.target_std + self.target_mean  # (B,)


def make_optimizer(model, params):
    """Return SGD with momentum."""
    return torch.optim.SGD(
        model.parameters(), lr=params.learning_rate, momentum=params.momentum, weight_decay=params.weight_decay
    )


def loss_fn(outputs, labels, params):
    """Return the mean squared error of a batch, in standard deviations of the target: 1 is what the mean achieves.

    Args:
        outputs: predictions, float (B,).
        labels: float (B,).
        params: the fact `target_std`, so that one learning rate suits targets of any unit.

    Returns:
        Scalar tensor.
    """
    return F.mse_loss(outputs / params.target_std, labels / params.target_std)


def rmse(outputs, labels):
    """Return the root of the mean squared error, in the unit of the target.

    Args:
        outputs: predictions for all rows of a split, array (N,).
        labels: array (N,).

    Returns:
        float, 0 or more.
    """
    return np.sqrt(np.mean((outputs - labels) ** 2))


def mae(outputs, labels):
    """Return the mean absolute error, in the unit of the target; outliers matter less than in `rmse`."""
    return np.mean(np.abs(outputs - labels))


def r2(outputs, labels):
    """Return the coefficient of determination: 1 is perfect, 0 no better than the mean of `labels`.

    It is undefined (NaN) if all labels are the same.
    """
    variance = np.var(labels, dtype=np.float64)
    return 1 - np.mean((outputs - labels) ** 2, dtype=np.float64) / variance if variance > 0 else np.nan


metrics = {
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
}
