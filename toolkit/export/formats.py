"""Capture a model as a program, and write it in a format that other programs can run.

A debt: `torch.export._patches` is private. Without it, model.pt2 of an LSTM or GRU takes sequences of one length only.
"""

import contextlib
import io
import json
import logging
import warnings

import torch

from toolkit.core.text import one_line
from toolkit.core.trees import tensors, tree_cat, tree_map
from toolkit.core.user_code import place_of
from utils import UserError

no_grad = torch.no_grad  # so that export.py imports the core, which sets how threads wait, before torch


def capture(model, batches):
    """Return the model as a program of torch.export, and the names of its dynamic dimensions, one dict per input.

    The first dimension of an input is dynamic, and so are those that differ between the inputs in `batches`. Dimensions
    that are equal to each other in all batches share a name; the first dimension of the first input is "batch".
    """
    known, names = {}, []  # known: from the sizes of a dimension in all batches to its name
    for same_tensor in zip(*map(tensors, batches), strict=True):
        sizes = list(zip(*(tensor.shape for tensor in same_tensor), strict=True))  # for each dimension, in all batches
        dynamic = {dim: seen for dim, seen in enumerate(sizes) if dim == 0 or len(set(seen)) > 1}
        names.append({d: known.setdefault(s, f"size_{len(known)}" if known else "batch") for d, s in dynamic.items()})
    example = max(batches, key=lambda batch: sum(tensor.numel() for tensor in tensors(batch)))
    if tensors(example)[0].shape[:1] == (1,):  # torch.export takes a size of 1 for a constant
        example = tree_cat([example, example])
    automatic = iter([dict.fromkeys(dims, torch.export.Dim.AUTO) for dims in names])
    shapes = (tree_map(lambda _: next(automatic), example),)
    advice = "in forward(), use torch functions only, and no Python that depends on the values in a tensor"
    with one_line_errors("this model", advice), contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):  # an older torch has no such loops
            from torch.export import _patches

            for kind in ("lstm", "gru"):  # as loops over time, as in torch's ONNX exporter
                stack.enter_context(getattr(_patches, f"register_{kind}_while_loop_decomposition")())
        return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False), names


def to_torch(program, names, metadata):
    """Return a program as the bytes of a .pt2 file, and a function that runs them.

    `names` are the dynamic dimensions that `capture` returned; the file contains the dict `metadata`.
    """
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, indent=2)})
    file.seek(0)
    return file.getbuffer(), torch.export.load(file).module()


def to_onnx(program, names, metadata):
    """Return a program as the bytes of an ONNX file, and a function that runs them; arguments as for `to_torch`."""
    import onnx
    import onnxruntime

    exported = torch.onnx.export(program, dynamo=True, verbose=False, dynamic_shapes=names)
    assert exported is not None  # it is None only without dynamo
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in metadata.items()})
    content = proto.SerializeToString()
    onnxruntime.set_default_logger_severity(4)  # errors are raised as well
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs):
        arrays = [tensor.numpy() for tensor in tensors(inputs)]
        feed = {given.name: array for given, array in zip(session.get_inputs(), arrays, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return content, run


FORMATS = {  # name of the file, function that writes it, advice if that fails
    "torch": ("model.pt2", to_torch, "try --format onnx"),
    "onnx": ("model.onnx", to_onnx, "try --format torch, or the version of onnxscript that fits this torch"),
}


@contextlib.contextmanager
def one_line_errors(name, advice):
    """Silence the exporters, and turn each of their errors into a UserError of one line about `name`."""
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(out),
        ):
            yield
    except UserError:
        raise
    except Exception as error:  # torch, onnxscript and onnxruntime raise errors of all kinds
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(f"{name} needs {cause.name}: pip install {cause.name}") from None
        place = f" at {place_of(error)}" if place_of(error) else ""
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise UserError(f"{name} cannot be exported{place}: {reason}; {advice}") from None
    finally:
        logging.disable(logging.NOTSET)
