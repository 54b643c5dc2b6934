"""Audit a dataset of images: changed files, copies, wrong labels, odd images, balance of classes and splits."""

import functools
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy.stats import chi2_contingency

from toolkit.core.image_dataset import SPLITS, digest_of, fingerprint_of, read_image_facts
from toolkit.core.image_decoding import CorruptImage, decode, in_threads
from toolkit.core.text import list_some
from toolkit.datasets.builder import to_image
from toolkit.datasets.contact_sheets import draw_contact_sheets
from toolkit.datasets.duplicates import near_copies, perceptual_hash
from toolkit.datasets.findings import BAD, DOUBTFUL, GOOD, Finding
from utils import UserError

SIDE = 32  # pixels; images are reduced to this size to compare and measure them
SINGLE_COLOUR = 2  # an image whose pixels, 0 to 255, have a smaller standard deviation has a single colour
NO_COLOUR = 1  # an image whose red, green and blue, 0 to 255, differ by less on average has no colour
FAR_OUT = 3  # interquartile ranges beyond the quartiles: J. W. Tukey, "Exploratory Data Analysis", 1977
ENOUGH = 20  # images of a class, to know what is usual there
MANY_NEAR = 0.02  # share of a split with near copies in an earlier split, from which on it is a serious problem
FEW_IN_SPLIT = 100  # with fewer images, the 95% interval of an accuracy of 90% is wider than ±6 points
UNBALANCED = 3  # ratio of the largest class to the smallest, above which classes are unbalanced
OTHER_MIX, BY_CHANCE = 0.1, 0.001  # share of a split that would have to change class; p-value of such a difference
FEW = 5000  # the largest number of images that are also audited after a build, where it takes a second
REBUILD = "build the dataset again with --force"


@dataclass(slots=True)
class AuditedImage:
    """An image of a dataset that can be read."""

    file: str  # relative to the dataset's folder
    split: str
    label: str  # class name
    digest: bytes  # of its pixels
    hash: np.ndarray  # perceptual hash, float32 (D,)
    measures: list  # brightness, contrast and saturation, from 0 to 255


def audit_images(data_dir):
    """Return the findings about a dataset of images, a list, and a function that draws contact sheets into a folder.

    Raises UserError if the folder `data_dir` is not such a dataset, or if none of its images can be read.
    """
    facts = read_image_facts(data_dir)
    images, broken = read_images(data_dir, facts)
    if not images:
        raise UserError(f"{data_dir}: none of its images can be read; {REBUILD}")
    copies, pairs = check_copies(images)
    odd = check_odd(images)
    draw = functools.partial(draw_contact_sheets, data_dir=data_dir, images=images, pairs=pairs, odd=odd.details["odd"])
    return [check_files(images, broken, facts), *copies, odd, *check_counts(facts)], draw


def audit_build(data_dir, facts):
    """Return the findings for a dataset that was just built; if it is large, only those about counts of images."""
    few = sum(sum(counts.values()) for counts in facts["counts"].values()) <= FEW
    return audit_images(data_dir)[0] if few else check_counts(facts)


def read_images(data_dir, facts):
    """Return the images in the order train, val, test, a list; and a dict from files that are no use to the reason."""
    channels, height, width = (facts[f"image_{name}"] for name in ("channels", "height", "width"))

    def load(path):
        file = path.relative_to(data_dir).as_posix()
        try:
            pixels = decode(path, None, channels)
        except CorruptImage as error:
            return file, str(error)
        if pixels.shape[:2] != (height, width):
            return file, f"{path}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {width}x{height}"
        small = to_image(pixels).resize((min(width, SIDE), min(height, SIDE)), Image.Resampling.BOX)
        small = np.asarray(small).reshape(small.height, small.width, channels)
        split, label, _ = file.split("/")
        values = small.reshape(-1, channels).astype(np.float32)  # (height * width, channels)
        measures = [values.mean(), values.std(axis=0).mean(), np.ptp(values, axis=1).mean()]
        return file, AuditedImage(file, split, label, digest_of(pixels), perceptual_hash(small), measures)

    folders = [data_dir / split / label for split in SPLITS for label in facts["class_names"]]
    results = in_threads(load, [path for folder in folders for path in sorted(folder.glob("*.png"))], "audit")
    broken = {file: result for file, result in results if isinstance(result, str)}
    return [result for file, result in results if file not in broken], broken


def check_files(images, broken, facts):
    """Return the finding about images that are damaged, or changed since the build."""
    if broken:
        text = f"{len(broken)} images cannot be used: {list_some(list(broken))}; {REBUILD}"
        return Finding(BAD, "files", text, {"broken": broken})
    if fingerprint_of((image.file, image.digest) for image in images) != facts["fingerprint"]:
        built = sum(sum(counts.values()) for counts in facts["counts"].values())
        text = f"images were changed, added or removed ({built:,} were built, there are {len(images):,}); {REBUILD}"
        return Finding(BAD, "files", text)
    return Finding(GOOD, "files", f"{len(images):,} images, unchanged since the build")


