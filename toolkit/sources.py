"""Where the images of a dataset come from: the bundled digits, a folder of the user's, torchvision's sets."""

import gzip
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.images import image_extensions, is_grey
from utils import UserError

SPLIT_NAMES = {"train": "train", "val": "val", "dev": "val", "test": "test"}
SPLIT_PREFIX = re.compile("train|val|dev|test", re.IGNORECASE)


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
        items: list of Item.
        classes: the class names, in the order of their labels 0, 1, 2, ...
        channels: 1 (grey) or 3 (RGB).
        image_size: (height, width) in pixels, or None: to be resized to what the user says.
        facts: dict that tells this source from another one, kept in dataset.json.
        ignored: how many files were passed over, as no images.
    """

    items: list
    classes: list
    channels: int
    image_size: tuple | None
    facts: dict
    ignored: int = 0


def digits():
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn brings along.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)[..., None]  # (1797, 8, 8, 1), 0..16 to 0..255
    pairs = zip(pixels, bunch.target, strict=True)
    items = [Item(str(label), f"{i:04d}", image) for i, (image, label) in enumerate(pairs)]
    facts = {"kind": "digits", "from": "scikit-learn's load_digits"}
    return Source(items, [str(n) for n in range(10)], 1, (8, 8), facts)


def torchvision_set(kind, raw_dir):
    """MNIST, Fashion-MNIST or CIFAR-10 with their own test split, from `raw_dir`, downloaded where they are not there.

    Args:
        kind: "mnist", "fashion_mnist" or "cifar10".
        raw_dir: folder with the raw files as they are published (gzipped or not), or in torchvision's layout.

    Raises:
        UserError: they cannot be downloaded, or are damaged.
    """
    from torchvision import datasets

    name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}[kind]
    kind_of_set = getattr(datasets, name)
    items = []
    with torchvision_layout(Path(raw_dir), name) as root:
        for split, train in (("train", True), ("test", False)):
            try:
                data = kind_of_set(root, train=train, download=True)
            except (OSError, RuntimeError, EOFError, ValueError, AssertionError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"{kind}: no usable raw files in {raw_dir}, and they cannot be downloaded: {reason}; "
                    f"put the published files there (or name their folder with --raw_dir) and run this again"
                ) from None
            pixels = np.asarray(data.data)
            pixels = pixels if pixels.ndim == 4 else pixels[..., None]  # (N, height, width, channels)
            classes = [str(n) for n in range(10)] if kind == "mnist" else [c.replace("/", "-") for c in data.classes]
            labels = np.asarray(data.targets).tolist()
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                items.append(Item(classes[label], f"{i:05d}", image, split if split == "test" else None))
    height, width, channels = pixels.shape[1:]
    return Source(items, classes, channels, (height, width), {"kind": kind, "from": f"torchvision's {name}"})


@contextmanager
def torchvision_layout(raw_dir, name):
    """The folder to give torchvision as root: `raw_dir`, or a temporary one where the raw files lie in it directly."""
    loose = [f for f in raw_dir.glob("*-ubyte*") if f.is_file()] if raw_dir.is_dir() and name != "CIFAR10" else []
    if not loose:
        raw_dir.mkdir(parents=True, exist_ok=True)
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
    endings = image_extensions()
    ignored = []
    items = []
    for split, place in split_folders(path).items():
        for label, name, file in labelled_files(place, endings, ignored):
            items.append(Item(label, name, file, split))
    if not items:
        passed = f" ({len(ignored)} other files were ignored, {ignored[0]} for one)" if ignored else ""
        raise UserError(f"{path}: no images in it{passed}")
    classes = sorted({item.label for item in items}, key=lambda c: (not c.isdigit(), int(c) if c.isdigit() else 0, c))
    channels = 1 if all(is_grey_or_broken(item.image) for item in items) else 3
    inventory = hashlib.sha256()
    for item in items:
        stat = item.image.stat()
        inventory.update(os.fsencode(item.image.relative_to(path)) + b" %d %d\n" % (stat.st_size, stat.st_mtime_ns))
    facts = {"kind": "folder", "from": str(path), "inventory": inventory.hexdigest()}
    return Source(items, classes, channels, None, facts, len(ignored))


def split_folders(path):
    """The folders of the splits within `path`, a dict from split to folder, or {None: folder} where it is not split."""
    children = sorted(c for c in path.iterdir() if c.is_dir() and not c.name.startswith("."))
    found = {c: SPLIT_NAMES[m.group().lower()] for c in children if (m := SPLIT_PREFIX.match(c.name))}
    if "train" not in found.values():
        return {None: path}
    if len(children) == 1:
        return {None: children[0]}
    if set(found.values()) == {"train"}:  # a class that happens to be called so, among others
        return {None: path}
    splits = {}
    for child in children:
        if child not in found:
            raise UserError(
                f"{path}: {child.name} is no folder for train, val or test, as others are; move it elsewhere"
            )
        other = splits.setdefault(found[child], child)
        if other is not child:
            raise UserError(f"{path}: {other.name} and {child.name} are both for the {found[child]} split; keep one")
    return splits


def labelled_files(place, endings, ignored):
    """Yield (label, name, file) for the images in one folder, sorted; names of other files are added to `ignored`."""
    children = sorted(c for c in place.iterdir() if not c.name.startswith("."))
    loose = [c for c in children if c.is_file() and c.suffix.lower() in endings]
    ignored.extend(c for c in children if c.is_file() and c.suffix.lower() not in endings)
    subfolders = [c for c in children if c.is_dir()]
    if loose and subfolders:
        way_out = "keep images in class subfolders only"
        raise UserError(f"{place}: has both subfolders and loose images ({loose[0].name}); {way_out}")
    for file in loose:
        label, underscore, _ = file.stem.partition("_")
        if not underscore or not label:
            raise UserError(f"{file}: no label: name it <label>_<anything>, or put it into a folder of its class")
        yield label, file.stem, file
    for subfolder in subfolders:
        files = sorted(f for f in subfolder.rglob("*") if f.is_file() and not f.name.startswith("."))
        images = [f for f in files if f.suffix.lower() in endings]
        ignored.extend(f for f in files if f.suffix.lower() not in endings)
        if not images:
            raise UserError(f"{subfolder}: a class folder without images; remove it or fill it")
        for file in images:
            yield subfolder.name, "_".join(file.relative_to(subfolder).with_suffix("").parts), file


def is_grey_or_broken(path):
    """Whether a file can be left out when it is asked if a dataset has colours (a broken one is named when decoded)."""
    try:
        return is_grey(path)
    except UserError:
        return True
