"""The audit of a dataset of images: copies, odd images, the balance of classes and splits, and pictures of it all."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from toolkit.audit import BAD, DOUBTFUL, GOOD, Finding, some
from toolkit.dataset import FACTS, SPLITS, digest_of, fingerprint_of, read_facts
from toolkit.duplicates import CHUNK, MOST_COMPARED, near_copies, perceptual_hashes
from toolkit.images import CorruptImage, decode, in_threads, opened
from toolkit.sheets import class_sheets, odd_sheet, pair_sheet
from toolkit.sources import folder
from utils import UserError

SIDE = 32  # pixels of the small images that all checks but those of the bytes work on
FLAT = 2  # standard deviation of the pixels, of 255, below which an image is of one colour
COLOURLESS = 2  # of 255, below which the largest difference between red, green and blue is none
FAR_OUT = 3  # interquartile ranges beyond the quartiles: J. W. Tukey, "Exploratory Data Analysis", 1977
ENOUGH = 20  # images of a class, to tell what is usual there
MANY = 0.02  # of a split: of near copies in an earlier one
FEW_IN_SPLIT = 100  # images on which an accuracy of 90% is known to 6 points only
FEWER = 3  # times as many images in the largest class as in the smallest
OTHER_MIX, BY_CHANCE = 0.1, 0.001  # share of a split that would have to change class; probability of such a mix
STRETCH = 1.5  # of an image's proportions by resizing
FEW = 5000  # images that are looked into at the end of a build, too, where it takes a second


@dataclass
class Images:
    """The images of a dataset: names of their files within its folder; splits and labels, both as numbers; pixels of
    small versions, uint8 (N, height, width, channels); digests of all their pixels; and what cannot be read, and why.
    """

    files: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    small: np.ndarray
    digests: list
    broken: dict


def audit_images(data_dir):
    """Check a dataset of images.

    Args:
        data_dir: path of the folder that build_dataset.py made.

    Returns:
        (findings, draw): list of Finding; function that writes the pictures into a folder.

    Raises:
        UserError: it is no such folder.
    """
    facts = read_facts(data_dir)
    if not {"class_names", "image_channels", "image_height", "image_width", "counts", "fingerprint"} <= facts.keys():
        raise UserError(
            f"{data_dir}: not a dataset of images that build_dataset.py made, by its {FACTS}; "
            f"for those of examples/ner and examples/regression there is a build_dataset.py beside each"
        )
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
    """The findings about the numbers of images, and about the files that they were made from, a list."""
    counts = np.array([[facts["counts"].get(split, {}).get(n, 0) for n in facts["class_names"]] for split in SPLITS])
    return [check_classes(counts, facts), check_splits(counts, facts), *check_originals(facts)]


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

    loaded = in_threads(load, found, "audit")
    good = [(*item, *result) for item, result in zip(found, loaded, strict=True) if not isinstance(result, str)]
    files, splits, labels, digests, reduced = zip(*good, strict=True) if good else ([], [], [], [], [])
    broken = {item[0]: result for item, result in zip(found, loaded, strict=True) if isinstance(result, str)}
    return Images(*map(np.array, (files, splits, labels, reduced)), list(digests), broken)


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
    counts = np.zeros((len(SPLITS), len(facts["class_names"])), int)
    np.add.at(counts, (images.splits, images.labels), 1)
    expected = [[facts["counts"].get(split, {}).get(name, 0) for name in facts["class_names"]] for split in SPLITS]
    mend = "build it again with --force"
    if images.broken:
        which = some(list(images.broken))
        text = f"{len(images.broken)} cannot be used: {which}; {mend}"
        return Finding(BAD, "files", text, {"broken": images.broken})
    if not np.array_equal(counts, expected):
        return Finding(BAD, "files", f"{counts.sum():,} images, but {np.sum(expected):,} were built; {mend}")
    if fingerprint_of(zip(images.files, images.digests, strict=True)) != facts["fingerprint"]:
        return Finding(BAD, "files", f"images were changed since they were built (by their fingerprint); {mend}")
    return Finding(GOOD, "files", f"{len(images.files):,} images, as they were built")


def check_copies(images, same):
    details = {"pairs": [[images.files[i] for i in pair] for pair in same]}
    between = [pair for pair in same if across(images, pair)]
    if between:
        text = f"{len(between):,} identical images are in two splits: build it again with --drop_duplicates"
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
        text = (
            f"pairs within a split that are one image but for small changes: {len(near):,}, see duplicates.png{among}"
        )
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
    values = np.concatenate([measured(chunk.astype(np.float32)) for chunk in chunks])  # (N, measures)
    reasons = {int(i): "of one colour" for i in np.flatnonzero(values[:, 1] < FLAT)}
    colourless = values[:, 3] < COLOURLESS
    if colourless.mean() < 0.5:
        reasons |= {int(i): "without colours" for i in np.flatnonzero(colourless) if int(i) not in reasons}
    measures = ["brightness", "contrast", "saturation"][: 2 if colourless.all() else 3]
    for label in range(len(facts["class_names"])):
        members = np.flatnonzero(images.labels == label)
        for number, name in enumerate(measures) if len(members) >= ENOUGH else ():
            these = values[members, number]
            low, high = np.percentile(these, [25, 75])
            reach = FAR_OUT * max(high - low, 1)
            for i in members[these < low - reach]:
                reasons.setdefault(int(i), f"of little {name}")
            for i in members[these > high + reach]:
                reasons.setdefault(int(i), f"of much {name}")
    details = {"odd": {str(images.files[i]): reason for i, reason in reasons.items()}}
    if not reasons:
        return Finding(GOOD, "odd images", "none of one colour, or far from all others of its class", details)
    counts = Counter(reasons.values()).most_common()
    text = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    return Finding(DOUBTFUL, "odd images", f"{text}: see odd.png", details)


def measured(pixels):
    """Brightness, contrast, mean and largest saturation of images (N, height, width, channels), as (N, 4), 0 to 255."""
    flat = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))  # the way in which numpy is fast
    flat = flat.reshape(*flat.shape[:2], -1)  # (N, channels, pixels)
    spread = flat.max(axis=1) - flat.min(axis=1)  # (N, pixels)
    contrast = flat.std(axis=2).mean(axis=1)
    return np.stack([flat.mean(axis=(1, 2)), contrast, spread.mean(axis=1), spread.max(axis=1)], axis=1)


def check_classes(counts, facts):
    small, large = counts[0].argmin(), counts[0].argmax()
    names = facts["class_names"]
    ends = f"{counts[0, small]:,} images ({names[small]}) to {counts[0, large]:,} ({names[large]})"
    text = f"{len(names)}, in train from {ends}"
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
        if difference.sum() / 2 > OTHER_MIX and probability(counts[[0, split]]) < BY_CHANCE:
            most = difference.argmax()
            doubts.append(f"{SPLITS[split]} has another mix of classes ({facts['class_names'][most]} is "
                          f"{shares[split, most]:.0%} of it, {shares[0, most]:.0%} of train)")  # fmt: skip
    text = ", ".join(f"{share:.0%} {name}" for name, share in zip(SPLITS, sizes / sizes.sum(), strict=True))
    return Finding(DOUBTFUL if doubts else GOOD, "splits", "; ".join([text, *doubts]))


def probability(counts):
    """The probability of two splits' counts, (2, classes), to differ as much by chance: Pearson's chi-squared test."""
    from scipy.stats import chi2_contingency

    return chi2_contingency(counts[:, counts.sum(axis=0) > 0]).pvalue


def check_originals(facts):
    """What the headers of the user's own files say, where they are still there: a list of one Finding, or none."""
    source = facts.get("source", {})
    try:
        items = folder(source["from"]).load() if source.get("kind") == "folder" else []
    except (UserError, OSError):  # it is gone, or another one now
        return []
    headers = np.array([found for found in in_threads(read_header, items, "headers") if found])  # (N, 3)
    if not len(headers):
        return []
    sizes, size = headers[:, :2], np.array([facts["image_width"], facts["image_height"]])
    stretch = np.log(sizes[:, 0] / sizes[:, 1] / (size[0] / size[1]))
    doubts = {
        "enlarged": (sizes < size).all(axis=1),
        f"stretched by more than {STRETCH}": abs(stretch) > np.log(STRETCH),
        "transparent, now on white": headers[:, 2] > 0,
    }
    said = [f"{which.sum():,} {what}" for what, which in doubts.items() if which.any()]
    order = sizes.prod(axis=1).argsort()
    smallest, largest, now = ("{}×{}".format(*some) for some in (sizes[order[0]], sizes[order[-1]], size))
    text = ", ".join([f"{smallest} to {largest} pixels, now {now}", *said])
    return [Finding(DOUBTFUL if said else GOOD, "originals", text)]


def read_header(item):
    """Width, height, and whether something is transparent, of an Item that is a file; None where it is broken."""
    with contextlib.suppress(Exception), opened(item.image) as image:
        size = image.size if image.getexif().get(0x0112, 1) < 5 else image.size[::-1]  # it lies on its side
        return *size, image.has_transparency_data
