"""Export a checkpoint as model.onnx and model.pt2, for programs that have neither this repository nor its data.

python export.py --model_dir experiments/base_model                          # both, of the best checkpoint
python export.py --model_dir experiments/base_model --format onnx --restore_file last

Both take the same inputs as the network, in batches of any size: images as uint8, unscaled. They are kept only if on
real inputs of a split they compute what the network does. Class names and sizes are in the file, as metadata.
"""

import argparse
import contextlib
import io
import itertools
import json
import logging
import warnings
from pathlib import Path

import toolkit.core  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import torch

import utils
from toolkit.core.experiment_folder import check_same_data, dataset_of, find_checkpoint
from toolkit.core.script import add_quiet_argument, run_script
from toolkit.core.setup import set_up
from toolkit.core.text import pipe_table
from toolkit.core.trees import batch_size, tensors, tree_cat, tree_map
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
    way_out = "in forward(), only functions of torch's, and no Python that asks what is in a tensor; or a newer torch"
    with exporting("this model", way_out), loops_over_time():
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

    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None  # as it is without dynamo
    proto = exported.model_proto
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


def name_dims(graph, dims):
    """Give the free dimensions of an ONNX graph's inputs, and those of the same size, their names in `dims`."""
    names = {}
    for given, of_tensor in zip(graph.input, dims, strict=True):
        names |= {given.type.tensor_type.shape.dim[dim].dim_param: name for dim, name in of_tensor.items()}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # else it is a number
                size.dim_param = names.get(size.dim_param, size.dim_param)


FORMATS = {  # name of the file, function that makes it, what to try where that fails
    "torch": ("model.pt2", to_torch, "--format onnx"),
    "onnx": ("model.onnx", to_onnx, "--format torch, or an onnxscript of the age of this torch"),
}


def compare(model, run, batches, name):
    """How an exported model differs from the model on real inputs.

    Args:
        model, run: the two, as functions of inputs.
        batches: what `real_inputs` gave.
        name: of the file, for the message.

    Returns:
        difference, largest: the largest absolute difference, and the largest absolute output of the model, floats;
            of several outputs, of the one that differs most for its size.
        same: the share of rows of which both have the largest output in the same place, or None: no such outputs.

    Raises:
        UserError: they compute something else.
    """
    same = rows = 0
    found = [[0.0, 0.0] for _ in tensors(model(batches[0]))]  # difference and largest, of each output on its own
    for inputs in batches:
        pairs = list(zip(tensors(model(inputs)), tensors(run(inputs)), strict=True))
        for place, (ours, theirs) in enumerate(pairs):
            ours, theirs = ours.double(), theirs.double()
            apart = torch.where(ours == theirs, 0, (ours - theirs).abs())  # 0 where both are infinite
            size = torch.where(ours.isfinite(), ours.abs(), 0)
            seen = apart.nan_to_num(torch.inf).max().item(), size.max().item()
            found[place] = [max(pair) for pair in zip(found[place], seen, strict=True)]
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


@contextlib.contextmanager
def exporting(what, way_out):
    """Without what the exporters print, warn of and log about themselves; where something fails, say in one line why.

    Raises:
        UserError: `what` cannot be exported; `way_out` is what to try.
    """
    nowhere = io.StringIO()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # torch, onnxscript and onnxruntime raise errors of all kinds
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ModuleNotFoundError):
            raise UserError(f"{what} needs {cause.name}: pip install {cause.name}") from None
        reason = f"{type(cause).__name__}: {next(iter(str(cause).strip().splitlines()), '')}"
        raise UserError(f"{what} cannot be exported: {reason}; what to try: {way_out}") from None
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


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="experiments/base_model", help="the experiment")
    parser.add_argument("--data_dir", help="the dataset's folder; by default data/ and the params' `dataset`")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=FORMATS, help="by default both")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="what to compare on")
    add_quiet_argument(parser)
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, "cpu")
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    state = utils.read_checkpoint(checkpoint)
    check_same_data(state.get("dataset"), params, checkpoint, "name that with --data_dir")
    utils.set_seed(params.seed)
    batches = real_inputs(task, args.split, data_dir, params)
    params.compile = False  # what is exported is the network itself
    model = task.make_model(params).eval()
    utils.load_weights(state, checkpoint, model)
    sizes = [batch_size(inputs) for inputs in batches]
    metadata = {"checkpoint": str(checkpoint), "epoch": state.get("epoch"), "dataset": dataset_of(params)}

    program, dims = capture(model, batches)
    contents, rows = {}, []
    for name, convert, way_out in (FORMATS[kind] for kind in dict.fromkeys(args.format)):
        with exporting(name, way_out):
            contents[name], run = convert(program, dims, metadata)
            difference, largest, same = compare(model, run, batches, name)
        rows.append(
            {
                "file": name,
                "MB": f"{len(contents[name]) / 1e6:.2f}",
                "inputs compared": sum(sizes),
                "in batches of": f"{min(sizes)} to {max(sizes)}",
                "largest output": f"{largest:.3g}",
                "largest difference": f"{difference:.2g}",
                "same prediction": "" if same is None else f"{same:.2%}",
            }
        )
    for name, content in contents.items():  # none before all are as they should be
        utils.write_whole(Path(args.model_dir) / name, content)
    print(pipe_table(rows))
    logging.info("\nWritten to %s", args.model_dir)


if __name__ == "__main__":
    run_script(main)
