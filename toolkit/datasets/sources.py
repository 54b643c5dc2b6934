"""Where the images of a dataset come from: the bundled digits, a folder of the user's, torchvision's sets."""

import gzip
import hashlib
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.core.image_decoding import image_extensions, is_grey
from utils import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "dev": "val", "test": "test"}
SPLIT_PREFIX = re.compile(r"(train|val|dev|test)(ing|s|id|idation|elopment)?(?![a-z])", re.IGNORECASE)
CLOTHES = "T-shirt-top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
TORCHVISION_SETS = {  # name there, classes, channels, (height, width)
    "mnist": ("MNIST", [str(n) for n in range(10)], 1, (28, 28)),
    "fashion_mnist": ("FashionMNIST", CLOTHES.split(","), 1, (28, 28)),
    "cifar10": ("CIFAR10", THINGS.split(","), 3, (32, 32)),
}


@dataclass(slots=True)
class Item:
    """One image of a source: its class, its name in the dataset, its split (None: not split yet), and where it is."""

    label: str
    name: str
    image: Path | np.ndarray  # a file, or uint8 pixels of shape (height, width, channels)
    split: str | None = None


@dataclass
class Source:
    """The images to build a dataset from.

    Attributes:
        load: function that gives the list of Item.
        classes: the class names, in the order of their labels 0, 1, 2, ...
        channels: 1 (grey) or 3 (RGB).
        image_size: (height, width) in pixels, or None: to be resized to what the user says.
        facts: dict that tells this source from another one, kept in dataset.json.
    """

    load: Callable[[], list[Item]]
    classes: list
    channels: int
    image_size: tuple | None
    facts: dict


def digits():
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn brings along.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
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
    """MNIST, Fashion-MNIST or CIFAR-10 with their own test split, from `raw_dir`, downloaded where they are not there.

    Args:
        kind: "mnist", "fashion_mnist" or "cifar10".
        raw_dir: folder with the raw files as they are published (gzipped or not), or in torchvision's layout.

    Raises:
        UserError: on loading: they cannot be downloaded, or are damaged.
    """
    name, classes, channels, size = TORCHVISION_SETS[kind]

    def load():
        from torchvision import datasets

        items = []
        try:
            with torchvision_layout(Path(raw_dir), name) as root:
                for split, train in ((None, True), ("test", False)):
                    data = getattr(datasets, name)(root, train=train, download=True)
                    images = np.asarray(data.data).reshape(-1, *size, channels)
                    pairs = zip(images, np.asarray(data.targets).tolist(), strict=True)
                    items += [Item(classes[label], f"{i:05d}", image, split) for i, (image, label) in enumerate(pairs)]
        except (OSError, RuntimeError, EOFError, ValueError, AssertionError, zlib.error) as error:
            for made in (Path(raw_dir) / name / "raw", Path(raw_dir) / name, Path(raw_dir)):
                with suppress(OSError):
                    made.rmdir()  # if empty: what a download that failed leaves behind
            reason = " ".join(str(error).split())
            raise UserError(
                f"{kind}: no usable raw files in {raw_dir}, and they cannot be downloaded: {reason}; "
                f"put the published files there (or name their folder with --raw_dir) and run this again"
            ) from None
        return items

    return Source(load, classes, channels, size, {"kind": kind, "from": f"torchvision's {name}"})


