"""Which files are images, and their decoding: from any file that Pillow opens to the uint8 pixels of a dataset."""

import contextlib
import io
import os
import re
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit.core.memory import available_memory
from toolkit.core.progress_bar import progress_bar
from utils import UserError

CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir")  # that systems leave beside the user's files
UNSUPPORTED = re.compile(r"\.(hei[cf]|hif|avif|jxl|svg|dng|cr[23]|nef|arw|orf|raf|rw2|dcm)", re.IGNORECASE)
UPRIGHT = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # from EXIF's orientation to Pillow's Transpose
LARGE = 5e7  # pixels of an image that is decoded alone
one_large_image = threading.Lock()


class CorruptImage(UserError):
    """A file that should be an image cannot be decoded."""


def files_below(folder, above=()):
    """Return the files in a folder and its subfolders, a sorted list of Paths, without hidden ones.

    A link to a folder is a folder, unless it leads back to one of `above`, the (device, inode) of those it is in.
    """
    status, files = os.stat(folder), []
    above = (*above, (status.st_dev, status.st_ino))
    try:
        for entry in os.scandir(folder):
            if is_hidden(entry.name):
                continue
            if not entry.is_dir():
                files += [Path(entry)] if entry.is_file() or entry.is_symlink() else []  # a pipe would be waited for
            elif (entry.stat().st_dev, entry.stat().st_ino) not in above:
                files += files_below(entry.path, above)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(files)


def is_hidden(name):
    """Return True for the names of hidden files and folders, and of those that systems add."""
    return name.startswith(".") or name in CLUTTER


def is_image(path):
    """Return True if a file has the extension of an image format, even of one that Pillow cannot open."""
    Image.init()
    can_open = Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN
    return can_open or UNSUPPORTED.fullmatch(path.suffix) is not None


def read_image(path, function):
    """Return `function(image)` for the Pillow image in a file, which is not decoded yet; an error is a CorruptImage.

    If it fails, it is tried again without the file's metadata, which may be at fault while the pixels are fine.
    """
    Image.MAX_IMAGE_PIXELS = None  # scans are larger; `in_turn` has a limit of its own
    try:
        with Image.open(path) as image:
            return function(image)
    except Exception as error:  # Pillow's readers raise errors of many types
        problem = error
    with contextlib.suppress(Exception), Image.open(io.BytesIO(without_metadata(Path(path).read_bytes()))) as image:
        return function(image)
    if isinstance(problem, UnidentifiedImageError):
        advice = ": convert it to JPEG or PNG" if UNSUPPORTED.fullmatch(Path(path).suffix) else ", or it is damaged"
        raise CorruptImage(f"{path}: cannot be read as an image: its format is unknown to Pillow{advice}") from None
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    if isinstance(problem, FileNotFoundError) and os.path.islink(path):
        text = f"it is a link to {os.readlink(path)}, which is not there"
    raise CorruptImage(f"{path}: cannot be decoded: {text}") from None


