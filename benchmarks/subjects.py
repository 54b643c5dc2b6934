"""What is trained in the comparisons: pictures made from scikit-learn's digits, experiments as train.py has them."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

import utils
from toolkit.core.setup import set_up
from toolkit.datasets.builder import build
from toolkit.datasets.sources import Item, Source, digits, folder

COUNTS = {"train": 864, "val": 216, "test": 120}  # of CS230's hand signs
SIZE = (64, 64)
MANY = 4000  # pictures, where it is about how many there are


def coloured_digits(count):
    """Yield pairs of a label and a picture of 64×64 in RGB: digits in colours of their own, each picture different."""
    data, rng = load_digits(), np.random.default_rng(0)
    for number in range(count):
        grey = Image.fromarray((data.images[number % len(data.images)] * (255 / 16)).astype(np.uint8))
        dark, bright = (tuple(map(int, rng.integers(*bounds, size=3))) for bounds in ((0, 96), (160, 256)))
        picture = ImageOps.colorize(grey.resize(SIZE, Image.Resampling.BICUBIC), dark, bright)
        yield int(data.target[number % len(data.images)]), picture


def hand_signs(place):
    """JPEG files laid out as CS230's hand signs are, `train_signs/3_IMG_0012.jpg`, and the dataset built from them.

    Returns:
        The paths of the two folders. They are made once in the folder `place`.
    """
    files, dataset = place / "SIGNS", place / "signs"
    if not files.exists():
        pictures = coloured_digits(sum(COUNTS.values()))
        for split, count in COUNTS.items():
            (files / f"{split}_signs").mkdir(parents=True)
            for number in range(count):
                label, picture = next(pictures)
                picture.save(files / f"{split}_signs" / f"{label}_IMG_{number:04d}.jpg", quality=90)
        build(folder(files), dataset)
    return files, dataset


def small_digits(place):
    """The bundled dataset of 8×8 pixels, built once in the folder `place`."""
    dataset = place / "digits"
    if not dataset.exists():
        build(digits(), dataset)
    return dataset


def many_pictures(place):
    """A dataset of MANY pictures of 64×64 in RGB to train on, built once in the folder `place`."""
    dataset = place / "pictures"
    if not dataset.exists():
        spare = 10  # in val and test each
        splits = ["train"] * MANY + ["val"] * spare + ["test"] * spare
        items = [
            Item(str(label), f"{number:06d}", np.asarray(picture), splits[number])
            for number, (label, picture) in enumerate(coloured_digits(len(splits)))
        ]
        facts = {"kind": "coloured digits", "from": "scikit-learn's load_digits"}
        build(Source(lambda: items, [str(n) for n in range(10)], 3, SIZE, facts), dataset, drop_duplicates=True)
    return dataset


def write_experiment(model_dir, **params):
    """Make an experiment's folder. Returns its path."""
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "params.json").write_text(json.dumps(params))
    return model_dir


def experiment(model_dir, data_dir, **params):
    """An experiment as train.py sets it up: task, params, loaders, model, optimizer, loss_fn, as attributes."""
    task, params, data_dir = set_up(write_experiment(model_dir, **params), data_dir, "cpu")
    params.num_epochs = 10**6  # as many as are asked for
    utils.set_seed(params.seed)
    loaders = task.fetch_dataloader(["train", "val"], data_dir, params)
    model = task.make_model(params)
    return SimpleNamespace(
        folder=model_dir,
        task=task,
        params=params,
        loaders=loaders,
        model=model,
        optimizer=task.make_optimizer(model, params),
        loss_fn=task.loss_fn(params),
    )
