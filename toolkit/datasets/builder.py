"""Build a dataset folder from a source of images: split, decode, resize, write, and check for duplicates."""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.core.image_dataset import FACTS, SPLITS, digest_of, fingerprint_of, list_files, read_facts
from toolkit.core.image_decoding import CorruptImage, decode, in_threads, resized
from toolkit.core.text import list_some
from toolkit.datasets.dataset_folder import already_built, short_name, write_folder
from utils import UserError, write_whole

DEFAULT_SIZE = (64, 64)  # of images from a folder
LONGEST_NAME = 240  # bytes of a file name, of which most systems take 255, without a number and ".png"


def build(source, target, *, seed=230, image_size=None, force=False, skip_corrupt=False, drop_duplicates=False):
    """Build the dataset folder `target`, completely or not at all: `<split>/<class>/<image>.png` and `dataset.json`.

    Args:
        source: a Source. Images without a split are split at random, class by class, 80/10/10 percent, or 80/20 if the
            source has its own val or test split.
        image_size: (height, width) to resize to; None: that of the source, or 64×64 for a folder of images.
        force: replace another dataset at `target`.
        skip_corrupt, drop_duplicates: leave out images that cannot be decoded, or that are also in a later split.

    Return the facts in dataset.json, a dict; None if `target` is this dataset already. Raises UserError if the images
    cannot be used as they are, or if another dataset is at `target`.
    """
    target = Path(target)
    size = tuple(image_size or source.image_size or DEFAULT_SIZE)
    options = {"seed": seed, "image_size": list(size), "skip_corrupt": skip_corrupt, "drop_duplicates": drop_duplicates}
    recipe = source.facts | options  # determines the content of the dataset
    if already_built(target, recipe, force):
        facts = read_facts(target)
        for split in SPLITS:
            list_files(target, split, facts)  # raises an error if some are missing
        return None
    items = assign_splits(source.load(), source.classes, seed)
    with write_folder(target) as folder:
        items = write_images(items, folder, size, source, skip_corrupt)
        items = check_duplicates(items, folder, drop_duplicates)
        facts = describe(items, source, size, recipe)
        write_whole(folder / FACTS, json.dumps(facts, indent=2) + "\n")
    return facts


