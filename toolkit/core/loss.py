"""The loss of a task, checked, for each form that `loss_fn` in net.py may have."""

import torch

from toolkit.core.metrics import takes_params
from toolkit.core.trees import describe
from utils import UserError


class Loss:
    """The loss of a task, called with (outputs, labels); returns a scalar tensor.

    If the user's function has a third argument, it gets `params`. If it returns a dict, its entry "loss" is returned
    and the others become the attribute `parts` of that tensor (a dict from name to scalar tensor), which are logged.
    `fn` is the user's function or nn.Module, and `file` is where it is defined, for messages.
    """

    def __init__(self, fn, params, file):
        self.fn, self.file, self.extra = fn, file, [params] if takes_params(fn) else []
        self.module = fn if isinstance(fn, torch.nn.Module) and fn.state_dict() else None  # None: no state to save

    def __call__(self, outputs, labels):
        loss, parts = self.fn(outputs, labels, *self.extra), None
        if isinstance(loss, dict):
            if "loss" not in loss:
                raise UserError(
                    f'{self.file}: loss_fn returned a dict without "loss", the entry to minimise: {list(loss)}'
                )
            parts = {name: torch.as_tensor(value).detach() for name, value in loss.items() if name != "loss"}
            loss = loss["loss"]
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            raise UserError(
                f"{self.file}: loss_fn must return a scalar tensor (a mean over the batch), not {describe(loss)}"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise UserError(f"{self.file}: the loss has no gradient: compute it from the outputs with torch alone")
        if parts is not None:
            loss.parts = parts
        return loss

    @property
    def stateful(self):
        """The parts that a checkpoint should hold, a dict from name to object."""
        return {"loss": self.module} if self.module is not None else {}
