"""Read new files as inputs of the model."""

import logging
from pathlib import Path

import numpy as np
import torch

from toolkit.core.image_decoding import CorruptImage, decode, files_below, in_threads, is_image
from toolkit.core.trees import is_pair
from utils import UserError

AT_ONCE = 2**26  # bytes of pixels that are decoded together in parallel threads


def read_inputs(task, paths, params):
    """Return (names, batches) of files and folders, read by `read_items` of data_loader.py, or else as images.

    `batches` yields inputs of the model in the order of `names`, a list that is complete once all batches were read.
    """
    named, found = [], []  # files that the user names, which are read whatever their extension; files in folders
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        if path.is_dir():
            found += files_below(path)
        else:
            named.append(path)
    data_loader = task.path_of(task.data_loader)
    if task.read_items:
        pair = task.read_items(list(dict.fromkeys(named + found)), params)
        if not is_pair(pair):
            raise UserError(f"{data_loader}: read_items(files, params) should return (names, batches)")
        return pair
    if not {"image_height", "image_width", "image_channels"} <= params.values.keys():
        raise UserError(
            f"{data_loader}: has no read_items(files, params), which reads the files of this task; write one "
            f"(docs/your_own_task.md). Without it, only images of a dataset of build_dataset.py can be read"
        )
    images = list(dict.fromkeys(named + list(filter(is_image, found))))
    if others := [file for file in found if not is_image(file)]:
        logging.info("Ignored files that are not images: %d, such as %s", len(others), others[0])
    if not images:
        raise UserError(f"{paths[0]}: no images in it")
    names = []
    return names, image_batches(images, params, names)


def image_batches(files, params, names):
    """Yield images as uint8 tensors (B, C, H, W), and append their names to `names`; log and skip corrupt files."""
    size, channels = (params.image_height, params.image_width), params.image_channels
    value_range = params.values.get("value_range")
    at_once = max(params.batch_size, AT_ONCE // (size[0] * size[1] * channels))

    def pixels_or_error(file):
        try:
            return decode(file, size, channels, value_range)
        except CorruptImage as error:
            return error

    for start in range(0, len(files), at_once):
        chunk, images = files[start : start + at_once], []
        for file, pixels in zip(chunk, in_threads(pixels_or_error, chunk, "images"), strict=True):
            if isinstance(pixels, CorruptImage):
                logging.warning("skipped: %s", pixels)
            else:
                names.append(file.as_posix())
                images.append(pixels)
        if images:
            yield from torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).split(params.batch_size)
    if not names:
        raise UserError(f"{files[0]}: none of the {len(files)} files can be read as an image")
