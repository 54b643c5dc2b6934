"""Regression: numbers in, one number out. Hyperparameters, network, loss, optimizer and metrics."""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

import utils


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that `model/` reads. A key need not stand here: this adds a type, bounds, a default."""

    batch_size: int | None = Field(  # type: ignore[assignment]  # of the others, it is never None
        None, ge=1, description="rows in one optimizer step; null: all of the split"
    )
    passes_per_epoch: int = Field(1, ge=1, description="how often an epoch goes over the train split")
    hidden_size: int = Field(512, ge=1, description="units of the hidden layer")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that the optimizer adds to the next")
    weight_decay: float = Field(0, ge=0, description="pull of the weights towards zero")
    num_folds: int = Field(0, ge=0, le=1000, description="cross-validation: parts that train and val are cut into")
    fold: int = Field(0, ge=0, description="cross-validation: the part that is val, from 0; the others are train")


class Net(nn.Module):
    """One hidden layer with tanh. Takes and gives numbers in their own units, and standardises them within.

    Args:
        params: `hidden_size`; from the dataset `num_inputs`, and of the train split `mean` and `std` (one number an
            input), `target_mean` and `target_std`.
    """

    def __init__(self, params):
        super().__init__()
        self.register_buffer("mean", torch.tensor(params.mean))  # (num_inputs,)
        self.register_buffer("std", torch.tensor(params.std))  # (num_inputs,)
        self.register_buffer("target_mean", torch.tensor(params.target_mean))
        self.register_buffer("target_std", torch.tensor(params.target_std))
        self.layers = nn.Sequential(
            nn.Linear(params.num_inputs, params.hidden_size),
            nn.Tanh(),
            nn.Linear(params.hidden_size, 1),
        )

    def forward(self, inputs):
        """Rows of inputs, float (B, num_inputs), to predictions, float (B,)."""
        x = self.layers((inputs - self.mean) / self.std)  # (B, 1)
        return x.squeeze(1) * self.target_std + self.target_mean  # (B,)


def make_optimizer(model, params):
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        model.parameters(), lr=params.learning_rate, momentum=params.momentum, weight_decay=params.weight_decay
    )


def loss_fn(outputs, labels, params):
    """Mean squared error over the batch, in standard deviations of the target: 1 is as bad as always saying the mean.

    Args:
        outputs: predictions, float (B,).
        labels: float (B,).
        params: the fact `target_std`, so that one learning rate suits targets of any unit.

    Returns:
        Scalar tensor.
    """
    return F.mse_loss(outputs / params.target_std, labels / params.target_std)


def rmse(outputs, labels):
    """Root of the mean squared error, in the target's unit.

    Args:
        outputs: predictions for all rows of a split, array (N,).
        labels: array (N,).

    Returns:
        float, 0 or more.
    """
    return np.sqrt(np.mean((outputs - labels) ** 2))


def mae(outputs, labels):
    """Mean absolute error, in the target's unit; outliers count less than in `rmse`. Arguments as there."""
    return np.mean(np.abs(outputs - labels))


def r2(outputs, labels):
    """Coefficient of determination: 1 is perfect, 0 no better than the mean of `labels`. Arguments as for `rmse`.

    It is not defined (NaN) where all labels are the same.
    """
    variance = np.var(labels, dtype=np.float64)
    return 1 - np.mean((outputs - labels) ** 2, dtype=np.float64) / variance if variance > 0 else np.nan


metrics = {
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
}
