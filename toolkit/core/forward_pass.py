"""The forward pass that training, evaluation and the tools share."""

from toolkit.core.precision import autocast


def forward_pass(model, loss_fn, inputs, labels, params):
    """Return (outputs, loss) of a batch, computed in the precision that `params.precision` asks for."""
    with autocast(params, model):
        outputs = model(inputs)
        loss = loss_fn(outputs, labels)
    return outputs, loss
