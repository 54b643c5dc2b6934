"""What export.py needs: a model in other formats, and real inputs to compare them on."""

import contextlib
import importlib.util
import io
import itertools
import json
import logging
import warnings

import torch

from toolkit.trees import batch_size, tensors, tree_cat, tree_map
from utils import UserError

USUAL, OTHERS = 1000, ((1, 8), (7, 56))  # samples in batches of params.json's size; other sizes, and samples in those
TOLERANCE = 1e-3  # of the largest value of an output; what another order of the same sums in float32 makes is far less


def real_inputs(task, split, data_dir, params):
    """Inputs of the model from a split, a list of batches of several sizes, spread over the split."""
    batches, usual = [], params.batch_size
    for size, samples in ((usual, USUAL), *OTHERS):
        params.batch_size = size
        loader = task.fetch_dataloader([split], data_dir, params)[split]
        step = -(-len(loader) // max(1, samples // (size or samples)))
        batches += [inputs for inputs, _ in itertools.islice(loader, 0, None, step)]
    params.batch_size = usual
    return batches


def capture(model, batches):
    """The program of a model by torch.export, for inputs of any size where they differ in size, and in any number.

    Args:
        model: the nn.Module, in evaluation mode, on the CPU.
        batches: what `real_inputs` gave.

    Returns:
        program: the ExportedProgram.
        dims: for each tensor of the inputs a dict from the dimensions that are free to their names. What has the same
            size in all batches has the same name; "batch" for the first dimension of the first tensor.

    Raises:
        UserError: torch.export cannot follow what the model does.
    """
    names, dims = {}, []
    for same_tensor in zip(*map(tensors, batches), strict=True):
        sizes = list(zip(*(tensor.shape for tensor in same_tensor), strict=True))  # for each dimension those it has
        free = {dim: seen for dim, seen in enumerate(sizes) if dim == 0 or len(set(seen)) > 1}
        dims.append({d: names.setdefault(seen, f"size_{len(names)}" if names else "batch") for d, seen in free.items()})
    example = max(batches, key=lambda batch: sum(tensor.numel() for tensor in tensors(batch)))
    if batch_size(example) == 1:  # which torch.export takes for a constant
        example = tree_cat([example, example])
    automatic = iter([dict.fromkeys(names, torch.export.Dim.AUTO) for names in dims])
    dynamic_shapes = (tree_map(lambda _: next(automatic), example),)
    way_out = "in forward(), only functions of torch's, and no Python that asks what is in a tensor"
    with in_a_line("this model", way_out), quietly(), loops_over_time():
        return torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes, strict=False), dims


def to_torch(program, dims, metadata):
    """A program as the bytes of a .pt2 file, and a function of inputs that computes with what is in it.

    `metadata`, a dict, is the file metadata.json in it.
    """
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, indent=2)})
    file.seek(0)
    return file.getbuffer(), torch.export.load(file).module()


def to_onnx(program, dims, metadata):
    """A program as the bytes of a file of ONNX, and a function of inputs that lets onnxruntime compute with them.

    `metadata`, a dict, is its metadata_props, the values as JSON.
    """
    import onnx
    import onnxruntime

    proto = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    name_dims(proto.graph, dims)
    onnx.helper.set_model_props(proto, {name: json.dumps(value) for name, value in metadata.items()})
    content = proto.SerializeToString()
    onnxruntime.set_default_logger_severity(4)  # what fails raises an error, too
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs):
        arrays = [tensor.numpy() for tensor in tensors(inputs)]
        return [torch.from_numpy(array) for array in session.run(None, dict(zip(names, arrays, strict=True)))]

    return content, run


FORMATS = {"torch": ("model.pt2", to_torch, ()),
           "onnx": ("model.onnx", to_onnx, ("onnx", "onnxscript", "onnxruntime"))}  # fmt: skip


