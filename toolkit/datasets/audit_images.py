"""The audit of a dataset of images: copies, odd images, the balance of classes and splits, and pictures of it all."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from toolkit.core.image_dataset import SPLITS, digest_of, fingerprint_of, read_image_facts
from toolkit.core.image_decoding import CorruptImage, decode, in_threads
from toolkit.datasets.audit import BAD, DOUBTFUL, GOOD, Finding, some
from toolkit.datasets.contact_sheets import class_sheets, odd_sheet, pair_sheet
from toolkit.datasets.duplicates import CHUNK, MOST_COMPARED, near_copies, perceptual_hashes
from utils import UserError

SIDE = 32  # pixels of the small images that all checks but those of the bytes work on
FLAT = 2  # standard deviation of the pixels, of 255, below which an image is of one colour
COLOURLESS = 1  # of 255, below which the mean difference between red, green and blue is none
FAR_OUT = 3  # interquartile ranges beyond the quartiles: J. W. Tukey, "Exploratory Data Analysis", 1977
ENOUGH = 20  # images of a class, to tell what is usual there
MANY = 0.02  # of a split: of near copies in an earlier one
FEW_IN_SPLIT = 100  # images on which an accuracy of 90% is known to 6 points only
FEWER = 3  # times as many images in the largest class as in the smallest
OTHER_MIX, BY_CHANCE = 0.1, 0.001  # share of a split that would have to change class; probability of such a mix
FEW = 5000  # images that are looked into at the end of a build, too, where it takes a second


@dataclass
class Images:
    """The images of a dataset that can be read, and why others cannot."""

    files: np.ndarray  # names within the dataset's folder
    splits: np.ndarray  # numbers, as in SPLITS
    labels: np.ndarray
    small: np.ndarray  # pixels of small versions, uint8 (N, height, width, channels)
    digests: list  # of all pixels
    broken: dict  # from a file to the reason


def audit_images(data_dir):
    """Check a dataset of images.

    Args:
        data_dir: path of the folder that build_dataset.py made.

    Returns:
        (findings, draw): list of Finding; function that writes the pictures into a folder.

    Raises:
        UserError: it is no such folder.
    """
    facts = read_image_facts(data_dir)
    images = read_images(data_dir, facts)
    if not len(images.files):
        raise UserError(f"{data_dir}: none of its images can be read")
    same = copies(images)
    near, similarity = near_pairs(images, same)
    odd = check_odd(images, facts)
    findings = [check_files(images, facts), check_copies(images, same), check_near(images, near, similarity)]
    findings += [check_labels(images, [*same, *near], facts), odd, *audit_counts(facts)]

    def draw(place):
        class_sheets(place, data_dir, images, facts["class_names"])
        pair_sheet(place / "duplicates.png", data_dir, images, [*same, *near])
        odd_sheet(place / "odd.png", data_dir, odd.details["odd"])

    return findings, draw


def audit_build(data_dir, facts):
    """The findings of a dataset that was just built: of a large one, those that need no look at the images."""
    few = sum(sum(counts.values()) for counts in facts["counts"].values()) <= FEW
    return audit_images(data_dir)[0] if few else audit_counts(facts)


def audit_counts(facts):
    """The findings about the numbers of images, a list."""
    counts = np.array([[facts["counts"][split][name] for name in facts["class_names"]] for split in SPLITS])
    return [check_classes(counts, facts), check_splits(counts, facts)]


def read_images(data_dir, facts):
    """Decode all images that are there; gives Images."""
    channels, size = facts["image_channels"], (facts["image_height"], facts["image_width"])
    small = tuple(min(side, SIDE) for side in size)
    found = [
        (file.relative_to(data_dir).as_posix(), split, label)
        for split, name in enumerate(SPLITS)
        for label, kind in enumerate(facts["class_names"])
        for file in sorted((data_dir / name / kind).glob("*.png"))
    ]

    def load(item):
        try:
            pixels = decode(data_dir / item[0], None, channels)
        except CorruptImage as error:
            return str(error)
        if pixels.shape[:2] != size:
            return f"{data_dir / item[0]}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {size[1]}x{size[0]}"
        image = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
        reduced = np.asarray(image.resize(small[::-1], Image.Resampling.BOX)).reshape(*small, channels)
        return digest_of(pixels), reduced

    loaded = list(zip(found, in_threads(load, found, "audit"), strict=True))
    broken = {item[0]: result for item, result in loaded if isinstance(result, str)}
    good = [(*item, *result) for item, result in loaded if not isinstance(result, str)]
    files, splits, labels, digests, reduced = zip(*good, strict=True) if good else ([],) * 5
    return Images(np.array(files), np.array(splits), np.array(labels), np.array(reduced), list(digests), broken)


def across(images, pair):
    """Whether two images are in two splits."""
    return bool(images.splits[pair[0]] != images.splits[pair[1]])


def copies(images):
    """The pairs of images of the same pixels: each with the one before it in train, val and test."""
    groups = {}
    for index, digest in enumerate(images.digests):
        groups.setdefault(digest, []).append(index)
    return [pair for group in groups.values() for pair in pairwise(group)]


def near_pairs(images, same):
    """The pairs of images that are near copies: of different pixels, yet the same image; and their similarity."""
    chosen = np.setdiff1d(np.arange(len(images.files)), [later for _, later in same])
    if len(chosen) > MOST_COMPARED:  # those of val and test, and as many of train as it takes
        order = np.random.default_rng(0).permutation(len(chosen))
        chosen = np.sort(chosen[order[np.argsort(images.splits[chosen[order]] == 0, kind="stable")]][:MOST_COMPARED])
    pairs, similarity = near_copies(perceptual_hashes(images.small[chosen]))
    return [tuple(pair) for pair in chosen[pairs].tolist()], [round(float(value), 3) for value in similarity]


def check_files(images, facts):
    expected = sum(sum(counts.values()) for counts in facts["counts"].values())
    mend = "build it again with --force"
    if images.broken:
        text = f"{len(images.broken)} cannot be used: {some(list(images.broken))}; {mend}"
        return Finding(BAD, "files", text, {"broken": images.broken})
    if len(images.files) != expected:
        return Finding(BAD, "files", f"{len(images.files):,} images, but {expected:,} were built; {mend}")
    if fingerprint_of(zip(images.files, images.digests, strict=True)) != facts["fingerprint"]:
        return Finding(BAD, "files", f"images were changed since they were built (by their fingerprint); {mend}")
    return Finding(GOOD, "files", f"{len(images.files):,} images, as they were built")


def check_copies(images, same):
    details = {"pairs": [[images.files[i] for i in pair] for pair in same]}
    between = [pair for pair in same if across(images, pair)]
    if between:
        text = f"identical images in two splits: {len(between):,}; build it again with --drop_duplicates"
        return Finding(BAD, "copies", text, details)
    if same:
        return Finding(DOUBTFUL, "copies", f"{len(same):,} images are there twice within a split", details)
    return Finding(GOOD, "copies", "no two images are identical", details)


def check_near(images, near, similarity):
    details = {"pairs": [[*(images.files[i] for i in pair), s] for pair, s in zip(near, similarity, strict=True)]}
    later = {max(pair, key=lambda i: images.splits[i]) for pair in near if across(images, pair)}
    counts = np.bincount(images.splits[list(later)].astype(int), minlength=len(SPLITS))
    shares = counts / np.bincount(images.splits, minlength=len(SPLITS)).clip(1)
    among = f" (of {MOST_COMPARED:,} images that were compared)" if len(images.files) > MOST_COMPARED else ""
    if later:
        which = ", ".join(f"{counts[s]:,} of {SPLITS[s]} ({shares[s]:.1%})" for s in np.flatnonzero(counts))
        text = f"in an earlier split, too, but for small changes: {which}, see duplicates.png{among}"
        return Finding(BAD if shares.max() >= MANY else DOUBTFUL, "near copies", text, details)
    if near:
        text = f"pairs within a split, one image but for small changes: {len(near):,}, see duplicates.png{among}"
        return Finding(DOUBTFUL, "near copies", text, details)
    return Finding(GOOD, "near copies", f"no two images are one but for small changes{among}", details)


def check_labels(images, pairs, facts):
    differ = [
        [str(images.files[i]) for i in pair] for pair in pairs if images.labels[pair[0]] != images.labels[pair[1]]
    ]
    if differ:
        text = f"pairs of copies in two classes: {len(differ):,}, {' and '.join(differ[0])} for one; which is right?"
        return Finding(DOUBTFUL, "labels", text, {"pairs": differ})
    return Finding(GOOD, "labels", f"no copies in two of the {len(facts['class_names'])} classes")


def check_odd(images, facts):
    chunks = np.array_split(images.small, -(-len(images.small) // CHUNK))
    brightness, contrast, saturation = np.concatenate([measured(chunk) for chunk in chunks], axis=1)  # (N,) each
    reasons = {}

    def note(indices, reason):
        for index in indices:
            reasons.setdefault(index, reason)

    note(np.flatnonzero(contrast < FLAT), "of one colour")
    if (saturation < COLOURLESS).mean() < 0.5:
        note(np.flatnonzero(saturation < COLOURLESS), "without colours")
    for label in range(len(facts["class_names"])):
        members = np.flatnonzero(images.labels == label)
        if len(members) < ENOUGH:
            continue
        for name, measure in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            values = measure[members]
            low, high = np.percentile(values, [25, 75])
            reach = FAR_OUT * max(high - low, 1)
            note(members[values < low - reach], f"of little {name}")
            note(members[values > high + reach], f"of much {name}")
    details = {"odd": {str(images.files[i]): reason for i, reason in reasons.items()}}
    if not reasons:
        return Finding(GOOD, "odd images", "none of one colour, or far from all others of its class", details)
    text = ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons.values()).most_common())
    return Finding(DOUBTFUL, "odd images", f"{text}: see odd.png", details)


def measured(pixels):
    """Brightness, contrast and saturation of images, uint8 (N, height, width, channels), as (3, N), from 0 to 255."""
    values = np.moveaxis(pixels, -1, 0).reshape(pixels.shape[-1], len(pixels), -1).astype(np.float32)  # (C, N, H * W)
    spread = values.max(axis=0) - values.min(axis=0)  # (N, H * W)
    return np.stack([values.mean(axis=(0, 2)), values.std(axis=2).mean(axis=0), spread.mean(axis=1)])


def check_classes(counts, facts):
    small, large = counts[0].argmin(), counts[0].argmax()
    names = facts["class_names"]
    ends = f"{counts[0, small]:,} images ({names[small]}) to {counts[0, large]:,} ({names[large]})"
    alike = counts[0, small] == counts[0, large]
    text = f"{len(names)}, in train " + (f"{counts[0, small]:,} images each" if alike else f"from {ends}")
    if counts[0, large] > FEWER * counts[0, small]:
        cure = 'accuracy hides the small ones: "monitor": "macro_f1", perhaps "balanced": true'
        return Finding(DOUBTFUL, "classes", f"{text}; {cure}")
    return Finding(GOOD, "classes", text)


def check_splits(counts, facts):
    sizes = counts.sum(axis=1)
    shares = counts / sizes.clip(1)[:, None]  # (splits, classes)
    few = [f"{size} of {name}" for name, size in zip(SPLITS, sizes, strict=True) if size < FEW_IN_SPLIT]
    doubts = [f"few images ({', '.join(few)}): results are uncertain by many points"] if few else []
    for split in (1, 2):
        difference = abs(shares[split] - shares[0])  # (classes,)
        most = difference.argmax()
        if difference.sum() / 2 > OTHER_MIX and probability(counts[[0, split]]) < BY_CHANCE:
            doubts.append(
                f"{SPLITS[split]} has another mix of classes ({facts['class_names'][most]} is "
                f"{shares[split, most]:.0%} of it, {shares[0, most]:.0%} of train)"
            )
    text = ", ".join(f"{share:.0%} {name}" for name, share in zip(SPLITS, sizes / sizes.sum(), strict=True))
    return Finding(DOUBTFUL if doubts else GOOD, "splits", "; ".join([text, *doubts]))


def probability(counts):
    """The probability of two splits' counts, (2, classes), to differ as much by chance: Pearson's chi-squared test."""
    from scipy.stats import chi2_contingency

    return chi2_contingency(counts[:, counts.sum(axis=0) > 0]).pvalue
