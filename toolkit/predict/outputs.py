"""Apply the model of a checkpoint, and turn its outputs into rows of a table."""

import logging
from pathlib import Path

import numpy as np
import torch

import utils
from toolkit.core.experiment_folder import find_checkpoint
from toolkit.core.forward_pass import autocast, forward_pass, set_arithmetic
from toolkit.core.image_dataset import read_facts
from toolkit.core.metrics import probabilities_of
from toolkit.core.setup import choose_device, find_data
from toolkit.core.task import find_task
from toolkit.core.text import as_rows, in_utf8
from toolkit.core.totals import to_numpy
from toolkit.core.trees import describe, tree_cat, tree_map
from utils import UserError


def open_checkpoint(model_dir, restore_file, data_dir=None, device=None):
    """Return the Task, the Params, the checkpoint's path and its content.

    The checkpoint holds the facts of its dataset, so that the dataset's folder is not needed.
    """
    task = find_task(model_dir)
    params = task.read_params(Path(model_dir) / "params.json")
    checkpoint = find_checkpoint(model_dir, restore_file)
    state = utils.read_checkpoint(checkpoint)
    device = choose_device(device)
    set_arithmetic(params)
    params.add_facts({"device": str(device), "cuda": device.type == "cuda"})
    facts = state.get("dataset") or {}
    if data_dir or task.read_items:  # read_items may need files of the dataset, such as a vocabulary
        folder = find_data(task, params, data_dir)
        params.add_facts({"data_dir": str(folder)})
        facts = facts or (read_facts(folder) if data_dir or folder.is_dir() else {})
    params.add_facts(facts, source=checkpoint)
    params.compile = False  # it takes longer than a few batches
    return task, params, checkpoint, state


@torch.inference_mode()
def predict(model, batches, params):
    """Return the outputs of a model for all batches of inputs, a tree of numpy arrays; None if there is no batch."""
    model.eval()
    precision, collected = autocast(params, model), []
    for inputs in batches:
        inputs = tree_map(lambda tensor: tensor.to(params.device), inputs)
        outputs, _ = forward_pass(model, None, inputs, None, precision)
        collected.append(tree_map(torch.Tensor.cpu, outputs))
    return tree_map(to_numpy, tree_cat(collected)) if collected else None


def rows_of(task, outputs, names, params, top_k):
    """Return the predictions as rows of a table, dicts: "item", then what `describe` of data_loader.py returns.

    Without that function, scores of classes become the `top_k` most probable classes, other numbers stay numbers.
    """
    file, num_classes = task.path_of(task.data_loader), params.values.get("num_classes")
    if task.describe:
        rows = task.describe(outputs, names, params)
    elif not isinstance(outputs, np.ndarray) or outputs.ndim not in (1, 2) or len(outputs) != len(names):
        raise UserError(
            f"{file}: the model's outputs are {describe(outputs)} for {len(names)} items; write a function "
            f"describe(outputs, names, params) that returns a dict for each item"
        )
    else:
        outputs = outputs.reshape(len(names), -1)  # (N, classes or numbers)
        width = outputs.shape[1]
        if width > 1 and (width == num_classes or (num_classes is None and "accuracy" in task.metrics)):
            rows = most_probable(outputs, params.values.get("class_names") or range(width), top_k)
        else:
            rows = as_rows({f"prediction_{i + 1}" if i else "prediction": outputs[:, i].tolist() for i in range(width)})
    if len(rows) != len(names):
        raise UserError(f"{file}: describe returned {len(rows)} rows for {len(names)} items")
    rows = [{k: None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]
    if bad := [name for name, row in zip(names, rows, strict=True) if any(v is None for v in row.values())]:
        logging.warning("The model's outputs are NaN for %d of %d items, such as %s", len(bad), len(names), bad[0])
    return [{"item": in_utf8(name)} | row for name, row in zip(names, rows, strict=True)]


def most_probable(outputs, class_names, top_k):
    """Return the `top_k` most probable classes and their probabilities, one dict per row of `outputs`, array (N, C)."""
    scores = torch.from_numpy(outputs).double()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]  # stable, as argmax is for equal scores
    probabilities, columns = probabilities_of(scores).gather(1, order), {}  # (N, top_k)
    for place in range(order.shape[1]):
        ending, values = f"_{place + 1}" if place else "", probabilities[:, place].tolist()
        pairs = zip(order[:, place].tolist(), values, strict=True)
        columns[f"prediction{ending}"] = [None if p != p else class_names[label] for label, p in pairs]
        columns[f"probability{ending}"] = [round(p, 6) for p in values]
    return as_rows(columns)
