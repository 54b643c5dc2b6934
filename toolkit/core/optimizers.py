"""The optimizer that params.json names, and torch's optimizers without the compiler that they would import."""

import functools
import inspect
from typing import Any

import torch

from utils import UserError, similar

TAKE_SPARSE = ("SGD", "Adagrad", "SparseAdam")  # gradients


def optimizer_of(model, params):
    """Return the optimizer of torch.optim that `params.optimizer` names, for the trainable parameters of `model`.

    It gets `params.learning_rate`, `params.optimizer_arguments` and `params.weight_decay`; parameters with fewer than
    two dimensions (biases, weights of normalisation layers) have no weight decay. Where torch can, it is fused: one
    kernel updates all parameters, with results that differ by rounding.

    Raises:
        UserError: there is no such optimizer, or it does not take these arguments.
    """
    kind = getattr(torch.optim, params.optimizer, None)
    if not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer) or kind is torch.optim.Optimizer:
        names = [name for name, value in vars(torch.optim).items() if isinstance(value, type) and name != "Optimizer"]
        near = similar(params.optimizer, names)
        advice = f"did you mean {near}?" if near else f"torch.optim has {', '.join(sorted(names))}"
        raise UserError(f"params.json: optimizer is {params.optimizer!r}; {advice}")
    arguments = {"lr": params.learning_rate} | params.optimizer_arguments
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    if params.weight_decay:
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
        decays = [(matrices, params.weight_decay), (vectors, 0.0)]
        groups = [{"params": group, "weight_decay": decay} for group, decay in decays if group]
    takes, is_sparse = inspect.signature(kind).parameters, any(getattr(m, "sparse", 0) is True for m in model.modules())
    if is_sparse and params.optimizer not in TAKE_SPARSE:
        raise UserError(
            f"params.json: optimizer {params.optimizer} does not take the sparse gradients of "
            f"nn.Embedding(sparse=True); choose one of {', '.join(TAKE_SPARSE)}, or leave out sparse=True"
        )
    can_fuse = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in trained)
    is_chosen = {"fused", "foreach", "differentiable"} & arguments.keys()
    if "fused" in takes and can_fuse and not is_sparse and not is_chosen:
        arguments["fused"] = True
    try:
        optimizer = kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"params.json: torch.optim.{params.optimizer} refuses its arguments: {error}") from None
    refuse_closure(optimizer, "params.json")
    return optimizer


def refuse_closure(optimizer, file):
    """Raise UserError if an optimizer, chosen in `file`, computes the loss several times a step, as LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"{file}: optimizer {type(optimizer).__name__} computes the loss several times a step, which the training "
            f"loop does not do; choose another one"
        )


def without_compiler():
    """Keep torch.optim from importing `torch._dynamo`, which takes as long as importing torch itself.

    Some methods of optimizers are wrapped by torch._disable_dynamo, which imports it at the first call and has no
    effect without torch.compile, and `step` by a function that does so at each call. The wrappers are replaced by the
    methods themselves. If a version of torch has no such wrappers, nothing is changed.
    """
    for method in vars(torch.optim.Optimizer).values():
        if imports_compiler(method):
            setattr(method.__wrapped__, "__dynamo_disable", method.__wrapped__)
    optimizer: Any
    for optimizer in vars(torch.optim).values():
        if isinstance(optimizer, type) and imports_compiler(vars(optimizer).get("step")):
            optimizer.step = plain_step(vars(optimizer)["step"].__wrapped__)


def imports_compiler(function):
    """Return True if a function is one of torch's wrappers that import `torch._dynamo` when they are called."""
    code = getattr(function, "__code__", None)
    return hasattr(function, "__wrapped__") and code is not None and "_dynamo" in code.co_names


def plain_step(step):
    """Return the method `step` of an optimizer, recording gradients only for a differentiable one, as torch does."""

    @functools.wraps(step)
    def wrapper(self, *args, **kwargs):
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return wrapper
