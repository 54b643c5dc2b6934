"""Label new files with a checkpoint. The dataset that it was trained on need not be there any more.

python predict.py --model_dir experiments/base_model photo.jpg more_photos                # image files, and folders
python predict.py --model_dir experiments/base_model more_photos --top_k 3 --output predictions.csv

Images are decoded and resized as build_dataset.py does it. Other tasks say what they read by a function `read_items`
in their model/data_loader.py: docs/your_own_task.md. Without --output, a terminal shows the first rows.
"""

import argparse
import csv
import logging
import sys
from pathlib import Path

import toolkit  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import torch

import utils
from toolkit.cli import add_common_arguments
from toolkit.memory import memory_errors_in_a_line
from toolkit.precision import precision_of
from toolkit.predict import open_checkpoint, read_items, rows_of
from toolkit.script import run_script
from toolkit.tables import pipe_table
from toolkit.tally import to_numpy
from toolkit.trees import tree_cat, tree_map
from utils import UserError

SHOWN = 20  # rows in a terminal


@torch.inference_mode()
def predict(model, batches, params):
    """The outputs of a model for all of some batches of inputs, as arrays, in their structure; None: no batches."""
    model.eval()
    precision, outputs = precision_of(params, model), []
    for inputs in batches:
        inputs = tree_map(lambda tensor: tensor.to(params.device), inputs)
        with precision:
            outputs.append(tree_map(torch.Tensor.cpu, model(inputs)))
    return tree_map(to_numpy, tree_cat(outputs)) if outputs else None


def show(rows, longest):
    """Print a table of the first `longest` rows (None: of all), which are dicts of texts and numbers."""
    print(pipe_table(rows[:longest]))
    if longest is not None and longest < len(rows):
        print(f"... and {len(rows) - longest:,} more; --output predictions.csv keeps them all")


def write(rows, path):
    """Write rows, which are dicts, to a csv file."""
    with utils.open_whole(path, "w") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("files", nargs="+", help="what to label: files, and folders with all that is below them")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument(
        "--top_k", type=int, default=1, metavar="K", help="show the K most probable classes (default: 1)"
    )
    parser.add_argument("--output", metavar="FILE", help="write all rows to this csv file")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.top_k < 1:
        raise UserError(f"--top_k is {args.top_k}, should be 1 or more")
    if args.output and (Path(args.output).is_dir() or not Path(args.output).absolute().parent.is_dir()):
        raise UserError(f"--output {args.output}: should be a file in a folder that is there")
    if args.output and (
        not args.output.endswith(".csv") or Path(args.output).resolve() in [Path(f).resolve() for f in args.files]
    ):
        raise UserError(f"--output {args.output}: should be a .csv file of its own, which is not to be labelled")
    task, params, checkpoint, state = open_checkpoint(args.model_dir, args.restore_file, args.data_dir, args.device)
    names, batches = read_items(task, args.files, params)
    model = task.make_model(params)
    utils.load_weights(state, checkpoint, model)
    with memory_errors_in_a_line(params):
        outputs = predict(model, batches, params)
    rows = rows_of(task, outputs, names, params, args.top_k)
    if args.output:
        write(rows, args.output)
    show(rows, SHOWN if sys.stdout.isatty() or args.output else None)
    logging.info("\n%d labelled by %s%s", len(rows), checkpoint, f", written to {args.output}" if args.output else "")


if __name__ == "__main__":
    run_script(main)
