"""A dataset folder of images: its facts, and its pixels in memory or in a mapped file."""

import functools
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch

from toolkit.images import CorruptImage, decode, in_threads
from utils import UserError, open_whole, read_json

FACTS = "dataset.json"
SPLITS = ("train", "val", "test")


def read_facts(data_dir):
    """What a dataset is, the content of its dataset.json, as a dict; empty where the folder has none.

    Raises:
        UserError: no such folder, or a file that is not JSON.
    """
    data_dir = Path(data_dir)
    if data_dir.is_file():
        raise UserError(f"{data_dir}: is a file; a dataset is a folder")
    if not data_dir.is_dir():
        own = data_dir.parent.parent / "build_dataset.py"  # of an example
        script = own if own.exists() else "build_dataset.py"
        raise UserError(f"{data_dir}: no such dataset; build_dataset.py makes one (python {script} --help)")
    file = data_dir / FACTS
    return read_json(file) if file.exists() else {}


def load_images(data_dir, split, cache_above):
    """All images of a split, decoded once.

    Args:
        data_dir: a folder that build_dataset.py made.
        split: "train", "val" or "test".
        cache_above: megabytes of pixels above which they are kept in a file beside the dataset, which is written once
            and then mapped: read as needed, and shared by all processes that train on it.

    Returns:
        images: uint8 tensor of shape (N, channels, height, width).
        labels: int64 tensor of shape (N,), indices into the dataset's class_names.

    Raises:
        UserError: the folder is not a dataset of images, or files are missing, damaged or too many.
    """
    data_dir = Path(data_dir)
    facts = read_facts(data_dir)
    needed = {"class_names", "image_channels", "image_height", "image_width", "mean", "std", "counts", "fingerprint"}
    if not needed <= facts.keys():
        raise UserError(
            f"{data_dir}: not a dataset of images: it has no complete {FACTS}; "
            f"make one with: python build_dataset.py folder {data_dir} --name <name>, "
            f'and name it in params.json: "dataset": "<name>"'
        )
    files, labels = list_files(data_dir, split, facts)
    shape = (len(files), facts["image_height"], facts["image_width"], facts["image_channels"])
    pixels = mapped_pixels(data_dir, split, facts, files, shape) if np.prod(shape) > cache_above * 1e6 else None
    if pixels is None:
        pixels = decoded(tuple(files), shape, facts["fingerprint"], split_fingerprint(facts, split))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels)


def fits_on(device, nbytes):
    """Whether `device` is a GPU on which `nbytes` bytes of data can stay: less than half of the memory free there."""
    kind = torch.device(device).type
    if kind == "mps":
        return nbytes < (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()) / 2
    return kind == "cuda" and nbytes < torch.cuda.mem_get_info(device)[0] / 2


def list_files(data_dir, split, facts):
    """The image files of a split and their labels, two lists, by class and name."""
    files, labels = [], []
    for label, name in enumerate(facts["class_names"]):
        folder = data_dir / split / name
        expected = facts["counts"].get(split, {}).get(name, 0)
        try:
            found = sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(".png"))
        except FileNotFoundError:
            found = []
        except OSError as error:
            raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
        if len(found) != expected:
            raise UserError(
                f"{folder}: {len(found)} images are there, but {data_dir / FACTS} counts {expected}: "
                f"the dataset was changed by hand; build it again with --force"
            )
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{data_dir}: the {split} split has no images")
    return files, labels


@functools.lru_cache(maxsize=2 * len(SPLITS))
def decoded(files, shape, fingerprint, expected):
    """The pixels of image files, a uint8 array of `shape`; decoded once by a process that trains on them repeatedly."""
    return decode_all(files, np.empty(shape, np.uint8), expected)


def decode_all(files, pixels, expected):
    """Decode image files into the uint8 array `pixels` of shape (N, height, width, channels), in parallel threads.

    Raises:
        UserError: one is damaged, or was changed since `expected`, their fingerprint, was taken (None: it never was).
    """
    _, height, width, channels = pixels.shape

    def load(index):
        image = decode(files[index], None, channels)
        if image.shape != (height, width, channels):
            found = f"{image.shape[1]}x{image.shape[0]} pixels"
            raise CorruptImage(f"{files[index]}: is {found}, the dataset's are {width}x{height}")
        pixels[index] = image
        return "/".join(files[index].split(os.sep)[-3:]), digest_of(image)

    digests = in_threads(load, range(len(files)), "decode")
    if expected is not None and fingerprint_of(digests) != expected:
        folder = Path(files[0]).parent.parent
        raise UserError(
            f"{folder}: images were changed by hand since they were built; build the dataset again with --force"
        )
    return pixels


def split_fingerprint(facts, split):
    """The fingerprint of a split's images, or None where the dataset was built before there was one."""
    return facts.get("split_fingerprint", {}).get(split)


def digest_of(pixels):
    """The SHA-256 of an image's pixels, uint8 (height, width, channels), and of their shape, as bytes."""
    return hashlib.sha256(np.int64(pixels.shape).tobytes() + pixels.tobytes()).digest()


def fingerprint_of(images):
    """The fingerprint of images, in hexadecimal, from pairs: an image's file within the folder, and its digest."""
    lines = (f"{file} {digest.hex()}\n" for file, digest in sorted(images))
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def mapped_pixels(data_dir, split, facts, files, shape):
    """The pixels of a split as an array mapped from a cache file, made now if it is not there.

    Returns:
        uint8 array of `shape`, or None where the file cannot be made.
    """
    cache = data_dir / ".cache" / f"{split}-{facts['fingerprint'][:16]}.npy"
    if not cache.exists() or cache.stat().st_size <= np.prod(shape):
        try:
            cache.parent.mkdir(exist_ok=True)
            write_cache(cache, files, shape, split_fingerprint(facts, split))
        except CorruptImage:
            raise
        except (OSError, UserError) as error:
            logging.warning("%s cannot be written (%s): the images are kept in memory", cache, error)
            return None
    return np.load(cache, mmap_mode="c")  # copy on write: torch wants memory that may be written to


def write_cache(cache, files, shape, expected):
    """Decode image files into the .npy file `cache`, an array of `shape`."""
    with open_whole(cache) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        offset = file.tell()
        file.truncate(offset + int(np.prod(shape)))
        file.flush()
        pixels = np.memmap(file.name, np.uint8, "r+", offset, shape)
        decode_all(files, pixels, expected)
        pixels.flush()
