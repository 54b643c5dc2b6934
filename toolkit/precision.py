"""The precision that a model computes in."""

import contextlib

import torch


def precision_of(params, model):
    """A context, to be entered for each step, in which `model` computes as `params.precision` says.

    "float32": as the layers are. "bf16": matrix products and convolutions in bfloat16, which has the range of float32
    and 8 bits of precision, the rest, the weights and the loss in float32 (torch's autocast).
    """
    if getattr(params, "precision", "float32") == "float32":
        return contextlib.nullcontext()
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.autocast(device, dtype=torch.bfloat16)
