"""A dataset folder of images: its facts, its files, their pixels (in memory or memory-mapped), batches of indices."""

import contextlib
import functools
import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler

from toolkit.core.image_decoding import CorruptImage, decode, in_threads
from utils import UserError, open_whole, read_json, similar

FACTS = "dataset.json"
SPLITS = ("train", "val", "test")
PIECE = 2**20  # bytes that go into a checksum
KEYS = {"class_names", "image_channels", "image_height", "image_width", "mean", "std", "counts", "split_fingerprint"}


def read_facts(data_dir):
    """Return the content of a dataset's dataset.json as a dict, which is empty if the folder has no such file.

    Raises:
        UserError: there is no such folder, or the file is not valid JSON.
    """
    data_dir = Path(data_dir)
    if data_dir.is_file():
        raise UserError(f"{data_dir}: is a file; a dataset is a folder")
    if not data_dir.is_dir():
        near = similar(data_dir.name, [place.name for place in data_dir.parent.glob("*/")])
        own = data_dir.parent.parent / "build_dataset.py"  # the script of an example
        advice = f"build_dataset.py makes one (python {own if own.exists() else own.name} --help)"
        raise UserError(f"{data_dir}: no such dataset; {f'did you mean {near}? ' if near else ''}{advice}")
    file = data_dir / FACTS
    return read_json(file) if file.exists() else {}


def read_image_facts(data_dir):
    """Return the facts of a dataset of images, as `read_facts` does; another dataset is a UserError."""
    facts = read_facts(data_dir)
    missing = sorted(KEYS - facts.keys())
    if not missing:
        return facts
    if "class_names" in facts:
        problem = f"its {FACTS} has no {', '.join(missing)}; build it again with --force"
    elif facts:
        problem = f"its {FACTS} is of another task; use the build_dataset.py and the experiments of that task"
    else:
        problem = (
            f"it has no {FACTS}; make a dataset of the images with `python build_dataset.py folder {data_dir} --name "
            f'<name>`, and set "dataset": "<name>" in params.json'
        )
    raise UserError(f"{data_dir}: not a dataset of images: {problem}")


def load_images(data_dir, split, cache_above):
    """Return all images of a split of the dataset in the folder `data_dir`, which are decoded once.

    Pixels of more than `cache_above` megabytes are written once to a file in the dataset folder that is then
    memory-mapped: read as needed, and shared by all processes that train on it.

    Returns:
        images: uint8 tensor of shape (N, channels, height, width).
        labels: int64 tensor of shape (N,), indices into the dataset's class_names.

    Raises:
        UserError: the folder is not a dataset of images, or image files were added, removed or changed.
    """
    data_dir = Path(data_dir)
    facts = read_image_facts(data_dir)
    files, labels = list_files(data_dir, split, facts)
    shape = (len(files), facts["image_height"], facts["image_width"], facts["image_channels"])
    expected, pixels = facts["split_fingerprint"][split], None
    if np.prod(shape) > cache_above * 1e6:
        pixels = memory_mapped(data_dir / ".cache" / f"{split}-{expected[:16]}.npy", files, shape, expected)
    if pixels is None:
        pixels = decoded(tuple(files), shape, expected)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(labels)


def fits_on(device, nbytes):
    """Return True if `device` is a GPU and `nbytes` bytes are less than half of its free memory."""
    kind = torch.device(device).type
    if kind == "mps":
        return nbytes < (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()) / 2
    return kind == "cuda" and nbytes < torch.cuda.mem_get_info(device)[0] / 2


