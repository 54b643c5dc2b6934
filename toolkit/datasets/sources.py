"""Sources of images: the bundled digits, a folder of the user's images, and the datasets of torchvision."""

import contextlib
import gzip
import hashlib
import logging
import math
import os
import re
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, filterfalse
from pathlib import Path

import numpy as np

from toolkit.core.image_decoding import (
    CorruptImage,
    files_below,
    in_threads,
    in_turn,
    is_deep,
    is_hidden,
    is_image,
    read_image,
)
from toolkit.core.text import in_utf8, list_some
from utils import UserError

SPLIT_PREFIX = re.compile(r"(train|val|dev|test)(ing|s|id|idation|elopment)?(?![a-z])", re.IGNORECASE)
CLOTHES = "T-shirt-top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
GREY_MODES = ("1", "L", "LA", "La")  # of Pillow, besides those of more than 8 bits
TORCHVISION_SETS = {  # class in torchvision, class names, channels, (height, width)
    "mnist": ("MNIST", [str(n) for n in range(10)], 1, (28, 28)),
    "fashion_mnist": ("FashionMNIST", CLOTHES.split(","), 1, (28, 28)),
    "cifar10": ("CIFAR10", THINGS.split(","), 3, (32, 32)),
}


@dataclass(slots=True)
class Item:
    """One image of a source."""

    label: str  # class name
    name: str  # file name in the dataset, without its ending
    image: Path | np.ndarray  # a file, or uint8 pixels of shape (height, width, channels)
    split: str | None = None  # None: not split yet
    file: str = ""  # in the dataset; this and the following are set when it is written
    digest: bytes = b""  # of the pixels
    sums: np.ndarray | None = None  # (2, channels): sums of the pixel values 0..255, and of their squares


@dataclass
class Source:
    """The images to build a dataset from."""

    load: Callable[[], list[Item]]
    classes: list  # class names, in the order of their labels 0, 1, 2, ...
    channels: int  # 1 (grey) or 3 (RGB)
    image_size: tuple | None  # (height, width) in pixels; None: images of any size, to be resized
    facts: dict  # identifies the source in dataset.json
    value_range: list | None = None  # grey values that become 0 and 255, if there are images of more than 8 bits


def digits():
    """Return the 1,797 handwritten digits of 8×8 pixels that come with scikit-learn, as a Source.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
    """

    def load():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)[..., None]  # (1797, 8, 8, 1), 0..16 to 0..255
        pairs = zip(pixels, bunch.target, strict=True)
        return [Item(str(label), f"{i:04d}", image) for i, (image, label) in enumerate(pairs)]

    facts = {"kind": "digits", "from": "scikit-learn's load_digits"}
    return Source(load, [str(n) for n in range(10)], 1, (8, 8), facts)


def torchvision_set(kind, raw_dir):
    """Return MNIST, Fashion-MNIST or CIFAR-10 (`kind` is a key of TORCHVISION_SETS), as a Source with a test split.

    The folder `raw_dir` has the published files (gzipped or not) or torchvision's layout; others are downloaded.
    """
    name, classes, channels, size = TORCHVISION_SETS[kind]

    def load():
        from torchvision import datasets

        items, root = [], raw_dir
        with tempfile.TemporaryDirectory() as temporary:
            try:
                for file in Path(raw_dir).glob("*-ubyte*") if name != "CIFAR10" else ():  # torchvision has them in raw/
                    unpacked, root = Path(temporary, name, "raw", file.name.removesuffix(".gz")), temporary
                    unpacked.parent.mkdir(parents=True, exist_ok=True)
                    content = file.read_bytes()
                    unpacked.write_bytes(gzip.decompress(content) if file.suffix == ".gz" else content)
                for split, train in ((None, True), ("test", False)):
                    data = getattr(datasets, name)(root, train=train, download=True)
                    images = np.asarray(data.data).reshape(-1, *size, channels)
                    pairs = zip(images, np.asarray(data.targets).tolist(), strict=True)
                    items += [Item(classes[label], f"{i:05d}", image, split) for i, (image, label) in enumerate(pairs)]
            except (OSError, RuntimeError, EOFError, ValueError, AssertionError, zlib.error) as error:
                problem = f"{raw_dir} has no usable files of it, and downloading failed: {' '.join(str(error).split())}"
                cure = "put the published files there, or name their folder with --raw_dir"
                raise UserError(f"{kind}: {problem}; {cure}") from None
        return items

    return Source(load, classes, channels, size, {"kind": kind, "from": f"torchvision's {name}"})