@contextmanager
def torchvision_layout(raw_dir, name):
    """The folder to give torchvision as root: `raw_dir`, or a temporary one where the raw files lie in it directly."""
    loose = [f for f in raw_dir.glob("*-ubyte*") if f.is_file()] if raw_dir.is_dir() and name != "CIFAR10" else []
    if not loose:
        yield raw_dir
        return
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root) / name / "raw"
        raw.mkdir(parents=True)
        for file in loose:
            opener = gzip.open if file.suffix == ".gz" else open
            with opener(file, "rb") as packed, open(raw / file.name.removesuffix(".gz"), "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        yield root


def folder(path):
    """The user's own images, in one of three layouts, each alone or within folders for splits.

    - class subfolders: `cat/anything.jpg`, `dog/anything.png`
    - a label before the first underscore of the file name: `0_IMG_5864.jpg`, `12_IMG_0001.JPG`
    - folders for splits, named `train*`, `val*` or `dev*`, and `test*` (CS230's `train_signs/`, `test_signs/`), with
      one of the two layouts above in each

    Args:
        path: the folder.

    Raises:
        UserError: no such folder, no images, a file without a label, two folders for one split.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    items, files, ignored = [], [], []
    for split, place in split_folders(path).items():
        images, others = files_in(place)
        items += labelled(images, place, split)
        files += images
        ignored += others
    if not items:
        passed = f" ({len(ignored)} other files were ignored, {ignored[0]} for one)" if ignored else ""
        raise UserError(f"{path}: no images in it{passed}")
    if ignored:
        logging.info("%d files that are not images were ignored", len(ignored))
    classes = sorted({item.label for item in items}, key=numbers_first)
    channels = 1 if all(map(is_grey, files)) else 3
    inventory = hashlib.sha256()
    for file in files:
        stat = file.stat()
        inventory.update(os.fsencode(file.relative_to(path)) + b" %d %d\n" % (stat.st_size, stat.st_mtime_ns))
    facts = {"kind": "folder", "from": str(path.resolve()), "inventory": inventory.hexdigest()}
    return Source(lambda: items, classes, channels, None, facts)


def split_folders(path):
    """The folders of the splits within `path`, a dict from split to folder, or {None: folder} where it is not split."""
    children = sorted(c for c in path.iterdir() if c.is_dir() and not c.name.startswith("."))
    found = {c: SPLIT_NAMES[m.group(1).lower()] for c in children if (m := SPLIT_PREFIX.match(c.name))}
    if set(found.values()) == {"train"}:  # among other folders, a class that happens to be called so
        return {None: children[0] if len(children) == 1 else path}
    if "train" not in found.values():
        return {None: path}
    splits = {}
    loose = [c for c in path.iterdir() if c.is_file() and c.suffix.lower() in image_extensions()]
    if loose:
        raise UserError(f"{path}: has images ({loose[0].name}) beside the folders for splits; move them into one")
    for child in children:
        if child not in found:
            raise UserError(
                f"{path}: {child.name} is no folder for train, val or test, as others are; move it elsewhere"
            )
        other = splits.setdefault(found[child], child)
        if other is not child:
            raise UserError(f"{path}: {other.name} and {child.name} are both for the {found[child]} split; keep one")
    return splits


def files_in(folder):
    """The images below a folder, and the other files, two sorted lists; without what is hidden."""
    endings, hidden = image_extensions(), re.compile(r"(^|/)\.")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not hidden.search(f.relative_to(folder).as_posix()))
    return [f for f in files if f.suffix.lower() in endings], [f for f in files if f.suffix.lower() not in endings]


def labelled(images, place, split):
    """Yield an Item for each of the images in the folder `place`, by its class subfolder or its own name."""
    subfolders = {child.name for child in place.iterdir() if child.is_dir() and not child.name.startswith(".")}
    loose = [file for file in images if file.parent == place]
    if loose and subfolders:
        way_out = "keep images in class subfolders only"
        raise UserError(f"{place}: has both subfolders and loose images ({loose[0].name}); {way_out}")
    for empty in subfolders - {file.relative_to(place).parts[0] for file in images}:
        raise UserError(f"{place / empty}: a class folder without images; remove it or fill it")
    for file in images:
        *folders, name = file.relative_to(place).with_suffix("").parts
        label, underscore, _ = name.partition("_")
        if folders:
            yield Item(folders[0], "_".join([*folders[1:], name]), file, split)
        elif label and underscore:
            yield Item(label, name, file, split)
        else:
            raise UserError(f"{file}: no label: name it <label>_<anything>, or put it into a folder of its class")


def numbers_first(label):
    """A key that sorts class names: numbers by value (10 after 9), then words."""
    return (0, int(label), label) if label.isdecimal() else (1, 0, label)
