"""Predict labels for new files with a checkpoint. The dataset that it was trained on is not needed.

python predict.py --model_dir experiments/base_model photo.jpg more_photos                # image files and folders
python predict.py --model_dir experiments/base_model more_photos --top_k 3 --output predictions.csv

Images are decoded and resized as build_dataset.py does it. For other tasks, write a function `read_items` in
model/data_loader.py: see docs/your_own_task.md. With --output, the terminal shows only the first rows.
"""

import argparse
import logging
import sys
from pathlib import Path

import utils
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, refuse_misspelled
from toolkit.core.text import as_csv, pipe_table
from toolkit.predict.inputs import read_inputs
from toolkit.predict.outputs import open_checkpoint, predict, rows_of
from utils import UserError

SHOWN = 20  # rows that a terminal shows


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("files", nargs="+", help="files, and folders with everything below them")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument("--top_k", type=int, default=1, metavar="K", help="number of classes to show (default: 1)")
    parser.add_argument("--output", metavar="FILE", help="write all rows to this CSV file")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        raise UserError(f"--top_k is {args.top_k}; it should be at least 1")
    if args.output is not None:
        output = Path(args.output).absolute()
        is_input = output.resolve() in [Path(file).resolve() for file in args.files]
        if output.suffix != ".csv" or output.is_dir() or is_input or not output.parent.is_dir():
            problem = "give a .csv file in an existing folder, other than the input files"
            raise UserError(f"--output {args.output}: {problem}")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, checkpoint, state = open_checkpoint(args.model_dir, args.restore_file, args.data_dir, args.device)
    names, batches = read_inputs(task, args.files, params)
    model = task.make_model(params)
    utils.load_weights(state, checkpoint, model)
    with memory_errors_in_a_line(params):
        outputs = predict(model, batches, params)
    if outputs is None:
        raise UserError(f"{args.files[0]}: nothing to predict in it")
    refuse_misspelled(params, known=state.get("params") or ())
    rows = rows_of(task, outputs, names, params, args.top_k)
    if args.output:
        utils.write_whole(args.output, as_csv(rows))
    shown = rows[:SHOWN] if sys.stdout.isatty() or args.output else rows
    print(pipe_table(shown))
    if len(shown) < len(rows):
        print(f"... and {len(rows) - len(shown):,} more; --output predictions.csv writes all of them to a file")
    logging.info("\n%d labelled by %s%s", len(rows), checkpoint, f", in {args.output}" if args.output else "")


if __name__ == "__main__":
    run_script(main)
