"""The default optimizer, and torch's optimizers without the compiler that they would import."""

import functools

import torch


def adam(model, params):
    """Adam at `params.learning_rate` of the parameters that are trained, fused (one kernel for all) where torch can.

    On CPU, CUDA and MPS, for floating-point parameters; the numbers differ from the plain one's by rounding.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    can_fuse = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in trainable)
    return torch.optim.Adam(trainable, lr=params.learning_rate, fused=can_fuse)


def without_compiler():
    """Keep `torch.optim` from importing `torch._dynamo`, which takes as long as torch itself, for nothing.

    It does so to tell torch.compile to leave some of its functions alone; without torch.compile that says nothing.
    What is called is the same function without that wrapping; where a torch is made otherwise, nothing is changed.
    """
    base = torch.optim.Optimizer
    for method in vars(base).values():
        if imports_compiler(method):
            setattr(method.__wrapped__, "__dynamo_disable", method.__wrapped__)
    for optimizer in [value for value in vars(torch.optim).values() if isinstance(value, type)]:
        if issubclass(optimizer, base) and imports_compiler(vars(optimizer).get("step")):
            optimizer.step = plain_step(optimizer.step)


def imports_compiler(function):
    """Whether a function is one of torch's wrappers that import `torch._dynamo` when they are called."""
    code = getattr(function, "__code__", None)
    return hasattr(function, "__wrapped__") and code is not None and "_dynamo" in code.co_names


def plain_step(step):
    """An optimizer's `step` as torch runs it where nothing is compiled."""

    @functools.wraps(step)
    def wrapper(self, *args, **kwargs):
        if torch.compiler.is_compiling():
            return step(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step.__wrapped__(self, *args, **kwargs)

    return wrapper
