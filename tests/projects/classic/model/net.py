"""A small sign classifier in the style of 2018: log-softmax outputs and a hand-written loss."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, params):
        super(Net, self).__init__()
        self.width = params.num_channels
        self.conv_a = nn.Conv2d(3, self.width, 3, stride=2, padding=1)
        self.norm_a = nn.BatchNorm2d(self.width)
        self.conv_b = nn.Conv2d(self.width, 2 * self.width, 3, stride=2, padding=1)
        self.norm_b = nn.BatchNorm2d(2 * self.width)
        self.hidden = nn.Linear(params.side // 16 * (params.side // 16) * 2 * self.width, params.hidden_units)
        self.hidden_norm = nn.BatchNorm1d(params.hidden_units)
        self.out = nn.Linear(params.hidden_units, params.signs)
        self.dropout_rate = params.dropout_rate

    def forward(self, s):
        s = F.max_pool2d(F.relu(self.norm_a(self.conv_a(s))), 2)
        s = F.max_pool2d(F.relu(self.norm_b(self.conv_b(s))), 2)
        s = s.view(s.size(0), -1)
        s = F.dropout(F.relu(self.hidden_norm(self.hidden(s))), p=self.dropout_rate, training=self.training)
        return F.log_softmax(self.out(s), dim=1)


def loss_fn(outputs, labels):
    count = outputs.size()[0]
    picked = outputs[torch.arange(count), labels]
    return -picked.sum() / count


def accuracy(outputs, labels):
    return (np.argmax(outputs, axis=1) == labels).sum() / float(labels.size)


metrics = {"accuracy": accuracy}
