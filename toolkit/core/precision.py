"""The arithmetic that a model computes in."""

import contextlib
import os

import torch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(params, model):
    """A context, to be entered for each step, in which `model` computes as `params.precision` says.

    "fp32": as the layers are. "bf16" and "fp16": matrix products and convolutions in bfloat16 (the range of float32,
    8 bits of precision) or float16 (11 bits, a small range), the rest, the weights and the loss in float32 (torch's
    autocast). "auto": bf16 on a GPU that computes in it, else fp32.
    """
    device, precision = device_type(model), params.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.get_device_capability()[0] >= 8 else "fp32"
    return torch.autocast(device, dtype=HALF[precision]) if precision in HALF else contextlib.nullcontext()


def scaler_of(params, model):
    """The gradient scaler that fp16 needs, whose small gradients would be zero; one that does nothing otherwise."""
    return torch.amp.GradScaler(device_type(model), enabled=params.precision == "fp16")


def device_type(model):
    """The kind of device that a model is on: "cpu", "cuda", "mps"."""
    return next((p.device.type for p in model.parameters()), "cpu")


def set_arithmetic(params):
    """Let torch take the fastest algorithms, or, as `params.deterministic` says, only those that repeat their bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to repeat them
    if params.deterministic != torch.are_deterministic_algorithms_enabled():  # newer torch imports its compiler for it
        torch.use_deterministic_algorithms(params.deterministic)
    torch.backends.cudnn.benchmark = not params.deterministic
