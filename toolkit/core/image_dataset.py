"""A dataset folder of images: its facts, its files, their pixels in memory or in a mapped file, their batches."""

import contextlib
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler

from toolkit.core.image_decoding import CorruptImage, decode, in_threads
from utils import UserError, open_whole, read_json

FACTS = "dataset.json"
SPLITS = ("train", "val", "test")
KEYS = {"class_names", "image_channels", "image_height", "image_width", "mean", "std", "counts", "split_fingerprint"}


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


def read_image_facts(data_dir):
    """As `read_facts`, of a dataset of images.

    Raises:
        UserError: it is another folder.
    """
    facts = read_facts(data_dir)
    missing = sorted(KEYS - facts.keys())
    if missing and "class_names" in facts:
        raise UserError(f"{data_dir}: its {FACTS} has no {', '.join(missing)}; build it again with --force")
    if missing and facts:
        raise UserError(
            f"{data_dir}: not a dataset of images: its {FACTS} is of another task, as the build_dataset.py of an "
            f"example makes it; take that script, or an experiment of that task"
        )
    if missing:
        raise UserError(
            f"{data_dir}: not a dataset of images: it has no {FACTS}; "
            f"make one with: python build_dataset.py folder {data_dir} --name <name>, "
            f'and name it in params.json: "dataset": "<name>"'
        )
    return facts


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
    facts = read_image_facts(data_dir)
    files, labels = list_files(data_dir, split, facts)
    shape = (len(files), facts["image_height"], facts["image_width"], facts["image_channels"])
    expected, pixels = facts["split_fingerprint"][split], None
    if np.prod(shape) > cache_above * 1e6:
        pixels = mapped(data_dir / ".cache" / f"{split}-{expected[:16]}.npy", files, shape, expected)
    if pixels is None:
        pixels = decoded(tuple(files), shape, expected)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels)


def fits_on(device, nbytes):
    """Whether `device` is a GPU on which `nbytes` bytes of data can stay: less than half of the memory free there."""
    kind = torch.device(device).type
    if kind == "mps":
        return nbytes < (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()) / 2
    return kind == "cuda" and nbytes < torch.cuda.mem_get_info(device)[0] / 2


class BatchIndices(Sampler):
    """The indices of each batch, a tensor; in a new random order every epoch where `shuffle` is set.

    The order comes from torch's generator, which train.py seeds with (seed, epoch) when an epoch begins, and is the
    same on any `device`, to which it is moved once an epoch.
    """

    def __init__(self, length, batch_size, shuffle, device="cpu"):
        self.length, self.batch_size, self.shuffle, self.device = length, batch_size, shuffle, device

    def __iter__(self):
        order = torch.randperm(self.length) if self.shuffle else torch.arange(self.length)
        return iter(order.to(self.device).split(self.batch_size))

    def __len__(self):
        return -(-self.length // self.batch_size)


def list_files(data_dir, split, facts):
    """The image files of a split and their labels, two lists, by class and name."""
    files, labels = [], []
    for label, name in enumerate(facts["class_names"]):
        folder = data_dir / split / name
        expected = facts["counts"][split][name]
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


class ImageNames(Sequence):
    """The names of the image files of a dataset's splits, relative to the folder that has all; listed when needed.

    Args:
        data_dir: dataset folder that build_dataset.py made, a Path or str.
        splits: list of one or more.
        chosen: which of them, a sequence of indices; None: all.
    """

    def __init__(self, data_dir, splits, chosen=None):
        self.data_dir, self.splits, self.chosen = data_dir, splits, chosen

    @functools.cached_property
    def names(self):
        folder = os.path.join(self.data_dir, *(self.splits if len(self.splits) == 1 else []))
        facts = read_facts(self.data_dir)
        files = [file for split in self.splits for file in list_files(Path(self.data_dir), split, facts)[0]]
        names = [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]
        return names if self.chosen is None else [names[index] for index in self.chosen]

    def __getitem__(self, index):
        return self.names[index]

    def __len__(self):
        return len(self.names)


@functools.lru_cache(maxsize=2 * len(SPLITS))
def decoded(files, shape, expected):
    """The pixels of image files, a uint8 array of `shape`; decoded once by a process that trains on them repeatedly."""
    pixels = np.empty(shape, np.uint8)
    decode_into(pixels, files, expected)
    return pixels


def decode_into(pixels, files, expected):
    """Fill the uint8 array `pixels`, (N, height, width, channels), with those of image files, in parallel threads.

    Raises:
        UserError: one is damaged, or was changed since `expected`, their fingerprint, was taken.
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
    if fingerprint_of(digests) != expected:
        folder = Path(files[0]).parent.parent
        raise UserError(
            f"{folder}: images were changed by hand since they were built; build the dataset again with --force"
        )


def digest_of(pixels):
    """The SHA-256 of an image's pixels, uint8 (height, width, channels), and of their shape, as bytes."""
    return hashlib.sha256(np.int64(pixels.shape).tobytes() + pixels.tobytes()).digest()


def fingerprint_of(images):
    """The fingerprint of images, in hexadecimal, from pairs: an image's file within the folder, and its digest."""
    lines = (f"{file} {digest.hex()}\n" for file, digest in sorted(images))
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def mapped(cache, files, shape, expected):
    """The pixels of image files, a uint8 array of `shape`, mapped from the file `cache`; None where that is not to be.

    The file is made where it is missing. It is left out where it cannot be written.
    """
    if not cache.exists():
        with contextlib.suppress(OSError):
            cache.parent.mkdir(exist_ok=True)
        try:
            with open_whole(cache) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                offset = file.tell()
                file.truncate(offset + int(np.prod(shape)))
                file.flush()
                pixels = np.memmap(file.name, np.uint8, "r+", offset, shape)
                decode_into(pixels, files, expected)
                pixels.flush()
                del pixels  # Windows renames no file that is mapped
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # an image's fault
                raise
            logging.warning("%s; the images are kept in memory", error)
            return None
    return np.load(cache, mmap_mode="c")  # copy on write: torch wants memory that may be written to
