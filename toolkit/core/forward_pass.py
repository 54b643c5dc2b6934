"""The forward pass that training, evaluation, preflight, verification and prediction share."""

import torch

from toolkit.core.precision import autocast

inference_mode = torch.inference_mode  # so that scripts need not import torch, which is slow, for this alone


def forward_pass(model, loss_fn, inputs, labels, params):
    """Return the outputs and the loss of a batch, computed in the precision that params.json asks for.

    Args:
        model: nn.Module, or its DDP wrapper.
        loss_fn: function of (outputs, labels) that returns a scalar tensor.
        inputs, labels: the batch, on the model's device.
        params: hyperparameters; `precision` is read.

    Returns:
        (outputs, loss): what the model returns, and a scalar tensor.
    """
    with autocast(params, model):
        outputs = model(inputs)
        loss = loss_fn(outputs, labels)
    return outputs, loss


def model_outputs(model, inputs, params):
    """Return the outputs of a model for a batch without labels; arguments as for `forward_pass`."""
    with autocast(params, model):
        return model(inputs)
