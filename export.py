"""Export a checkpoint as model.onnx and model.pt2, for programs that have neither this repository nor its data.

python export.py --model_dir experiments/base_model                          # both, of the best checkpoint
python export.py --model_dir experiments/base_model --format onnx --restore_file last

Both take the same inputs as the network, in batches of any size: images as uint8, not scaled. A file is kept only if
it computes what the network does for real inputs. It contains class names and image sizes as metadata.
"""

import argparse
import logging
from pathlib import Path

import utils
from toolkit.core.experiment_folder import check_same_data, dataset_of, find_checkpoint
from toolkit.core.script import add_quiet_argument, run_script
from toolkit.core.setup import set_up
from toolkit.core.text import pipe_table
from toolkit.export.comparison import compare, real_inputs
from toolkit.export.formats import FORMATS, capture, no_grad, one_line_errors


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="experiments/base_model", help="experiment folder, with a params.json")
    parser.add_argument("--data_dir", help="dataset folder (default: data/<dataset>, as in params.json)")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument("--format", nargs="+", default=list(FORMATS), choices=FORMATS, help="default: both")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="split to compare on")
    add_quiet_argument(parser)
    return parser.parse_args(argv)


@no_grad()
def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, "cpu")
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    state = utils.read_checkpoint(checkpoint)
    check_same_data(state.get("dataset"), params, checkpoint, "give that dataset with --data_dir")
    utils.set_seed(params.seed)
    batches, sizes = real_inputs(task, args.split, data_dir, params)
    params.compile = False  # the network itself is exported
    model = task.make_model(params).eval()
    utils.load_weights(state, checkpoint, model)
    metadata = {"checkpoint": str(checkpoint), "epoch": state.get("epoch"), "dataset": dataset_of(params)}

    program, names = capture(model, batches)
    contents, rows = {}, []
    for kind in dict.fromkeys(args.format):  # each once
        name, convert, advice = FORMATS[kind]
        with one_line_errors(name, advice):
            contents[name], run = convert(program, names, metadata)
            difference, same = compare(model, run, batches, name)
        row = {"file": name, "MB": f"{len(contents[name]) / 1e6:.2f}", "inputs compared": sum(sizes)}
        row |= {"in batches of": f"{min(sizes)} to {max(sizes)}", "largest difference": f"{difference:.2g}"}
        rows.append(row | {"same prediction": "" if same is None else f"{same:.2%}"})
    for name, content in contents.items():  # only when all are right
        utils.write_whole(Path(args.model_dir) / name, content)
    print(pipe_table(rows))
    logging.info("\nWritten to %s", args.model_dir)


if __name__ == "__main__":
    run_script(main)
