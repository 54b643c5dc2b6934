"""Contact sheets: many images in one picture, each with its name below it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from toolkit.core.image_dataset import SPLITS
from toolkit.core.image_decoding import CorruptImage, decode

SIDE, GAP, LINE = 96, 8, 13  # pixels: of an image, between two, of a line of text
COLUMNS, MOST = 10, 60  # images in a row; images, or pairs, on a sheet


def contact_sheet(file, title, entries, together=1):
    """Write a picture of images.

    Args:
        file: the PNG file.
        title: the text above them.
        entries: list of (path of an image, caption); the lines of a caption are cut to fit.
        together: how many of them make a group that is not broken up.
    """
    font = ImageFont.load_default(size=11)
    lines = max((caption.count("\n") + 1 for _, caption in entries), default=1)
    per_row = COLUMNS - COLUMNS % together
    rows = -(-len(entries) // per_row)
    width, height = SIDE + GAP, SIDE + lines * LINE + GAP
    sheet = Image.new("RGB", (GAP + per_row * width, 3 * GAP + LINE + rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, "black", ImageFont.load_default(size=14))
    for place, (path, caption) in enumerate(entries):
        row, column = divmod(place, per_row)
        x, y = GAP + column * width - column % together * GAP // 2, 3 * GAP + LINE + row * height
        try:
            image = Image.fromarray(decode(path, None, 3))
        except CorruptImage:
            continue
        scale = SIDE / max(image.size)
        size = [max(1, round(scale * side)) for side in image.size]
        sheet.paste(image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX), (x, y))
        for number, text in enumerate(caption.split("\n")):
            while font.getlength(text) > SIDE:
                text = text[:-2] + "…"
            pen.text((x, y + SIDE + number * LINE), text, "black", font)
    sheet.save(file)


def class_sheets(place, data_dir, images, class_names):
    """Write `contact_<class>.png` for each class into the folder `place`, with images from all of the class."""
    for label, name in enumerate(class_names):
        members = np.flatnonzero(images.labels == label)
        counts = ", ".join(f"{(images.splits[members] == s).sum():,} {split}" for s, split in enumerate(SPLITS))
        entries = [entry(data_dir, images.files[i]) for i in spread(members)]
        title = f"{name}: {len(entries)} of {len(members):,} images ({counts})"
        contact_sheet(place / f"contact_{name}.png", title, entries)


def pair_sheet(file, data_dir, images, pairs):
    """Write a picture of pairs of images, if there are any: those in two splits first, then as they are ordered."""
    between = [pair for pair in pairs if images.splits[pair[0]] != images.splits[pair[1]]]
    within = [pair for pair in pairs if images.splits[pair[0]] == images.splits[pair[1]]]
    shown = [*spread(between), *within][:MOST]
    if shown:
        title = f"{len(shown)} of {len(pairs):,} pairs of copies, {len(between):,} of them in two splits"
        contact_sheet(file, title, [entry(data_dir, images.files[i]) for pair in shown for i in pair], together=2)


def odd_sheet(file, data_dir, odd):
    """Write a picture of odd images, if there are any; `odd` is a dict from file to the reason."""
    shown = spread(list(odd))
    if shown:
        named = {name: entry(data_dir, name) for name in shown}
        entries = [(path, f"{odd[name]}\n{caption}") for name, (path, caption) in named.items()]
        contact_sheet(file, f"{len(shown)} of {len(odd):,} odd images", entries)


def spread(things):
    """At most MOST of some things, at even distances."""
    return [things[i] for i in np.linspace(0, len(things) - 1, min(MOST, len(things))).astype(int)]


def entry(data_dir, file):
    """The path of a file of a dataset, and its name, split and class as a caption."""
    split, kind, name = file.split("/", 2)
    return data_dir / file, f"{name.removesuffix('.png')}\n{split}/{kind}"
