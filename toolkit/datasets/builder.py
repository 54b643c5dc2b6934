"""Builds a dataset folder from a source of images: splits, decodes, writes, checks; whole or not at all."""

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.core.image_dataset import FACTS, SPLITS, digest_of, fingerprint_of, list_files, read_facts
from toolkit.core.image_decoding import CorruptImage, decode, in_threads, resized
from toolkit.datasets.folders import is_there, whole_folder
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
        source: a toolkit.datasets.sources.Source. What it has not split is split 80/10/10, or 80/20 where one of the
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
    recipe = source.facts | {
        "seed": seed,
        "image_size": list(size),
        "skip_corrupt": skip_corrupt,
        "drop_duplicates": drop_duplicates,
    }
    if is_there(target, recipe, force):
        facts = read_facts(target)
        for split in SPLITS:
            list_files(target, split, facts)  # raises where some are missing
        return None
    items = assign_splits(source.load(), source.classes, seed)
    with whole_folder(target) as aside:
        written = write_images(items, aside, size, source.channels, skip_corrupt)
        written = without_duplicates(written, aside, drop_duplicates)
        facts = describe(written, source, size, recipe)
        write_whole(aside / FACTS, json.dumps(facts, indent=2) + "\n")
    return facts


def assign_splits(items, classes, seed):
    """`items` with a split each: those without one are dealt out, class by class, copies of one file together.

    Raises:
        UserError: fewer than two classes, or a class too small to be in every split.
    """
    if len(classes) < 2:
        raise UserError(f"there is one class only ({classes[0]}); a classifier needs two or more")
    missing = {"test", "val"} - {item.split for item in items}
    if not missing:
        return items
    share = 0.2 if len(missing) == 1 else 0.1
    loose = [item for item in items if item.split in (None, "train")]
    groups = {}
    for item, key in zip(loose, copy_keys(loose), strict=True):
        groups.setdefault(key, []).append(item)
    by_class = {label: [] for label in classes}
    for first, *others in groups.values():
        other = next((item for item in others if item.label != first.label), None)
        if other and isinstance(other.image, Path):  # a published set is taken as it is
            raise UserError(f"one image in two classes: {first.image} and {other.image} are the same; remove one")
        by_class[first.label].append([first, *others])
    generator = np.random.default_rng(seed)
    for label, found in by_class.items():
        total, needed = len(found), len(missing) + 1
        if total < needed:
            into = " and ".join(split for split in SPLITS if split in missing | {"train"})
            raise UserError(
                f"the class {label!r} has {total} different images to split into {into}; {needed} are needed at least"
            )
        dealt = [found[i] for i in generator.permutation(total)]
        for split in sorted(missing):
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
    where = {}  # from digest to a dict from split to the first image of it there
    for image in written:
        where.setdefault(image.digest, {}).setdefault(image.split, image)
    twice = {digest: [split for split in SPLITS if split in found] for digest, found in where.items()}
    twice = {digest: splits for digest, splits in twice.items() if len(splits) > 1}
    if twice and not drop:
        lines = [" = ".join(f"{s}: {where[digest][s].origin}" for s in splits) for digest, splits in twice.items()]
        lines[LISTED:] = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise UserError(
            "\n  ".join(
                [
                    f"images in two splits: {len(twice)}; they make results look better than they are "
                    f"(--drop_duplicates leaves them out of train):",
                    *lines,
                ]
            )
        )
    kept = [image for image in written if image.split == twice.get(image.digest, [image.split])[-1]]
    for file in {image.file for image in written} - {image.file for image in kept}:
        (folder / file).unlink()
    if twice:
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
