"""Decoding of one image: from any file that Pillow opens to the uint8 pixels that a dataset holds."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from toolkit.core.progress_bar import progress_bar
from utils import UserError


class CorruptImage(UserError):
    """A file that should be an image cannot be decoded."""


def image_extensions():
    """Return the file extensions that Pillow can open, a set of strings in lower case."""
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def opened(path):
    """Return the Pillow image of a file, not decoded yet; raise CorruptImage if it is not an image."""
    try:
        return Image.open(path)
    except Exception as error:  # Pillow's readers raise errors of many types
        raise CorruptImage(f"{path}: cannot be read as an image: {reason(error, path)}") from None


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
            raise CorruptImage(f"{path}: cannot be decoded: {reason(error, path)}") from None
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
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


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


def reason(error, path):
    """Return the text of an error without the path, which the message names already."""
    text = str(error)
    for name in (os.path.realpath(path), str(path)):  # which one Pillow names depends on its version
        text = text.replace(repr(name), "it").replace(name, "it")
    return text or type(error).__name__
