"""One line for a common mistake in the user's own Net or loss_fn: where, the shapes, and what to do."""

import re

import torch

from toolkit.core.memory import MESSAGES
from toolkit.core.trees import tensors
from toolkit.core.user_code import check_call, place_of, place_of_definition
from utils import UserError

CURES = [  # what torch says, and what to do
    (r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", "; the layer gets {0} features, not {1}: Linear({0}, ...)"),
    (r"to have (\d+) channels, but got (\d+) channels", "; the layer gets {1} channels, not {0}: Conv2d({1}, ...)"),
    (r"running_mean should contain (\d+) elements not (\d+)", "; the layer gets {0} channels, not {1}: BatchNorm({0})"),
    (r"Given normalized_shape=\[(.+?)\].* size ?\[.*?(\d+)\]", "; the layer was made for {0} features and gets {1}"),
    (r"shape '.+' is invalid for input of size|view size is not compatible", "; x.flatten(1) keeps the samples apart"),
    (r"index out of range in self", "; an index is negative or not below num_embeddings of nn.Embedding"),
    (r"Expected \dD|Expected (\d|more than).*(input|dimension)|input size", ""),
    (r"same device|on (the )?cuda", "; make new tensors in forward on the inputs' device: device=x.device"),
    (r"device-side assert", "; an index is out of range: a label, or a token of nn.Embedding; try --device cpu"),
    (r"(must|to) match|[Ss]izes? of|size mismatch|shapes?\b|[Dd]imension", ""),
]  # fmt: skip
DTYPES = r"same dtype|should be the same|scalar type|dtype|can't be cast|not implemented for '"


def explain_forward(error, model, inputs):
    """Raise UserError with one line if `error`, raised by `model(inputs)`, is a known mistake; otherwise return."""
    forward = getattr(model, "module", model).forward  # inside of a DDP wrapper
    if isinstance(error, TypeError | NotImplementedError) and place_of(error) is None:
        check_call(forward, "forward(inputs)")  # nn.Module's own takes anything
        if "forward" not in vars(type(model)):
            raise UserError(f"{place_of_definition(type(model))}: there is no forward(self, inputs) in this class")
    if (cure := cure_for(error)) is None:
        return
    if re.search(DTYPES, str(error)):
        is_double = any(tensor.dtype == torch.float64 for tensor in tensors(inputs))
        way = "with .float() in data_loader.py (or .astype(np.float32))" if is_double else "in forward: x.float()"
        cure = f"; the weights are float32: convert the inputs {way}"
    place = place_of(error) or place_of_definition(forward)
    raise UserError(f"{place}: {first_line(error)}{cure} (inputs: {describe_all(inputs)})")


def explain_loss(error, model, outputs, labels):
    """Raise UserError with one line if `error`, raised by the loss, is a known mistake; otherwise return."""
    if isinstance(error, UserError):
        return
    if outputs is None:
        place = place_of_definition(getattr(model, "module", model).forward)
        raise UserError(f"{place}: forward returned None; end it with: return <outputs>") from None
    place, cure = place_of(error) or "loss_fn", cure_for(error)
    if problem := labels_out_of_range(outputs, labels):
        raise UserError(f"{place}: {problem}") from None
    if cure is None:
        return
    shapes = [tuple(tensor.shape) for tensor in (*tensors(outputs), *tensors(labels))]
    if re.search(DTYPES, str(error)):
        are_classes = len(shapes) == 2 and len(shapes[0]) == len(shapes[1]) + 1
        cure = f"; loss_fn needs labels of another type: labels.{'long' if are_classes else 'float'}()"
    elif len(shapes) == 2 and shapes[0] == (*shapes[1], 1):
        cure = "; give both one shape: outputs.squeeze(-1)"
    found = f"outputs: {describe_all(outputs)}; labels: {describe_all(labels)}"
    raise UserError(f"{place}: {first_line(error)}{cure} ({found})") from None


def explain_backward(error):
    """Raise UserError with one line if `error`, raised by `loss.backward()`, is a known mistake; otherwise return."""
    if "inplace operation" in str(error):
        cause = "forward changes a tensor in place that gradients need"
        cause += ": write x = x + y for x += y, and for x[i] = y a copy"
    elif "backward through the graph a second time" in str(error):
        cause = "Net keeps a tensor of the batch before: keep hidden.detach()"
    else:
        return
    raise UserError(f"model/net.py: no gradients can be computed: {cause} ({first_line(error)})") from None


def labels_out_of_range(outputs, labels):
    """Return one line if integer labels (N, ...) are no classes of outputs (N, C, ...), else None; -100 is padding."""
    if not isinstance(labels, torch.Tensor) or not isinstance(outputs, torch.Tensor) or outputs.ndim != labels.ndim + 1:
        return None
    if labels.is_floating_point() or labels.dtype == torch.bool or not (real := labels[labels != -100]).numel():
        return None
    low, high, classes = real.min().item(), real.max().item(), outputs.shape[1]
    if low >= 0 and high < classes:
        return None
    if low >= 1 and high == classes:
        cure = "count the classes from 0: labels - 1"
    else:
        cure = f"give Net {high + 1} outputs, or correct the labels" if low >= 0 else "labels begin with 0"
    sample = int(((labels < 0) & (labels != -100) | (labels >= classes)).flatten().nonzero()[0])
    found = f"the labels of the batch are {low} to {high} (label {sample} of it is {labels.flatten()[sample].item()})"
    return f"{found}, but the model has outputs for {classes} classes, 0 to {classes - 1}; {cure}"


def cure_for(error):
    """Return what to do about an exception of torch's about shapes, types or devices, perhaps ""; None for others."""
    if not isinstance(error, RuntimeError | ValueError | IndexError) or any(said in str(error) for said in MESSAGES):
        return None
    found = ((re.search(said, str(error)), cure) for said, cure in [*CURES, (DTYPES, "")])
    return next((cure.format(*match.groups()) for match, cure in found if match), None)


def first_line(error):
    """Return the first line of an exception's message, without a full stop at its end."""
    return str(error).split("\n")[0].strip().rstrip(".") or type(error).__name__


def describe_all(tree):
    """Return the types and shapes of all tensors of a batch, as text: "float32 (64, 1, 8, 8)"."""
    found = [f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in tensors(tree)]
    return ", ".join(found[:4]) or type(tree).__name__