def check_copies(images):
    """Return the findings about identical images, near copies and copies with different labels; all pairs of copies."""
    groups = {}  # from the pixels' digest to the images
    for image in images:
        groups.setdefault(image.digest, []).append(image)
    same = [pair for group in groups.values() for pair in pairwise(group)]
    text = f"pairs of identical images within a split: {len(same):,}" if same else "no two images are identical"
    identical = Finding(DOUBTFUL if same else GOOD, "copies", text, {"pairs": [[a.file, b.file] for a, b in same]})

    distinct = [group[0] for group in groups.values()]
    indices, similarity = near_copies(np.stack([image.hash for image in distinct]))
    near = [(distinct[a], distinct[b]) for a, b in indices]
    later = {b.file: b.split for a, b in near if a.split != b.split}  # those with a near copy in an earlier split
    counts, sizes = Counter(later.values()), Counter(image.split for image in images)
    shares = " and ".join(f"{counts[s]:,} of {s} ({counts[s] / sizes[s]:.1%})" for s in SPLITS if counts[s])
    problem = f"{shares} have a near copy in an earlier split" if later else "all within a split"
    text = f"pairs: {len(near):,}, {problem} (see duplicates.png)" if near else "no two images are nearly identical"
    many = any(counts[split] >= MANY_NEAR * sizes[split] for split in counts)
    mark = BAD if many else DOUBTFUL if near else GOOD
    rows = [[a.file, b.file, round(float(s), 3)] for (a, b), s in zip(near, similarity, strict=True)]
    similar = Finding(mark, "near copies", text, {"pairs": rows})

    differ = [[a.file, b.file] for a, b in same + near if a.label != b.label]
    text = "no image has copies in two classes"
    if differ:
        text = f"pairs of copies in two classes: {len(differ):,}, such as {' and '.join(differ[0])}; correct the labels"
    return [identical, similar, Finding(DOUBTFUL if differ else GOOD, "labels", text, {"pairs": differ})], same + near


def check_odd(images):
    """Return the finding about images of a single colour, without colour, or unlike the others of their class."""
    labels, odd = np.array([image.label for image in images]), {}  # odd: from file to reason
    measures = np.array([image.measures for image in images]).T  # (3, N)
    _, contrast, saturation = measures
    checks = [(np.flatnonzero(contrast < SINGLE_COLOUR), "single colour")]  # (indices of images, reason)
    if (saturation < NO_COLOUR).mean() < 0.5:
        checks.append((np.flatnonzero(saturation < NO_COLOUR), "no colour"))
    for label, count in Counter(labels.tolist()).items():
        members = labels == label
        for name, values in zip(("brightness", "contrast", "saturation"), measures, strict=True):
            low, high = np.percentile(values[members], [25, 75])
            reach = FAR_OUT * max(high - low, 1) if count >= ENOUGH else np.inf
            checks.append((np.flatnonzero(members & (values < low - reach)), f"low {name}"))
            checks.append((np.flatnonzero(members & (values > high + reach)), f"high {name}"))
    for indices, reason in checks:
        for index in indices:
            odd.setdefault(images[index].file, reason)
    text = ", ".join(f"{reason}: {count:,}" for reason, count in Counter(odd.values()).most_common())
    text = f"{text} (see odd.png)" if odd else "no image has a single colour or differs much from its class"
    return Finding(DOUBTFUL if odd else GOOD, "odd images", text, {"odd": odd})


def check_counts(facts):
    """Return the findings about the numbers of images in the classes and in the splits, a list."""
    names = facts["class_names"]
    counts = np.array([[facts["counts"][split][name] for name in names] for split in SPLITS])  # (splits, classes)
    (few, smallest), *_, (many, largest) = sorted(zip(counts[0].tolist(), names, strict=True))
    text = f"{len(names)} classes of {few:,} images in train"
    if few < many:
        text = f"{len(names)} classes of {few:,} images ({smallest}) to {many:,} ({largest}) in train"
    doubts, alike = [], {}
    if many > UNBALANCED * few:
        doubts.append('accuracy hides errors in small classes: set "monitor": "macro_f1", and perhaps "balanced": true')
    for name in names:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(repr(name))
    doubts += [f"{' and '.join(same)} look like one class" for same in alike.values() if len(same) > 1]
    classes = Finding(DOUBTFUL if doubts else GOOD, "classes", "; ".join([text, *doubts]))

    sizes = counts.sum(axis=1)  # (splits,)
    shares = counts / sizes[:, None]  # (splits, classes)
    small = ", ".join(f"{size} in {split}" for split, size in zip(SPLITS, sizes, strict=True) if size < FEW_IN_SPLIT)
    doubts = [f"few images ({small}): results are uncertain by several percentage points"] if small else []
    for split in (1, 2):
        difference = abs(shares[split] - shares[0])  # (classes,)
        both = counts[[0, split]]
        p_value = chi2_contingency(both[:, both.any(axis=0)]).pvalue  # Pearson's test
        if difference.sum() / 2 > OTHER_MIX and p_value < BY_CHANCE:
            most = difference.argmax()
            mix = f"{names[most]} is {shares[split, most]:.0%} of it, but {shares[0, most]:.0%} of train"
            doubts.append(f"{SPLITS[split]} has another mix of classes than train ({mix})")
    text = ", ".join(f"{size / sizes.sum():.0%} {split}" for split, size in zip(SPLITS, sizes, strict=True))
    return [classes, Finding(DOUBTFUL if doubts else GOOD, "splits", "; ".join([text, *doubts]))]