def without_metadata(content):
    """Return the bytes of a PNG or JPEG file without texts and colour profile; EXIF says how the image is turned."""
    kept, place = [], 0
    if content.startswith(b"\x89PNG"):
        kept, place = [content[:8]], 8
        while place < len(content):  # length, name, data, checksum
            chunk = content[place : place + 12 + int.from_bytes(content[place : place + 4], "big")]
            if chunk[4:8] == b"eXIf":
                kept += [chunk[:-4], zlib.crc32(chunk[4:-4]).to_bytes(4, "big")]
            elif chunk[4:5].isupper() or chunk[4:8] == b"tRNS":
                kept.append(chunk)
            place += len(chunk)
    elif content.startswith(b"\xff\xd8"):
        kept, place = [content[:2]], 2
        while content[place : place + 1] == b"\xff" and content[place + 1] != 0xDA:  # marker, length, data; the scan
            segment = content[place : place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")]
            if not (0xE2 <= segment[1] <= 0xED or segment[1] in (0xEF, 0xFE)):
                kept.append(segment)
            place += len(segment)
        kept.append(content[place:])
    return b"".join(kept)


def decode(path, size, channels, value_range=None):
    """Return the pixels of an image file, rotated as its EXIF data say, without transparency, resized.

    A JPEG that is more than twice as large as `size` is decoded at a half, a quarter or an eighth of its size.

    Args:
        path: the file.
        size: (height, width) in pixels, or None to keep the size of the image.
        channels: 1 for grey, 3 for RGB.
        value_range: the values that become 0 and 255 in images of more than 8 bits; None: those of the data type.

    Returns:
        uint8 array of shape (height, width, channels).

    Raises:
        CorruptImage: the file is damaged, truncated or not an image, or its values are far outside `value_range`.
    """

    def pixels_of(image):
        if size is not None and image.format in ("JPEG", "MPO"):
            height, width = reversed(size) if orientation(image) in range(5, 9) else size
            image.draft(None, (2 * width, 2 * height))
        with in_turn(image):
            pixels = convert(image, channels, value_range)
            turn = UPRIGHT.get(orientation(image))
            return resized(pixels if turn is None else pixels.transpose(turn), size)

    return read_image(path, pixels_of)


def orientation(image):
    """Return the orientation in an image's EXIF data, 1 to 8; None without any, or if they are damaged."""
    with contextlib.suppress(Exception):  # Pillow's readers raise errors of many types
        return image.getexif().get(0x0112)


def in_turn(image):
    """Return the context in which to decode an image; large ones are decoded one at a time, to save memory."""
    pixels = image.width * image.height
    if pixels <= LARGE:
        return contextlib.nullcontext()
    needed = pixels * (24 if is_deep(image) else 4 * len(image.getbands()))  # bytes, with the copies that are made
    if needed > available_memory():
        size = f"{image.width}x{image.height} pixels"
        raise ValueError(f"{size} would need {needed / 1e9:.0f} GB of memory, more than is free; reduce it")
    return one_large_image


def convert(image, channels, value_range=None):
    """Return a Pillow image as grey ("L") or RGB; transparency becomes white, more than 8 bits are scaled to them."""
    if is_deep(image):
        image = Image.fromarray(scaled(np.asarray(image), value_range))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def is_deep(image):
    """Return True if a Pillow image has grey values of more than 8 bits: 16 or 32 bits, or float."""
    return image.mode.startswith("I") or image.mode == "F"


def scaled(values, value_range):
    """Return grey values, an array of numbers, as uint8 from 0 to 255; NaN becomes 0.

    Without a `value_range` (low, high), it is that of the data type: 0 to 65535, or 0 to 1 for floats.

    Raises:
        ValueError: the values are far outside the range, or use so little of the data type's that they need another.
    """
    is_float = values.dtype.kind == "f"
    low, high = value_range or (0, 1 if is_float else 65535)
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    finite = levels[np.isfinite(levels)]
    if finite.size and (finite.max() > 2 * 255 or finite.min() < -255 or (not value_range and finite.max() < 255 / 8)):
        found = f"{finite.min() * (high - low) / 255 + low:g} to {finite.max() * (high - low) / 255 + low:g}"
        known = f"those of the dataset are {low:g} to {high:g}" if value_range else "the dataset has no such images"
        raise ValueError(f"its grey values are {found}, but {known}; scale it to 8 bits as the dataset was")
    return np.nan_to_num(levels, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)


def resized(image, size):
    """Return a grey or RGB Pillow image as a uint8 array (height, width, channels), resized to `size` if it is given.

    Bilinear with antialiasing (Pillow's filter widens with the reduction); the aspect ratio is not kept.
    """
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.atleast_3d(image)


def in_threads(function, items, name):
    """Return `[function(item) for item in items]`, computed in parallel threads, with a progress bar called `name`.

    A thread takes several items at a time: to hand over one small image takes as long as to decode it.
    """
    threads = os.cpu_count() or 1
    chunk = max(1, min(32, len(items) // (8 * threads)))

    def call(start):
        return [function(item) for item in items[start : start + chunk]]

    results, pool = [], ThreadPoolExecutor(threads)
    try:
        with progress_bar(name, len(items)) as bar, warnings.catch_warnings(action="ignore"):  # about metadata
            for some in pool.map(call, range(0, len(items), chunk)):
                results += some
                bar.update(len(some))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
