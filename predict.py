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

import toolkit.core  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import numpy as np
import torch

import utils
from toolkit.core.experiment_folder import find_checkpoint
from toolkit.core.image_dataset import read_facts
from toolkit.core.image_decoding import CorruptImage, decode, image_extensions, in_threads
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.metrics import probabilities_of
from toolkit.core.precision import autocast, set_arithmetic
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, choose_device, find_data, refuse_misspelled
from toolkit.core.task import find_task
from toolkit.core.text import in_utf8, pipe_table
from toolkit.core.totals import to_numpy
from toolkit.core.trees import describe, tree_cat, tree_map
from utils import UserError

AT_ONCE = 2**26  # bytes of pixels that are decoded together
SHOWN = 20  # rows in a terminal


def open_checkpoint(args):
    """An experiment and its checkpoint, which says what the data was, so that the dataset's folder need not be there.

    Returns:
        (task, params, checkpoint, state): the Task, the Params with all facts, the checkpoint's path and its dict.

    Raises:
        UserError: something is missing, wrong, or does not fit together.
    """
    task, json_path = find_task(args.model_dir), Path(args.model_dir) / "params.json"
    params = task.read_params(json_path)
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    state = utils.read_checkpoint(checkpoint)
    device = choose_device(args.device)
    set_arithmetic(params)
    facts = state.get("dataset")
    if args.data_dir or task.read_items:  # else nothing of the dataset's folder is read
        data_dir = find_data(task, params, args.data_dir)
        facts = facts or (read_facts(data_dir) if args.data_dir or data_dir.is_dir() else {})
        params.add_facts({"data_dir": str(data_dir)})
    params.add_facts({"device": str(device), "cuda": device.type == "cuda"})
    params.add_facts(facts or {}, source=checkpoint)
    params.compile = False  # it takes longer than some batches do
    return task, params, checkpoint, state


def read_items(task, paths, params):
    """What is to be labelled: (names, batches), as `read_items` of the task's data_loader.py gives it, or images.

    Args:
        task: the Task.
        paths: files, and folders whose files are taken too, however deep.
        params: hyperparameters, with the facts of the dataset.

    Returns:
        names: a list of str. Of images it is complete when the batches have been drawn.
        batches: iterable of inputs of the model, in the order of the names.

    Raises:
        UserError: there is nothing, or neither a `read_items` nor images that the model was trained with.
    """
    named, found = [], []  # files that the user names are read, whatever their ending
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            found += [f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts)]
        elif path.exists():
            named.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    if task.read_items:
        pair = task.read_items(list(dict.fromkeys(named + found)), params)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{task.path_of(task.data_loader)}: read_items(files, params) should give (names, batches)")
        return pair
    if not {"image_height", "image_width", "image_channels"} <= params.values.keys():
        raise UserError(
            f"{task.path_of(task.data_loader)}: has no read_items(files, params), which says how to read files for "
            f"this task (docs/your_own_task.md); only images of a dataset of build_dataset.py are read without"
        )
    endings = image_extensions()
    images = list(dict.fromkeys(named + [file for file in found if file.suffix.lower() in endings]))
    if not images:
        raise UserError(f"{paths[0]}: no images in it")
    names = []
    return names, image_batches(images, params, names)


def image_batches(files, params, names):
    """Yield the images in `files` as uint8 tensors (B, C, H, W), and add their names to the list `names`.

    Those that cannot be decoded are left out, and said in the log.

    Raises:
        UserError: not one can be decoded.
    """
    size, channels = (params.image_height, params.image_width), params.image_channels
    at_once = max(params.batch_size, AT_ONCE // (size[0] * size[1] * channels))

    def pixels_or_error(file):
        try:
            return decode(file, size, channels)
        except CorruptImage as error:
            return error

    for start in range(0, len(files), at_once):
        some, images = files[start : start + at_once], []
        for file, pixels in zip(some, in_threads(pixels_or_error, some, "images"), strict=True):
            if isinstance(pixels, CorruptImage):
                logging.warning("left out: %s", pixels)
            else:
                names.append(file.as_posix())
                images.append(pixels)
        if images:
            yield from torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).split(params.batch_size)
    if not names:
        raise UserError(f"{files[0]}: cannot be read as an image" + f", nor {len(files) - 1} others" * (len(files) > 1))