class BatchIndices(Sampler):
    """A batch sampler that yields the indices of each batch as one tensor; with `shuffle`, in a new order every epoch.

    The order comes from torch's CPU generator, which train.py seeds with (seed, epoch); it is the same on any `device`.
    """

    def __init__(self, length, batch_size, shuffle, device="cpu"):
        self.length, self.batch_size, self.shuffle, self.device = length, batch_size, shuffle, device

    def __iter__(self):
        order = torch.randperm(self.length) if self.shuffle else torch.arange(self.length)
        return iter(order.to(self.device).split(self.batch_size))

    def __len__(self):
        return -(-self.length // self.batch_size)


def list_files(data_dir, split, facts):
    """Return the image files of a split and their labels, two lists, sorted by class and name."""
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
    """The names of the image files of some splits, or of those at the indices `chosen`, relative to their folder."""

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
    """Return the pixels of image files, a uint8 array of `shape`; cached, so that a process decodes them only once."""
    return decode_into(np.empty(shape, np.uint8), files, expected)


def decode_into(pixels, files, expected):
    """Decode image files into `pixels`, uint8 (N, height, width, channels), and return it.

    Raises UserError if a file is damaged, or if the fingerprint of all pixels is not `expected`.
    """
    _, height, width, channels = pixels.shape

    def load(index):
        image = decode(files[index], None, channels)
        if image.shape[:2] != (height, width):
            size = f"{image.shape[1]}x{image.shape[0]} pixels"
            raise CorruptImage(f"{files[index]}: is {size}, the dataset's are {width}x{height}")
        pixels[index] = image
        return "/".join(files[index].split(os.sep)[-3:]), digest_of(image)

    if fingerprint_of(in_threads(load, range(len(files)), "decode")) != expected:
        folder = Path(files[0]).parent.parent
        raise UserError(f"{folder}: images were changed by hand since they were built; build it again with --force")
    return pixels


def digest_of(pixels):
    """Return the SHA-256 (bytes) of an image's pixels, uint8 (height, width, channels), and of their shape."""
    return hashlib.sha256(np.int64(pixels.shape).tobytes() + pixels.tobytes()).digest()


def fingerprint_of(images):
    """Return the hexadecimal fingerprint of images, given as pairs (path within the dataset folder, `digest_of`)."""
    lines = (f"{file} {digest.hex()}\n" for file, digest in sorted(images))
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def memory_mapped(cache, files, shape, expected):
    """Return the pixels of image files, a uint8 array of `shape`, memory-mapped from the file `cache`.

    The file is written if it is missing or damaged. If it cannot be written, a warning says so and the result is None.
    """
    pixels = read_cache(cache, shape)
    if pixels is None:
        with contextlib.suppress(OSError):
            cache.parent.mkdir(exist_ok=True)
        try:
            with open_whole(cache) as file:  # not kept open: Windows renames no file that is mapped
                pixels = np.lib.format.open_memmap(file.name, "w+", np.uint8, shape)
                decode_into(pixels, files, expected).flush()
                file.seek(0, os.SEEK_END)
                file.write(checksum_of(pixels))
                del pixels
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # an image is the problem
                raise
            logging.warning("%s; the images are kept in memory", error)
            return None
        pixels = np.load(cache, mmap_mode="c")  # copy on write: torch expects writable memory
    return pixels


def read_cache(cache, shape):
    """Return the pixels in a file that `memory_mapped` wrote; None if it is missing, damaged or without a checksum."""
    with contextlib.suppress(Exception):  # numpy raises errors of many types for a damaged file
        pixels = np.load(cache, mmap_mode="c")
        with open(cache, "rb") as file:
            file.seek(pixels.offset + pixels.nbytes)
            if (pixels.shape, pixels.dtype, file.read()) == (shape, np.uint8, checksum_of(pixels)):
                return pixels
    if cache.exists():
        logging.warning("%s is damaged, or of an earlier version: it is written again", cache)


def checksum_of(pixels):
    """Return the checksum (4 bytes) of an array: of all pieces of 1 MB, or of every n-th if there are more than 500."""
    flat, checksum = pixels.reshape(-1), 0
    for start in range(0, flat.size, PIECE * (1 + flat.size // (500 * PIECE))):
        checksum = zlib.crc32(flat[start : start + PIECE], checksum)
    return checksum.to_bytes(4, "big")
