"""Decoding of one image: from any file that Pillow opens to the uint8 pixels that a dataset holds."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from toolkit.core.progress_bar import progress_bar
from utils import UserError


class CorruptImage(UserError):
    """A file that should be an image cannot be decoded."""


def files_below(folder, above=()):
    """Return the files in a folder and its subfolders, a sorted list of Paths; hidden ones are left out.

    A link to a folder is a folder, unless it leads back to one of `above`, the (device, inode) of those it is in.
    """
    status, files = os.stat(folder), []
    above = (*above, (status.st_dev, status.st_ino))
    try:
        for entry in os.scandir(folder):
            if is_hidden(entry.name):
                continue
            if not entry.is_dir():
                files.append(Path(entry))
            elif (entry.stat().st_dev, entry.stat().st_ino) not in above:
                files += files_below(entry.path, above)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(files)


def is_hidden(name):
    """Return True for the names of files and folders that systems add, which no user made."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir")


def is_image(path):
    """Return True if a file has the extension of a format that Pillow can open."""
    Image.init()
    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN


def opened(path):
    """Return the Pillow image of a file, not decoded yet; raise CorruptImage if it is not an image."""
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        raise CorruptImage(f"{path}: cannot be read as an image: its format is unknown, or it is damaged") from None
    except Exception as error:  # Pillow's readers raise errors of many types
        raise CorruptImage(f"{path}: cannot be read as an image: {reason(error)}") from None


def decode(path, size, channels):
    """Return the pixels of an image file, rotated as its EXIF data say, without transparency, resized.

    A JPEG that is more than twice as large as `size` is decoded at a half, a quarter or an eighth of its size.

    Args:
        path: the file.
        size: (height, width) in pixels, or None to keep the size of the image.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 array of shape (height, width, channels).

    Raises:
        CorruptImage: the file is damaged, truncated or not an image.
    """
    with opened(path) as image:
        try:
            if size is not None:
                is_sideways = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that exchange height and width
                height, width = reversed(size) if is_sideways else size
                image.draft(None, (2 * width, 2 * height))
            pixels = convert(ImageOps.exif_transpose(image), channels)
        except Exception as error:
            raise CorruptImage(f"{path}: cannot be decoded: {reason(error)}") from None
    return resized(pixels, size)


def convert(image, channels):
    """Return a Pillow image as grey ("L") or RGB; transparency becomes white, integer pixels are read as 16 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if image.mode.startswith("I") else 255 if values.max() <= 1 else 1
        image = Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


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
        with progress_bar(name, len(items)) as bar:
            for some in pool.map(call, range(0, len(items), chunk)):
                results += some
                bar.update(len(some))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def reason(error):
    """Return the text of an error without the path, which the message names already."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