@torch.inference_mode()
def predict(model, batches, params):
    """The outputs of a model for all batches of inputs, as arrays, in their structure; None where there is no batch."""
    model.eval()
    precision, outputs = autocast(params, model), []
    for inputs in batches:
        inputs = tree_map(lambda tensor: tensor.to(params.device), inputs)
        with precision:
            outputs.append(tree_map(torch.Tensor.cpu, model(inputs)))
    return tree_map(to_numpy, tree_cat(outputs)) if outputs else None


def rows_of(task, outputs, names, params, top_k):
    """The outputs of a model as rows of a table, a list of dicts: "item", then what is predicted.

    That is what `describe(outputs, names, params)` of the task's data_loader.py says; or else, for scores of classes
    (the dataset has as many, or the task an accuracy), the `top_k` most probable ones, and for numbers the numbers.

    Raises:
        UserError: the outputs say neither.
    """
    file, num_classes = task.path_of(task.data_loader), params.values.get("num_classes")
    if task.describe:
        rows = task.describe(outputs, names, params)
    elif not isinstance(outputs, np.ndarray) or outputs.ndim not in (1, 2) or len(outputs) != len(names):
        raise UserError(
            f"{file}: the model's outputs are {describe(outputs)} for {len(names)} items; "
            f"a function describe(outputs, names, params) can say what they mean"
        )
    else:
        outputs = outputs.reshape(len(names), -1)  # (N, classes or numbers)
        width = outputs.shape[1]
        if width > 1 and (width == num_classes or (num_classes is None and "accuracy" in task.metrics)):
            rows = most_probable(outputs, params.values.get("class_names") or range(width), top_k)
        else:
            heads = ["prediction", *(f"prediction_{number}" for number in range(2, width + 1))]
            rows = [dict(zip(heads, row, strict=True)) for row in outputs.tolist()]
    if len(rows) != len(names):
        raise UserError(f"{file}: describe gave {len(rows)} rows for {len(names)} items")
    return [{"item": in_utf8(name)} | row for name, row in zip(names, rows, strict=True)]


def most_probable(outputs, class_names, top_k):
    """The `top_k` classes with the largest scores in `outputs`, array (N, C), and their probabilities: N dicts."""
    scores = torch.from_numpy(outputs).double()
    # stable: of two that are equal the first comes first, as in argmax, by which the metrics go
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]  # (N, top_k)
    probabilities = probabilities_of(scores).gather(1, order)  # (N, top_k)
    rows = []
    for classes, chances in zip(order.tolist(), probabilities.tolist(), strict=True):
        row = {}
        for place, (label, chance) in enumerate(zip(classes, chances, strict=True), 1):
            ending = f"_{place}" if place > 1 else ""
            row |= {f"prediction{ending}": class_names[label], f"probability{ending}": round(chance, 6)}
        rows.append(row)
    return rows


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
    args = parser.parse_args(argv)
    if args.top_k < 1:
        raise UserError(f"--top_k is {args.top_k}, should be 1 or more")
    if args.output and (Path(args.output).is_dir() or not Path(args.output).absolute().parent.is_dir()):
        raise UserError(f"--output {args.output}: should be a file in a folder that is there")
    labelled = [Path(file).resolve() for file in args.files]
    if args.output and (not args.output.endswith(".csv") or Path(args.output).resolve() in labelled):
        raise UserError(f"--output {args.output}: should be a .csv file of its own, which is not to be labelled")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, checkpoint, state = open_checkpoint(args)
    names, batches = read_items(task, args.files, params)
    model = task.make_model(params)
    utils.load_weights(state, checkpoint, model)
    with memory_errors_in_a_line(params):
        outputs = predict(model, batches, params)
    if outputs is None:
        raise UserError(f"{args.files[0]}: nothing to label in it")
    refuse_misspelled(params, known=state.get("params") or ())
    rows = rows_of(task, outputs, names, params, args.top_k)
    if args.output:
        write(rows, args.output)
    shown = rows[:SHOWN] if sys.stdout.isatty() or args.output else rows
    print(pipe_table(shown))
    if len(shown) < len(rows):
        print(f"... and {len(rows) - len(shown):,} more; --output predictions.csv keeps them all")
    logging.info("\n%d labelled by %s%s", len(rows), checkpoint, f", written to {args.output}" if args.output else "")


if __name__ == "__main__":
    run_script(main)
