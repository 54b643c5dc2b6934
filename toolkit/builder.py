"""Builds a dataset folder from a source of images: splits, decodes, writes, checks; whole or not at all."""

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.dataset import FACTS, SPLITS, digest_of, fingerprint_of, list_files, read_facts
from toolkit.folders import whole_folder
from toolkit.images import CorruptImage, decode, in_threads, resized
from utils import UserError, write_whole

DEFAULT_SIZE = (64, 64)  # of images from a folder
LISTED = 10  # duplicates that an error lists before it only counts


@dataclass(slots=True)
class Written:
    """One image of the dataset: its place, what its pixels are, and their sums for the mean and the deviation."""

    split: str
    label: str
    file: str  # relative to the dataset folder
    origin: str
    digest: bytes
    pixels: int  # height x width
    sums: np.ndarray  # (2, channels): of the values 0..255, and of their squares


def build(source, target, *, seed=230, image_size=None, force=False, skip_corrupt=False, drop_duplicates=False):
    """Make the dataset folder `target`: `<split>/<class>/<image>.png` and `dataset.json`, the facts.

    Args:
        source: a toolkit.sources.Source. What it has not split is split 80/10/10, or 80/20 where one of the
            three splits is missing; at random by `seed`, alike in every class, copies of a file staying together.
        target: the folder; it appears whole or not at all.
        image_size: (height, width) to resize to; None: what the source has, or 64×64 for a folder of images.
        force: replace another dataset that is there.
        skip_corrupt: go on without images that cannot be decoded.
        drop_duplicates: of identical images in two splits, leave out the one in train (or in val, of val and test).

    Returns:
        The facts, as in dataset.json; None where `target` is that dataset already and nothing was done.

    Raises:
        UserError: too few images or classes, a corrupt image, identical images in two splits, another dataset there.
    """
    target = Path(target)
    size = tuple(image_size or source.image_size or DEFAULT_SIZE)
    recipe = source.facts | {"seed": seed, "image_size": list(size), "skip_corrupt": skip_corrupt,
                             "drop_duplicates": drop_duplicates}  # fmt: skip
    if is_there(target, recipe, force):
        logging.info("%s is there already, made from the same source: nothing to do", target)
        return None
    items = assign_splits(source.load(), source.classes, seed)
    if source.ignored:
        logging.info("%d files that are not images were ignored", source.ignored)
    with whole_folder(target) as aside:
        written = write_images(items, aside, size, source.channels, skip_corrupt)
        written = without_duplicates(written, aside, drop_duplicates)
        facts = describe(written, source, size, recipe)
        write_whole(aside / FACTS, json.dumps(facts, indent=2) + "\n")
    return facts


def is_there(target, recipe, force):
    """Whether the dataset of `recipe` (the "source" of its dataset.json) is at `target` already.

    Raises:
        UserError: something else is there: not a dataset, or another one and not `force`.
    """
    if not target.exists():
        return False
    facts = read_facts(target)
    theirs = facts.get("source")
    if not isinstance(theirs, dict):
        raise UserError(f"{target}: is there and was not made by build_dataset.py; choose another --name")
    if force:
        return False
    if theirs != recipe:
        names = [k for k in recipe if theirs.get(k) != recipe[k] and k != "inventory"]
        changed = "; ".join(f"{k} {theirs.get(k)}, now {recipe[k]}" for k in names) or "files were changed since"
        raise UserError(f"{target}: holds another dataset ({changed}); --force replaces it")
    for split in SPLITS:
        list_files(target, split, facts)  # raises where some are missing
    return True


def assign_splits(items, classes, seed):
    """`items` with a split each: those without one are dealt out, class by class, copies of one file together.

    Raises:
        UserError: fewer than two classes, or a class too small to be in every split.
    """
    if len(classes) < 2:
        raise UserError(f"there is one class only ({classes[0]}); a classifier needs two or more")
    given = {item.split for item in items if item.split}
    shares = {split: share for split, share in (("test", 0.2), ("val", 0.2)) if split not in given}
    if len(shares) == 2:
        shares = {"test": 0.1, "val": 0.1}
    if not shares:
        return items
    generator = np.random.default_rng(seed)
    loose = [item for item in items if item.split is None or item.split == "train"]
    groups = {}
    for item, key in zip(loose, copy_keys(loose), strict=True):
        groups.setdefault(key, []).append(item)
    for first, *others in groups.values():
        other = next((item for item in others if item.label != first.label), None)
        if other and isinstance(other.image, Path):  # a published set is taken as it is
            raise UserError(f"one image in two classes: {first.image} and {other.image} are the same; remove one")
    by_class = {label: [] for label in classes}
    for group in groups.values():
        by_class[group[0].label].append(group)
    for label in classes:
        dealt = [by_class[label][i] for i in generator.permutation(len(by_class[label]))]
        if len(dealt) < len(shares) + 1:
            needed = f"{len(shares) + 1} are needed at least"
            into = " and ".join(["train", *shares])
            raise UserError(f"the class {label!r} has {len(dealt)} different images to split into {into}; {needed}")
        total = len(dealt)
        for split, share in shares.items():
            for item in chain.from_iterable(dealt.pop() for _ in range(max(1, round(share * total)))):
                item.split = split
        for item in chain.from_iterable(dealt):
            item.split = "train"
    return items