def check_packages(kind):
    """Make sure that the packages a format needs are installed.

    Raises:
        UserError: they are not.
    """
    missing = [package for package in FORMATS[kind][2] if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--format {kind} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def convert(kind, program, dims, metadata, model, batches):
    """A program in a format, and how its outputs on real inputs differ from the model's.

    Args:
        kind: one of FORMATS.
        program, dims: what `capture` gave.
        metadata: dict that the file is to hold.
        model, batches: as for `capture`.

    Returns:
        content: the bytes of the file.
        difference, largest: the largest absolute difference, and the largest absolute output of the model, floats;
            of several outputs, of the one that differs most for its size.
        same: the share of rows of which both have the largest output in the same place, or None: no such outputs.

    Raises:
        UserError: the format cannot hold it, or what comes of it computes something else.
    """
    name, exporter, packages = FORMATS[kind]
    way_out = "--format torch, or an onnxscript of the age of this torch" if packages else "--format onnx"
    with in_a_line(name, way_out), quietly():
        content, run = exporter(program, dims, metadata)
        return content, *compare(model, run, batches, name)


@contextlib.contextmanager
def in_a_line(what, way_out):
    """Say in one line that `what` cannot be exported where something fails in this context, and why.

    Raises:
        UserError: something failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch, onnxscript and onnxruntime raise errors of all kinds
        while error.__cause__ is not None:
            error = error.__cause__
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{what} cannot be exported: {type(error).__name__}: {reason}; what to try: {way_out}"
        ) from None


def compare(model, run, batches, name):
    """The last three of what `convert` returns, for `run`, the exported model as a function of inputs."""
    same = rows = 0
    found = [[0, 0] for _ in tensors(model(batches[0]))]  # difference and largest, of each output on its own
    for inputs in batches:
        pairs = list(zip(tensors(model(inputs)), tensors(run(inputs)), strict=True))
        for place, (ours, theirs) in enumerate(pairs):
            ours, theirs = ours.double(), theirs.double()
            apart = torch.where(ours == theirs, 0, (ours - theirs).abs())  # 0 where both are infinite
            size = torch.where(ours.isfinite(), ours.abs(), 0)
            seen = apart.nan_to_num(torch.inf).max().item(), size.max().item()
            found[place] = list(map(max, found[place], seen))
        ours, theirs = pairs[0]
        if ours.ndim > 1 and ours.shape[-1] > 1:
            matches = ours.argmax(-1) == theirs.argmax(-1)
            same, rows = same + matches.sum().item(), rows + matches.numel()
    difference, largest = max(found, key=lambda one: one[0] / (TOLERANCE * one[1] + 1e-6))
    if difference > TOLERANCE * largest + 1e-6:
        raise UserError(
            f"{name}: differs from the model by up to {difference:.2g} (its outputs are up to {largest:.2g}), so "
            f"nothing is kept; what is random or keeps a state in evaluation mode cannot be exported"
        )
    return difference, largest, same / rows if rows else None


def name_dims(graph, dims):
    """Give the free dimensions of an ONNX graph's inputs, and those of the same size, their names in `dims`."""
    names = {}
    for given, of_tensor in zip(graph.input, dims, strict=True):
        names |= {given.type.tensor_type.shape.dim[dim].dim_param: name for dim, name in of_tensor.items()}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # else it is a number
                size.dim_param = names.get(size.dim_param, size.dim_param)


@contextlib.contextmanager
def quietly():
    """Without what the exporters print, warn of and log about themselves; what they make is compared."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextlib.contextmanager
def loops_over_time():
    """Let LSTM and GRU layers be captured as loops: else a program is of sequences as long as the example alone.

    torch's exporter to ONNX does the same. An older torch cannot, and `compare` finds that other lengths fail.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            from torch.export import _patches

            for kind in ("lstm", "gru"):
                stack.enter_context(getattr(_patches, f"register_{kind}_while_loop_decomposition")())
        yield