def folder(path):
    """Return the user's own images as a Source.

    The folder has a subfolder for each class (`cat/anything.jpg`), or the label before the first underscore of each
    file name (`0_IMG_5864.jpg`), or one of these two layouts in a folder for each split (`train*`, `val*` or `dev*`,
    `test*`, as CS230's `train_signs/` and `test_signs/`). A folder that has not is a UserError.
    """
    path = Path(path)
    if not path.is_dir():
        problem = "is a file; give a folder of images" if path.exists() else "no such folder"
        raise UserError(f"{path}: {problem}")
    items, ignored, splits = [], [], split_folders(path)
    for split, place in splits.items():
        files = files_below(place)
        items += labelled_items(list(filter(is_image, files)), place, split)
        ignored += filterfalse(is_image, files)
    if ignored:
        logging.info("Ignored files that are not images: %d, such as %s", len(ignored), ignored[0])
    if not items:
        raise UserError(f"{path}: contains no images")
    classes = sorted({item.label for item in items}, key=numbers_first)
    if len(classes) < 2:
        inner = next(iter(splits.values()))
        while len(subfolders(inner)) == 1:
            inner = subfolders(inner)[0]
        names = list_some([child.name for child in subfolders(inner)])
        hint = f"; if {names} in it are meant, give the folder {inner}, or move them up" if names else ""
        raise UserError(f"{path}: there is only one class ({classes[0]}); a classifier needs at least two{hint}")
    inventory = hashlib.sha256()
    for item in items:
        stat = item.image.stat() if item.image.exists() else item.image.lstat()  # a link to nowhere: `decode` names it
        inventory.update(os.fsencode(item.image.relative_to(path)) + b" %d %d\n" % (stat.st_size, stat.st_mtime_ns))
    facts = {"kind": "folder", "from": str(path.resolve()), "inventory": inventory.hexdigest()}
    are_grey, value_range = inspect([item.image for item in items])
    return Source(lambda: items, classes, 1 if are_grey else 3, None, facts, value_range)


def inspect(files):
    """Return True if no image file has colours; and the range [low, high] of grey values of more than 8 bits, or None.

    The range is the same for all images, so that they stay comparable: 0 to 4095, for example (the next of 1, 3, 7,
    ..., 65535, ...), or from the smallest to the largest value if these use less than half of it.

    Raises:
        UserError: images have 16 bits per colour, of which Pillow reads the upper 8, but use only the lower ones.
    """
    limits, colours, notes = [], {}, {}

    def look(file):
        def look_at(image):
            if image.format != "MPO" and getattr(image, "is_animated", False):
                notes.setdefault("several pictures, of which the first is used", set()).add(file)
            if is_deep(image):
                with in_turn(image):
                    values = np.asarray(image)
                    finite = values[np.isfinite(values)]
                limits.extend([finite.min(), finite.max()] if finite.size else [])
                if finite.size < values.size:
                    notes.setdefault("pixels without a value (NaN), which become black", set()).add(file)
            elif ";16" in str(image.tile):
                colours[max(high for _, high in image.convert("RGB").getextrema())] = file
            return is_deep(image) or image.mode in GREY_MODES

        with contextlib.suppress(CorruptImage):  # `decode` raises it again
            return read_image(file, look_at)
        return True

    are_grey = all(in_threads(look, files, "inspect"))
    for note, found in notes.items():
        logging.warning("Images with %s: %d, such as %s", note, len(found), min(found))
    if colours and max(colours) < 128:
        used = f"has 16 bits per colour, but no image uses values above {256 * max(colours) + 255}"
        raise UserError(f"{colours[max(colours)]}: {used}, and Pillow reads only the upper 8 bits; scale them to 8")
    if not limits:
        return are_grey, None
    low, high = float(min(limits)), float(max(limits))
    power = 2 ** math.ceil(math.log2(max(high, 0) + 1)) - 1
    value_range = [0, power] if low >= 0 and high - low > power / 2 else [low, high if high > low else low + 1]
    logging.info("Images of more than 8 bits: the values %g to %g become 0 to 255", *value_range)
    return are_grey, value_range


def subfolders(path):
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(child for child in path.iterdir() if child.is_dir() and not is_hidden(child.name))


def split_folders(path):
    """Return a dict from split to the folder of that split in `path`; {None: folder} if it is not split."""
    children, splits = subfolders(path), {}
    for child in children:
        if match := SPLIT_PREFIX.match(child.name):
            splits.setdefault(match[1].lower().replace("dev", "val"), []).append(child)
    if "train" not in splits:
        return {None: path}
    if len(splits) == 1:  # among other folders it is a class called "train"
        return {None: children[0] if len(children) == 1 else path}
    images = (file for file in sorted(path.iterdir()) if is_image(file) and not is_hidden(file.name))
    for other in (file for file in (*children, *images) if file not in chain(*splits.values())):
        raise UserError(f"{path}: {other.name} is not in a folder for train, val or test; move it into one, or away")
    for split, (first, *others) in splits.items():
        if others:
            raise UserError(f"{path}: {first.name} and {others[0].name} are both for the {split} split; keep one")
    return {split: child for split, (child,) in splits.items()}


def labelled_items(images, place, split):
    """Yield an Item for each image file in the folder `place`, labelled by its class subfolder or its own name."""
    class_folders, filled = subfolders(place), {place / file.relative_to(place).parts[0] for file in images}
    for empty in (folder for folder in class_folders if folder not in filled):
        raise UserError(f"{empty}: class folder without images; add some or remove the folder")
    for file in images:
        *folders, name = map(in_utf8, file.relative_to(place).with_suffix("").parts)
        label, underscore, _ = name.partition("_")
        if folders:
            yield Item(folders[0], "_".join([*folders[1:], name]), file, split)
        elif class_folders:
            raise UserError(f"{file}: is next to class folders; move it into one")
        elif label and underscore:
            yield Item(label, name, file, split)
        else:
            raise UserError(f"{file}: no label; rename it to <label>_<anything>, or put it into a folder of its class")


def numbers_first(label):
    """Return a sort key for class names: numbers by value (10 after 9), then words."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)
