"""Export a checkpoint as model.onnx and model.pt2, for programs that have neither this repository nor its data.

python export.py --model_dir experiments/base_model                          # both, of the best checkpoint
python export.py --model_dir experiments/base_model --format onnx --restore_file last

Both take the same inputs as the network, in batches of any size: images as uint8, unscaled. They are kept only if on
real inputs of a split they compute what the network does. Class names and sizes are in the file, as metadata.
"""

import argparse
import logging
from pathlib import Path

import toolkit  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import torch

import utils
from toolkit.cli import set_up
from toolkit.experiment import check_same_data, dataset_of, find_checkpoint
from toolkit.export import FORMATS, capture, check_packages, convert, real_inputs
from toolkit.script import add_quiet_argument, run_script
from toolkit.tables import pipe_table
from toolkit.trees import batch_size


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
    for kind in args.format:
        check_packages(kind)
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
    for kind in dict.fromkeys(args.format):
        name = FORMATS[kind][0]
        contents[name], difference, largest, same = convert(kind, program, dims, metadata, model, batches)
        rows.append({"file": name, "MB": f"{len(contents[name]) / 1e6:.2f}", "inputs compared": sum(sizes),
                     "in batches of": f"{min(sizes)} to {max(sizes)}", "largest output": f"{largest:.3g}",
                     "largest difference": f"{difference:.2g}",
                     "same prediction": "" if same is None else f"{same:.2%}"})  # fmt: skip
    for name, content in contents.items():  # none before all are as they should be
        utils.write_whole(Path(args.model_dir) / name, content)
    print(pipe_table(rows))
    logging.info("\nWritten to %s", args.model_dir)


if __name__ == "__main__":
    run_script(main)