def copy_keys(items):
    """Yield a key for each item, the same for copies. A file whose size no other has is not read for it."""
    sizes = Counter(item.image.stat().st_size for item in items if isinstance(item.image, Path))
    for item in items:
        if not isinstance(item.image, Path):
            yield hashlib.sha256(item.image.tobytes()).digest()
        elif sizes[item.image.stat().st_size] == 1 or not os.access(item.image, os.R_OK):
            yield item.image
        else:
            yield hashlib.sha256(item.image.read_bytes()).digest()


def write_images(items, folder, size, channels, skip_corrupt):
    """Decode, resize and write all images as PNG files, in parallel. Returns a list of Written, in order."""
    for split, label in {(item.split, item.label) for item in items}:
        (folder / split / label).mkdir(parents=True)
    taken, jobs = set(), []
    for item in items:
        file = f"{item.split}/{item.label}/{item.name}.png"
        number = 2
        while file.lower() in taken:  # a.jpg and a.png, or A.jpg on a file system that does not tell them apart
            file, number = f"{item.split}/{item.label}/{item.name}_{number}.png", number + 1
        taken.add(file.lower())
        jobs.append((item, file))

    def write(job):
        item, file = job
        try:
            if isinstance(item.image, Path):
                pixels = decode(item.image, size, channels)
            else:
                image = item.image[..., 0] if channels == 1 else item.image
                pixels = resized(Image.fromarray(image), size)
        except CorruptImage as error:
            if skip_corrupt:
                return str(error)
            raise UserError(f"{error} (--skip_corrupt leaves such files out)") from None
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / file, compress_level=1)
        values = pixels.reshape(-1, channels).astype(np.int64)
        origin = str(item.image) if isinstance(item.image, Path) else file
        sums = np.stack([values.sum(0), (values**2).sum(0)])
        return Written(item.split, item.label, file, origin, digest_of(pixels), len(values), sums)

    results = in_threads(write, jobs, "images")
    for skipped in [r for r in results if isinstance(r, str)]:
        logging.warning("left out: %s", skipped)
    return [r for r in results if isinstance(r, Written)]


def without_duplicates(written, folder, drop):
    """`written` without images that stand in two splits: with `drop`, the copy in the split less to be trusted goes.

    Raises:
        UserError: there are some, and not `drop`.
    """
    first = {split: {} for split in SPLITS}  # by digest
    for image in written:
        first[image.split].setdefault(image.digest, image)
    shared = set().union(*(first[one].keys() & first[other].keys() for one, other in combinations(SPLITS, 2)))
    if not shared:
        return written
    twice = {image.digest: [s for s in SPLITS if image.digest in first[s]] for image in written
             if image.digest in shared}  # fmt: skip
    if not drop:
        lines = [" = ".join(f"{s}: {first[s][digest].origin}" for s in found) for digest, found in twice.items()]
        if len(lines) > LISTED:
            lines[LISTED:] = [f"... and {len(lines) - LISTED} more"]
        raise UserError(
            f"{len(twice)} images are in two splits, which makes results look better than they are "
            f"(--drop_duplicates leaves them out of train):\n  " + "\n  ".join(lines)
        )
    kept = []
    for image in written:
        if image.split == twice.get(image.digest, [image.split])[-1]:
            kept.append(image)
        else:
            (folder / image.file).unlink()
    logging.info("%d images were left out, for being in a later split too", len(written) - len(kept))
    return kept


def describe(written, source, size, recipe):
    """The content of dataset.json, a dict.

    Raises:
        UserError: a split is empty, or a class has no images in train.
    """
    counts = {split: dict.fromkeys(source.classes, 0) for split in SPLITS}
    for image in written:
        counts[image.split][image.label] += 1
    for label, count in counts["train"].items():
        if not count:
            raise UserError(f"the class {label!r} has no images in the train split")
    for split in SPLITS:
        if not any(counts[split].values()):
            raise UserError(f"the {split} split has no images")
    train = [image for image in written if image.split == "train"]
    pixels = sum(image.pixels for image in train)
    mean, squares = sum(image.sums for image in train) / pixels / [[255], [255**2]]
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    digests = [(image.file, image.digest) for image in written]
    return {
        "num_classes": len(source.classes),
        "class_names": source.classes,
        "image_channels": source.channels,
        "image_height": size[0],
        "image_width": size[1],
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "counts": counts,
        "fingerprint": fingerprint_of(digests),
        "split_fingerprint": {s: fingerprint_of(d for d in digests if d[0].startswith(f"{s}/")) for s in SPLITS},
        "source": recipe,
    }
