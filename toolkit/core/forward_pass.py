"""The forward pass that training, evaluation and the tools share, and the precision that it is computed in."""

import contextlib
import os

import torch

from toolkit.core.explanations import explain_forward, explain_loss

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
inference_mode = torch.inference_mode  # for evaluate.py, which so need not import torch itself


def forward_pass(model, loss_fn, inputs, labels, precision):
    """Return the outputs and the loss of a batch.

    Args:
        model: nn.Module, or its DDP wrapper.
        loss_fn: function of (outputs, labels) that returns a scalar tensor; None for inputs without labels.
        inputs, labels: the batch, on the model's device.
        precision: the context that `autocast` returns.

    Returns:
        (outputs, loss): what the model returns, and a scalar tensor, or None without a loss_fn.

    Raises:
        UserError: shapes, types or labels do not fit together; any other error of the user's code is raised as it is.
    """
    with precision:
        try:
            outputs = model(inputs)
        except Exception as error:
            explain_forward(error, model, inputs)
            raise
        loss_fn = getattr(loss_fn, "checked", None) or loss_fn
        try:
            loss = None if loss_fn is None else loss_fn(outputs, labels)
        except Exception as error:
            explain_loss(error, model, outputs, labels)
            raise
    return outputs, loss


def autocast(params, model):
    """Return the context in which a forward pass of `model` is computed, as `params.precision` says.

    "fp32": everything in the precision of the weights. "bf16", "fp16": matrix products and convolutions in bfloat16
    (the range of float32, 8 bits of precision) or float16 (11 bits, a small range), everything else in float32.
    "auto": bf16 on a GPU that supports it, else fp32.
    """
    device, precision = device_of(model).type, params.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.get_device_capability()[0] >= 8 else "fp32"
    return torch.autocast(device, dtype=HALF[precision]) if precision in HALF else contextlib.nullcontext()


def gradient_scaler(params, model):
    """Return the gradient scaler that fp16 needs, whose small gradients would become zero; disabled for the others."""
    return torch.amp.GradScaler(device_of(model).type, enabled=params.precision == "fp16")


def device_of(model):
    """Return the torch.device that the parameters of a model are on; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def set_arithmetic(params):
    """Let torch choose the fastest algorithms or, if `params.deterministic` is set, only reproducible ones."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible only with this
    if params.deterministic != torch.are_deterministic_algorithms_enabled():  # newer torch imports its compiler for it
        torch.use_deterministic_algorithms(params.deterministic)
    torch.backends.cudnn.benchmark = not params.deterministic