def assign_splits(items, classes, seed):
    """Draw a split for each item that has none, class by class, and return all items. Copies of a file stay together.

    If the source has one of val and test only, the other one is drawn from its train split.
    """
    missing = sorted({"test", "val"} - {item.split for item in items})
    if not missing:
        return items
    copies, by_class = {}, {label: [] for label in classes}  # copies: from the content to the items with that content
    loose = [item for item in items if item.split in (None, "train")]
    for item, key in zip(loose, in_threads(content_key, loose, "compare"), strict=True):
        copies.setdefault(key, []).append(item)
    for group in copies.values():
        other = next((item for item in group if item.label != group[0].label), None)
        if other and isinstance(other.image, Path):  # published datasets are used as they are
            raise UserError(f"{group[0].image} and {other.image} are the same image in two classes; remove one")
        by_class[group[0].label].append(group)
    generator = np.random.default_rng(seed)
    for label, groups in by_class.items():
        if len(groups) <= len(missing):
            splits = ", ".join(["train", *reversed(missing)])
            raise UserError(f"class {label!r} has only {len(groups)} different images for {splits}; add some")
        number = max(1, round(0.2 / len(missing) * len(groups)))  # of groups in each missing split
        for place, index in enumerate(reversed(generator.permutation(len(groups)))):
            for item in groups[index]:
                item.split = missing[place // number] if place < number * len(missing) else "train"
    return items


def content_key(item):
    """Return a key that copies of an image share: the SHA-256 of its file or pixels."""
    if not isinstance(item.image, Path):
        return hashlib.sha256(item.image.tobytes()).digest()
    return hashlib.sha256(item.image.read_bytes()).digest() if os.access(item.image, os.R_OK) else item.image


def write_images(items, folder, size, source, skip_corrupt):
    """Decode, resize and write all images as PNG files, in parallel, and return the items that were written."""
    taken = set()
    for item in items:
        name, number = short_name(item.name, LONGEST_NAME), 2
        item.file = f"{item.split}/{item.label}/{name}.png"
        while item.file.lower() in taken:  # a.jpg and a.png, or A.jpg on a file system that ignores case
            item.file, number = f"{item.split}/{item.label}/{name}_{number}.png", number + 1
        taken.add(item.file.lower())
        (folder / item.file).parent.mkdir(parents=True, exist_ok=True)

    def write(item):
        try:
            is_file = isinstance(item.image, Path)
            image = (item.image, size, source.channels, source.value_range)
            pixels = decode(*image) if is_file else resized(to_image(item.image), size)
        except CorruptImage as error:
            if not skip_corrupt:
                raise UserError(f"{error} (--skip_corrupt leaves out such files)") from None
            logging.warning("Left out %s", error)
            return False
        to_image(pixels).save(folder / item.file, compress_level=1)
        values = pixels.reshape(-1, source.channels).astype(np.int64)  # (height * width, channels)
        item.sums, item.digest = np.stack([values.sum(0), (values**2).sum(0)]), digest_of(pixels)
        return True

    return [item for item, done in zip(items, in_threads(write, items, "images"), strict=True) if done]


def to_image(pixels):
    """Return a uint8 array of shape (height, width, 1 or 3) as a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def check_duplicates(items, folder, drop):
    """Return the items without those that are also in a later split; without `drop`, these are a UserError."""
    copies = {}  # from the pixels' digest to a dict from split to the first item there
    for item in sorted(items, key=lambda item: SPLITS.index(item.split)):
        copies.setdefault(item.digest, {}).setdefault(item.split, item)
    repeated = [splits for splits in copies.values() if len(splits) > 1]
    if repeated and not drop:
        files = [[str(i.image) if isinstance(i.image, Path) else i.file for i in found.values()] for found in repeated]
        examples = list_some([" = ".join(names) for names in files])
        cure = "results would look better than they are; --drop_duplicates removes them from train"
        raise UserError(f"{len(repeated)} images are in two splits: {examples}; {cure}")
    kept = [item for item in items if item.split == list(copies[item.digest])[-1]]
    for file in {item.file for item in items} - {item.file for item in kept}:
        (folder / file).unlink()
    if repeated:
        logging.info("Left out %d images that are also in a later split", len(items) - len(kept))
    return kept


def describe(items, source, size, recipe):
    """Return the content of dataset.json, a dict, after checking that no split is empty, and no class in train."""
    counts = {split: dict.fromkeys(source.classes, 0) for split in SPLITS}
    for item in items:
        counts[item.split][item.label] += 1
    for label, count in counts["train"].items():
        if not count:
            raise UserError(f"class {label!r} has no images in the train split")
    for split in SPLITS:
        if not any(counts[split].values()):
            raise UserError(f"the {split} split has no images")
    train = [item.sums for item in items if item.split == "train"]
    means = sum(train) / (len(train) * size[0] * size[1])  # (2, channels): of the values 0..255, and of their squares
    mean, squares = means / [[255], [255**2]]  # (channels,) each, of the values 0..1
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    digests = [(item.file, item.digest) for item in items]
    of_deep_images = {"value_range": source.value_range} if source.value_range else {}
    return {
        "num_classes": len(source.classes),
        "class_names": source.classes,
        "image_channels": source.channels,
        "image_height": size[0],
        "image_width": size[1],
        "mean": mean.tolist(),
        "std": std.tolist(),
        **of_deep_images,
        "counts": counts,
        "fingerprint": fingerprint_of(digests),
        "split_fingerprint": {s: fingerprint_of(d for d in digests if d[0].startswith(f"{s}/")) for s in SPLITS},
        "source": recipe,
    }
