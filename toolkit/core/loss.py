"""The loss of a task, checked, for each form that `loss_fn` in net.py may have."""

import functools
import inspect

import torch

from toolkit.core.metrics import takes_params
from toolkit.core.trees import describe
from utils import UserError


class Loss:
    """The loss of a task, called with (outputs, labels); returns a scalar tensor.

    If the user's function has a third argument, it gets `params`. If it returns a dict, its entry "loss" is returned
    and the others become the attribute `parts` of that tensor (a dict from name to scalar tensor), which are logged.
    `fn` is the user's function or nn.Module, and `file` is where it is defined, for messages.

    Attributes:
        module: the user's nn.Module, if it has a state to save; else None.
        checked: None, or the user's function once its result was a tensor that passed the checks: `forward_pass` calls
            it directly from then on.
    """

    def __init__(self, fn, params, file):
        self.fn, self.file, self.checked = fn, file, None
        self.module = fn if isinstance(fn, torch.nn.Module) and fn.state_dict() else None
        if takes_params(fn):
            self.fn = functools.partial(fn, **{list(inspect.signature(fn).parameters)[2]: params})

    def __call__(self, outputs, labels):
        found = self.fn(outputs, labels)
        if isinstance(found, dict) and "loss" not in found:
            raise UserError(f'{self.file}: loss_fn returned a dict without "loss": {list(found)}')
        loss = found["loss"] if isinstance(found, dict) else found
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            raise UserError(
                f"{self.file}: loss_fn must return a scalar tensor (a mean over the batch), not {describe(loss)}"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise UserError(f"{self.file}: the loss has no gradient: compute it from the outputs with torch alone")
        if isinstance(found, dict):
            loss.parts = {name: torch.as_tensor(value).detach() for name, value in found.items() if name != "loss"}
        elif loss.requires_grad:
            self.checked = self.fn
        return loss

    @property
    def stateful(self):
        """The parts that a checkpoint should hold, a dict from name to object."""
        return {"loss": self.module} if self.module is not None else {}
