"""What predict.py needs: a checkpoint without its dataset, files to label, and outputs as rows of a table."""

import logging
from pathlib import Path

import numpy as np
import torch

import utils
from toolkit.cli import check_names, choose_device, find_data
from toolkit.dataset import read_facts
from toolkit.experiment import find_checkpoint
from toolkit.images import CorruptImage, decode, image_extensions, in_threads
from toolkit.metrics import probabilities_of
from toolkit.precision import set_arithmetic
from toolkit.task import find_task
from toolkit.trees import describe
from utils import Params, UserError

IMAGE_FACTS = {"image_height", "image_width", "image_channels"}
AT_ONCE = 2**26  # bytes of pixels that are decoded together


def open_checkpoint(model_dir, restore_file, data_dir=None, device=None):
    """A checkpoint, and its experiment, with what the data was taken from it instead of from the dataset's folder.

    Args:
        model_dir: the experiment's folder.
        restore_file: name in the folder, or path, of the checkpoint.
        data_dir: the dataset's folder, for a checkpoint that does not say what the data was; None: as the params say.
        device: name of the device; None: the fastest.

    Returns:
        (task, params, checkpoint, state): the Task, the Params with all facts, the checkpoint's path and its dict.

    Raises:
        UserError: something is missing, wrong, or does not fit together.
    """
    task, json_path = find_task(model_dir), Path(model_dir) / "params.json"
    params = Params(json_path, declared=task.hyperparameters)
    check_names(params, task, json_path)
    checkpoint = find_checkpoint(model_dir, restore_file)
    state = utils.read_checkpoint(checkpoint)
    device = choose_device(device)
    set_arithmetic(params)
    facts = state.get("dataset")
    if data_dir or task.read_items:  # else nothing of it is read
        place = find_data(task, params, data_dir)
        facts = facts or (read_facts(place) if data_dir or place.is_dir() else {})
        params.add_facts({"data_dir": str(place)})
    params.add_facts({"device": str(device), "cuda": device.type == "cuda"})
    params.add_facts({name: value for name, value in (facts or {}).items() if name != "source"}, source=checkpoint)
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
            found += sorted(f for f in path.rglob("*") if f.is_file() and not is_hidden(f.relative_to(path)))
        elif path.exists():
            named.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    if task.read_items:
        pair = task.read_items(list(dict.fromkeys(named + found)), params)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{task.path_of(task.data_loader)}: read_items(files, params) should give (names, batches)")
        return pair
    if IMAGE_FACTS - params.values.keys():
        raise UserError(
            f"{task.path_of(task.data_loader)}: has no read_items(files, params), which says how to read files for "
            f"this task (docs/your_own_task.md); only images of a dataset of build_dataset.py are read without"
        )
    endings = image_extensions()
    files = list(dict.fromkeys(named + [file for file in found if file.suffix.lower() in endings]))
    if not files:
        raise UserError(f"{paths[0]}: no images in it")
    names = []
    return names, image_batches(files, params, names)


def is_hidden(path):
    """Whether a file, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def image_batches(files, params, names):
    """Yield the images in `files` as uint8 tensors (B, C, H, W), and add their names to the list `names`.

    Those that cannot be decoded are left out, and said in the log.

    Raises:
        UserError: not one can be decoded.
    """
    size, channels = (params.image_height, params.image_width), params.image_channels
    at_once = max(params.batch_size, AT_ONCE // (size[0] * size[1] * channels))

    def load(file):
        try:
            return decode(file, size, channels)
        except CorruptImage as error:
            return error

    for start in range(0, len(files), at_once):
        some = files[start : start + at_once]
        pairs = list(zip(some, in_threads(load, some, "images"), strict=True))
        for _, error in (pair for pair in pairs if isinstance(pair[1], CorruptImage)):
            logging.warning("left out: %s", error)
        pairs = [pair for pair in pairs if not isinstance(pair[1], CorruptImage)]
        names += [str(file) for file, _ in pairs]
        if pairs:
            pixels = torch.from_numpy(np.stack([pixels for _, pixels in pairs]))  # (N, H, W, C)
            yield from pixels.permute(0, 3, 1, 2).split(params.batch_size)
    if not names:
        raise UserError(f"{files[0]}: cannot be read as an image" + f", nor {len(files) - 1} others" * (len(files) > 1))


def rows_of(task, outputs, names, params, top_k):
    """The outputs of a model as rows of a table, a list of dicts: "item", then what is predicted.

    That is what `describe(outputs, names, params)` of the task's data_loader.py says; or else, for scores of classes,
    the most probable ones with their probabilities, and for numbers the numbers.

    Args:
        task: the Task.
        outputs: arrays of all items, in the structure that the model gives.
        names: of the items, a list of str.
        params: hyperparameters, with the facts of the dataset.
        top_k: how many classes.

    Raises:
        UserError: the outputs say neither.
    """
    file = task.path_of(task.data_loader)
    if task.describe:
        rows = task.describe(outputs, names, params)
    elif not isinstance(outputs, np.ndarray) or outputs.ndim not in (1, 2) or len(outputs) != len(names):
        raise UserError(f"{file}: the model's outputs are {describe(outputs)} for {len(names)} items; "
                        f"a function describe(outputs, names, params) can say what they mean")  # fmt: skip
    elif outputs.ndim == 2 and outputs.shape[1] > 1 and is_classification(task, outputs, params):
        rows = most_probable(outputs, getattr(params, "class_names", None), top_k)
    else:
        columns = outputs.reshape(len(names), -1).T.tolist()
        heads = ["prediction"] + [f"prediction_{number}" for number in range(2, len(columns) + 1)]
        rows = [dict(zip(heads, row, strict=True)) for row in zip(*columns, strict=True)]
    if len(rows) != len(names):
        raise UserError(f"{file}: describe gave {len(rows)} rows for {len(names)} items")
    items = [
        str(name).encode(errors="backslashreplace").decode() for name in names
    ]  # a file may have any bytes as name
    return [{"item": item} | row for item, row in zip(items, rows, strict=True)]


def is_classification(task, outputs, params):
    """Whether outputs, an array (N, C), are scores of classes: the dataset has as many, or the task an accuracy."""
    num_classes = getattr(params, "num_classes", None)
    return outputs.shape[1] == num_classes or (num_classes is None and "accuracy" in task.metrics)


def most_probable(outputs, class_names, top_k):
    """The classes with the largest scores, and their probabilities, a list of dicts.

    Args:
        outputs: array (N, C) of logits, their logarithms, or probabilities.
        class_names: list of C str, or None: by number.
        top_k: how many of them.
    """
    scores = torch.from_numpy(outputs).double()
    probabilities = probabilities_of(scores)  # (N, C)
    # stable: of two that are equal the first comes first, as in argmax, by which the metrics go
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]  # (N, top_k)
    rows = []
    for classes, chances in zip(order.tolist(), probabilities.gather(1, order).tolist(), strict=True):
        row = {}
        for place, (label, chance) in enumerate(zip(classes, chances, strict=True), 1):
            ending = f"_{place}" if place > 1 else ""
            row[f"prediction{ending}"] = class_names[label] if class_names else label
            row[f"probability{ending}"] = round(chance, 6)
        rows.append(row)
    return rows
