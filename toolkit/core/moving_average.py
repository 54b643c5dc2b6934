"""A moving average of a model's weights, which evaluates better than the weights that the last steps moved."""

import contextlib

import torch

from toolkit.core.sharded_tensors import divided_like, local


class MovingAverage:
    """The exponential moving average of all that a model has in floating point, its parameters and buffers.

    In the first steps it forgets faster, so that the random weights of the beginning do not stay in it: the decay is at
    most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
        model: the nn.Module.
        decay: what stays of the average at each step, in [0, 1); 0: there is none, and nothing is done.
    """

    def __init__(self, model, decay):
        self.decay = decay
        named = [*model.named_parameters(), *model.named_buffers()] if decay else []
        self.current = {name: tensor for name, tensor in named if tensor.is_floating_point()}
        self.begin()

    def begin(self):
        """Begin with the weights that the model has now."""
        self.kept = {name: tensor.detach().clone() for name, tensor in self.current.items()}  # or, swapped, the weights

    @torch.no_grad()
    def update(self, step):
        """Take in the weights after a step, the number of which is given, from 1."""
        if self.current:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._here(self.kept), self._here(self.current), weight)

    @staticmethod
    def _here(tensors):
        return [local(tensor.detach()) for tensor in tensors.values()]  # FSDP may replace them at any time

    @contextlib.contextmanager
    def in_place(self):
        """Within this context the model has the averaged weights, and its own ones are kept here."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self):
        """Exchange the weights of the model and those that are kept here."""
        for one, other in zip(self._here(self.kept), self._here(self.current), strict=True):
            own = one.clone()
            one.copy_(other)
            other.copy_(own)

    def state_dict(self):
        """The weights that are kept here, by name."""
        return self.kept

    def load_state_dict(self, state):
        """Take the weights that `state_dict` gave."""
        for name, tensor in self.kept.items():
            tensor.copy_(divided_like(state[name], tensor))
