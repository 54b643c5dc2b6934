"""Audit a dataset of images: changed files, copies, wrong labels, odd images, balance of classes and splits."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy.stats import chi2_contingency

from toolkit.core.image_dataset import SPLITS, digest_of, fingerprint_of, read_image_facts
from toolkit.core.image_decoding import CorruptImage, decode, in_threads
from toolkit.datasets.builder import to_image
from toolkit.datasets.contact_sheets import draw_class_sheets, draw_odd_images, draw_pairs
from toolkit.datasets.duplicates import MOST_COMPARED, near_copies, perceptual_hash
from toolkit.datasets.findings import BAD, DOUBTFUL, GOOD, Finding, list_some
from utils import UserError

SIDE = 32  # pixels of the small images that are compared and measured
SINGLE_COLOUR = 2  # standard deviation of the pixels, 0 to 255, of an image of a single colour
NO_COLOUR = 1  # mean difference between red, green and blue, 0 to 255, of an image without colour
FAR_OUT = 3  # interquartile ranges beyond the quartiles: J. W. Tukey, "Exploratory Data Analysis", 1977
ENOUGH = 20  # images of a class, to know what is usual there
MANY_NEAR = 0.02  # share of a split that has near copies in an earlier one
FEW_IN_SPLIT = 100  # below this, an accuracy of 90% is known to about 6 points only
UNBALANCED = 3  # times as many images in the largest class as in the smallest
OTHER_MIX, BY_CHANCE = 0.1, 0.001  # share of a split that would have to change class; p-value of such a difference
FEW = 5000  # images that are also audited at the end of a build, where it takes a second
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
    """Check a dataset of images.

    Args:
        data_dir: path of a folder that build_dataset.py made.

    Returns:
        (findings, draw): list of Finding; function that draws contact sheets into the folder that it is given.

    Raises:
        UserError: the folder is not such a dataset, or none of its images can be read.
    """
    facts = read_image_facts(data_dir)
    images, broken = read_images(data_dir, facts)
    if not images:
        raise UserError(f"{data_dir}: none of its images can be read; {REBUILD}")
    same = identical_pairs(images)
    near, similarity = near_pairs(images, same)
    odd = check_odd(images)
    findings = [check_files(images, broken, facts), check_copies(same), check_near(images, near, similarity)]
    findings += [check_labels([*same, *near]), odd, *check_counts(facts)]

    def draw(folder):
        draw_class_sheets(folder, data_dir, images)
        draw_pairs(folder / "duplicates.png", data_dir, [*same, *near])
        draw_odd_images(folder / "odd.png", data_dir, odd.details["odd"])

    return findings, draw


def audit_build(data_dir, facts):
    """Return the findings for a dataset that was just built; for a large one only those from the counts of images."""
    few = sum(sum(counts.values()) for counts in facts["counts"].values()) <= FEW
    return audit_images(data_dir)[0] if few else check_counts(facts)


def read_images(data_dir, facts):
    """Decode and measure all images, in the order train, val, test.

    Returns:
        (images, broken): list of AuditedImage; dict from file to reason, for images that cannot be used.
    """
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
        return file, AuditedImage(file, split, label, digest_of(pixels), perceptual_hash(small), measure(small))

    folders = [data_dir / split / label for split in SPLITS for label in facts["class_names"]]
    results = in_threads(load, [path for folder in folders for path in sorted(folder.glob("*.png"))], "audit")
    broken = {file: result for file, result in results if isinstance(result, str)}
    return [result for file, result in results if file not in broken], broken


def measure(pixels):
    """Return brightness, contrast and saturation of an image, uint8 (height, width, channels), from 0 to 255."""
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float32)  # (height * width, channels)
    return [values.mean(), values.std(axis=0).mean(), np.ptp(values, axis=1).mean()]


def identical_pairs(images):
    """Return the pairs of images with the same pixels: each image with the one before it in train, val and test."""
    groups = {}
    for image in images:
        groups.setdefault(image.digest, []).append(image)
    return [pair for group in groups.values() for pair in pairwise(group)]


def near_pairs(images, same):
    """Return the pairs of near copies, which have different pixels, and their similarities, two lists."""
    repeated = {later.file for _, later in same}
    distinct = [image for image in images if image.file not in repeated]
    shuffled = np.random.default_rng(0).permutation(len(distinct))
    chosen = sorted(shuffled, key=lambda i: distinct[i].split == "train")[:MOST_COMPARED]  # all of val and test first
    compared = [distinct[i] for i in sorted(chosen)]
    pairs, similarity = near_copies(np.stack([image.hash for image in compared]))
    return [(compared[a], compared[b]) for a, b in pairs], [round(float(value), 3) for value in similarity]


def check_files(images, broken, facts):
    if broken:
        text = f"{len(broken)} images cannot be used: {list_some(list(broken))}; {REBUILD}"
        return Finding(BAD, "files", text, {"broken": broken})
    if fingerprint_of((image.file, image.digest) for image in images) != facts["fingerprint"]:
        built = sum(sum(counts.values()) for counts in facts["counts"].values())
        text = f"images were changed, added or removed ({built:,} were built, there are {len(images):,}); {REBUILD}"
        return Finding(BAD, "files", text)
    return Finding(GOOD, "files", f"{len(images):,} images, unchanged since the build")


def check_copies(same):
    details = {"pairs": [[image.file for image in pair] for pair in same]}
    if same:  # the build refuses those in two splits
        return Finding(DOUBTFUL, "copies", f"pairs of identical images within a split: {len(same):,}", details)
    return Finding(GOOD, "copies", "no two images are identical", details)


def check_near(images, near, similarity):
    details = {"pairs": [[a.file, b.file, value] for (a, b), value in zip(near, similarity, strict=True)]}
    limit = f" (only {MOST_COMPARED:,} images were compared)" if len(images) > MOST_COMPARED else ""
    if not near:
        return Finding(GOOD, "near copies", f"no two images are nearly identical{limit}", details)
    later = {second.file: second.split for first, second in near if first.split != second.split}  # val or test
    counts, sizes = Counter(later.values()), Counter(image.split for image in images)
    shares = [f"{counts[s]:,} of {s} ({counts[s] / sizes[s]:.1%})" for s in SPLITS if counts[s]]
    problem = f"{' and '.join(shares)} have a near copy in an earlier split" if later else "all within a split"
    many = any(counts[split] >= MANY_NEAR * sizes[split] for split in counts)
    text = f"pairs: {len(near):,}, {problem} (see duplicates.png){limit}"
    return Finding(BAD if many else DOUBTFUL, "near copies", text, details)


def check_labels(pairs):
    differ = [[first.file, second.file] for first, second in pairs if first.label != second.label]
    if differ:
        text = f"pairs of copies in two classes: {len(differ):,}, such as {' and '.join(differ[0])}; correct the labels"
        return Finding(DOUBTFUL, "labels", text, {"pairs": differ})
    return Finding(GOOD, "labels", "no image has copies in two classes")


def check_odd(images):
    """Look for images of a single colour, without colour, or unlike the others of their class."""
    files, labels = np.array([image.file for image in images]), np.array([image.label for image in images])
    measures = np.array([image.measures for image in images]).T  # (3, N)
    _, contrast, saturation = measures
    odd = {}  # from file to reason

    def note(mask, reason):
        for file in files[mask]:
            odd.setdefault(str(file), reason)

    note(contrast < SINGLE_COLOUR, "single colour")
    if (saturation < NO_COLOUR).mean() < 0.5:
        note(saturation < NO_COLOUR, "no colour")
    for label, count in Counter(labels.tolist()).items():
        members = labels == label
        for name, values in zip(("brightness", "contrast", "saturation"), measures, strict=True):
            low, high = np.percentile(values[members], [25, 75])
            reach = FAR_OUT * max(high - low, 1) if count >= ENOUGH else np.inf
            note(members & (values < low - reach), f"low {name}")
            note(members & (values > high + reach), f"high {name}")
    if not odd:
        return Finding(GOOD, "odd images", "no image has a single colour or differs much from its class", {"odd": odd})
    text = ", ".join(f"{reason}: {count:,}" for reason, count in Counter(odd.values()).most_common())
    return Finding(DOUBTFUL, "odd images", f"{text} (see odd.png)", {"odd": odd})


def check_counts(facts):
    """Return the two findings about the numbers of images, a list."""
    names = facts["class_names"]
    counts = np.array([[facts["counts"][split][name] for name in names] for split in SPLITS])  # (splits, classes)
    return [check_classes(counts[0], names), check_splits(counts, names)]


def check_classes(counts, names):
    few, many = counts.argmin(), counts.argmax()
    numbers = f"{counts[few]:,} images ({names[few]}) to {counts[many]:,} ({names[many]})"
    text = f"{len(names)} classes of {numbers if counts[few] < counts[many] else f'{counts[few]:,} images'} in train"
    if counts[many] > UNBALANCED * counts[few]:
        cure = 'set "monitor": "macro_f1", and perhaps "balanced": true'
        return Finding(DOUBTFUL, "classes", f"{text}; accuracy hides errors in small classes: {cure}")
    return Finding(GOOD, "classes", text)


def check_splits(counts, names):
    sizes = counts.sum(axis=1)
    shares = counts / sizes.clip(1)[:, None]  # (splits, classes)
    small = [f"{size} in {split}" for split, size in zip(SPLITS, sizes, strict=True) if size < FEW_IN_SPLIT]
    doubts = [f"few images ({', '.join(small)}): results are uncertain by several percentage points"] if small else []
    for split in (1, 2):
        difference = abs(shares[split] - shares[0])  # (classes,)
        both = counts[[0, split]]
        p_value = chi2_contingency(both[:, both.any(axis=0)]).pvalue  # Pearson's test
        if difference.sum() / 2 > OTHER_MIX and p_value < BY_CHANCE:
            most = difference.argmax()
            mix = f"{names[most]} is {shares[split, most]:.0%} of it, but {shares[0, most]:.0%} of train"
            doubts.append(f"{SPLITS[split]} has another mix of classes than train ({mix})")
    text = ", ".join(f"{share:.0%} {split}" for split, share in zip(SPLITS, sizes / sizes.sum(), strict=True))
    return Finding(DOUBTFUL if doubts else GOOD, "splits", "; ".join([text, *doubts]))
