import numpy as np
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        self.body = nn.Linear(13, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):  # (B, 13)
        return self.head(F.relu(self.body(x)))  # (B, 3)


def loss_fn(outputs, labels):
    return F.cross_entropy(outputs, labels)


def accuracy(outputs, labels):  # arrays of the whole split: (N, 3), (N,)
    return np.mean(outputs.argmax(axis=1) == labels)


metrics = {"accuracy": accuracy}
