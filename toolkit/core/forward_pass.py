"""The forward pass that training, evaluation and the tools share, and the precision that it is computed in."""

import contextlib
import os
from collections.abc import Mapping

import torch

from toolkit.core.explanations import explain_forward, explain_loss
from toolkit.core.trees import tensors

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
inference_mode = torch.inference_mode  # so that evaluate.py need not import torch itself


def forward_pass(model, loss_fn, inputs, labels, precision):
    """Return the outputs and the loss of a batch.

    Args:
        model: nn.Module, or its DDP wrapper.
        loss_fn: function of (outputs, labels) that returns a scalar tensor; None for inputs without labels.
        inputs, labels: the batch, on the model's device.
        precision: the context that `autocast` returns.

    Returns:
        (outputs, loss): what the model returns, and a scalar tensor, or None without a loss_fn. If the loss is the mean
        over something else than samples, the number is its attribute `num_counted`, see `count_labels`.

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
    if loss is not None and may_hold_padding(labels):
        loss = with_count(loss, outputs, labels)
    return outputs, loss


def may_hold_padding(labels):
    """Return False if every label counts, as in most tasks: there is one label per sample, and none is negative."""
    if not isinstance(labels, torch.Tensor) or labels.ndim > 1:
        return True
    is_integer = labels.ndim == 1 and labels.dtype == torch.int64 and len(labels) > 0
    return is_integer and (labels.is_cuda or labels.min().item() < 0)  # on a GPU, reading it would stop the computation


def with_count(loss, outputs, labels):
    """Return the loss with its attribute `num_counted`, if the labels say what it is the mean over.

    If no label counts, loss and gradients are 0, where a mean over nothing would be NaN.
    """
    count, parts = count_labels(outputs, labels), getattr(loss, "parts", {})
    if count is None:
        return loss
    if count.is_cuda or not count:  # on a GPU, reading the count would stop the computation
        for output in tensors(outputs):
            if output.requires_grad:
                output.register_hook(lambda gradient: torch.where(count > 0, gradient, 0))
        loss = torch.where(count > 0, loss, 0)
    loss.num_counted, loss.parts = count, parts
    return loss


def count_labels(outputs, labels):
    """Return the number of labels that the loss is the mean over, a scalar tensor; None if it is a mean over samples.

    Labels are classes if the outputs have C > 1 scores for each: (N, T, C), (N, C, T) or one row per label for labels
    (N, T), with any further dimensions. Those that are not one of 0 to C - 1 are padding: -100 (`ignore_index` of
    torch), -1 (CS230's code), 255 (masks of images). Other labels are targets, whatever their values are.
    """
    table = next(iter(tensors(labels)), None)
    if table is None or table.ndim == 0:
        return None
    if table.dtype not in (torch.int64, torch.int32, torch.uint8):  # of a dict: one row per word, next to the lengths
        may_be_rows = isinstance(labels, Mapping) and isinstance(outputs, torch.Tensor)
        return torch.tensor(len(table)) if may_be_rows and outputs.shape[:1] == table.shape[:1] else None
    for scores in tensors(outputs):
        if scores.shape == table.shape:
            return None
        if scores.shape[:-1] == table.shape or (scores.ndim == 2 and len(scores) == table.numel()):
            num_classes = scores.shape[-1]
        elif scores.ndim == table.ndim + 1 and scores.shape[:1] + scores.shape[2:] == table.shape:
            num_classes = scores.shape[1]
        else:
            continue
        return ((table >= 0) & (table < num_classes)).sum() if num_classes > 1 else None
    return None


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
