"""Contact sheets: pictures of many images, each with its file name, split and class below it."""

from collections import Counter

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.utils import make_grid

from toolkit.core.image_dataset import SPLITS
from toolkit.core.image_decoding import decode
from toolkit.datasets.dataset_folder import short_name

SIDE, GAP, LINE = 96, 8, 14  # pixels: longer side of an image, space between two, height of a line of text
COLUMNS, MOST = 10, 60  # images in a row; images, or pairs, on a sheet


def draw_contact_sheets(folder, data_dir, images, pairs, odd):
    """Draw `contact_<class>.png`, `duplicates.png` and `odd.png` (a dict from file to reason) into a folder."""
    classes = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    for name, members in classes.items():
        splits = Counter(image.split for image in members)
        counts = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS)
        tiles = [tile(data_dir, image.file) for image in spread(members)]
        file = folder / f"{short_name(f'contact_{name}', 240)}.png"
        draw_sheet(file, f"{name}: {len(tiles)} of {len(members):,} images ({counts})", tiles)
    shown = sorted(pairs, key=lambda pair: pair[0].split == pair[1].split)[:MOST]
    tiles = [np.hstack([tile(data_dir, image.file) for image in pair]) for pair in shown]
    title = f"{len(shown)} of {len(pairs):,} pairs of copies, those in two splits first"
    draw_sheet(folder / "duplicates.png", title, tiles, COLUMNS // 2)
    tiles = [tile(data_dir, file, odd[file]) for file in spread(list(odd))]
    draw_sheet(folder / "odd.png", f"{len(tiles)} of {len(odd):,} odd images", tiles)


def spread(values):
    """Return at most MOST of the values, evenly spaced."""
    return [values[i] for i in np.linspace(0, len(values) - 1, min(MOST, len(values))).astype(int)]


def tile(data_dir, file, *notes):
    """Return an image of the dataset with its name, split, class and notes below it, uint8 (height, width, 3)."""
    image = Image.fromarray(decode(data_dir / file, None, 3))
    scale = SIDE / max(image.size)
    size = [max(1, round(scale * side)) for side in image.size]
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    split, label, name = file.split("/", 2)
    lines = [*notes, name.removesuffix(".png"), f"{split}/{label}"]
    canvas = Image.new("RGB", (SIDE, image.height + LINE * len(lines)), "white")
    canvas.paste(image)
    font = ImageFont.load_default(size=11)
    for number, line in enumerate(lines):  # cut off at the edge of the image
        ImageDraw.Draw(canvas).text((0, image.height + LINE * number), line, "black", font)
    return np.asarray(ImageOps.expand(canvas, (0, 0, GAP // 2, 0), "white"))


def draw_sheet(file, title, tiles, columns=COLUMNS):
    """Write a PNG file of tiles in rows, below a title; nothing if there are no tiles."""
    if not tiles:
        return
    tiles = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)  # (N, 3, height, width)
    grid = make_grid(tiles, nrow=columns, padding=GAP, pad_value=255).permute(1, 2, 0).numpy()
    font = ImageFont.load_default(size=14)
    width = max(grid.shape[1], int(font.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (width, grid.shape[0] + GAP + LINE), "white")
    sheet.paste(Image.fromarray(grid), (0, GAP + LINE))
    ImageDraw.Draw(sheet).text((GAP, GAP), title, "black", font)
    sheet.save(file)
