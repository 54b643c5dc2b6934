"""An exponential moving average (EMA) of a model's weights, which often evaluates better than the latest weights."""

import contextlib

import torch

from toolkit.core.sharded_tensors import divided_like, local


class MovingAverage:
    """The exponential moving average of all floating-point parameters and buffers of a model.

    During the first steps it forgets faster, so that the random initial weights do not stay in it: the decay is at most
    (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.

    Args:
        model: nn.Module.
        decay: weight of the previous average at each step, in [0, 1). With 0 there is no average, and nothing is done.

    Attributes:
        kept: dict from name to tensor, the average; while it is swapped into the model, the model's own weights.
    """

    def __init__(self, model, decay):
        self.decay = decay
        named = [*model.named_parameters(), *model.named_buffers()] if decay else []
        self.current = {name: tensor for name, tensor in named if tensor.is_floating_point()}
        self.start()

    def start(self):
        """Start with the weights that the model has now."""
        self.kept = {name: tensor.detach().clone() for name, tensor in self.current.items()}

    @torch.no_grad()
    def update(self, step):
        """Add the weights after optimizer step number `step` (from 1) of the run."""
        if self.current:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._local(self.kept), self._local(self.current), weight)

    @staticmethod
    def _local(tensors):
        return [local(tensor.detach()) for tensor in tensors.values()]  # each time, for FSDP may replace them

    @contextlib.contextmanager
    def in_place(self):
        """Give the model the averaged weights within this context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self):
        """Swap the model's weights with those in `kept`."""
        for kept, current in zip(self._local(self.kept), self._local(self.current), strict=True):
            own = kept.clone()
            kept.copy_(current)
            current.copy_(own)

    def state_dict(self):
        """Return the weights in `kept`, a dict from name to tensor."""
        return self.kept

    def load_state_dict(self, state):
        """Load what `state_dict` returned."""
        for name, tensor in self.kept.items():
            tensor.copy_(divided_like(state[name], tensor))
