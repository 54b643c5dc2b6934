"""The data: batches of (images, labels) for each split."""

import logging

import torch
import torch.nn.functional as F
from pydantic import Field
from torch.utils.data import DataLoader, TensorDataset

import utils
from toolkit.core.image_dataset import BatchIndices, ImageNames, load_images, read_image_facts


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    num_train_images: int = Field(0, ge=0, description="train on at most this many images, balanced by class; 0: all")
    train_on_val: bool = Field(False, description="also train on val; then only the metrics of test are meaningful")
    cache_above_mb: float = Field(32, ge=0, description="MB of pixels above which a split is read from a mapped file")


class Images(TensorDataset):
    """The images and labels of a split; `items` are the names of the images, for the report of an evaluation."""

    def __init__(self, images, labels, items):
        super().__init__(images, labels)
        self.items = items


def fetch_dataloader(types, data_dir, params):
    """Return the data loaders of the splits in `types`. All images are kept on the device, as uint8.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder, made by build_dataset.py of the repository.
        params: hyperparameters; they get the defaults of this file, and the facts of the dataset.

    Returns:
        dict from split to a DataLoader of (images, labels): uint8 (B, C, H, W) and int64 (B,). No sample is dropped;
        the last batch may be smaller.
    """
    params.declare(Hyperparameters)
    params.add_facts(read_image_facts(data_dir), source=f"{data_dir}/dataset.json")
    device, dataloaders = getattr(params, "device", "cpu"), {}
    for split in types:
        images, labels = load_images(data_dir, split, params.cache_above_mb)
        if split == "train":
            images, labels = training_images(images, labels, data_dir, params)
        items = ImageNames(data_dir, [split]) if split != "train" else None  # train may be a subset, or larger
        dataset = Images(images.to(device), labels.to(device), items)
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train", device=device)
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None)
    return dataloaders


def training_images(images, labels, data_dir, params):
    """Return the images and labels to train on, chosen from train and, with `train_on_val`, from val."""
    if params.train_on_val:
        logging.info("Also training on the images of val: only the metrics of test are meaningful")
        both = zip((images, labels), load_images(data_dir, "val", params.cache_above_mb), strict=True)
        images, labels = map(torch.cat, both)
    if not params.num_train_images:
        return images, labels
    chosen = some_of_each_class(labels, params.num_train_images, params.seed)
    return images[chosen], labels[chosen]


def some_of_each_class(labels, count, seed):
    """Return `count` random indices, int64, with as many of each class (give or take one); all if there are fewer."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    labels = labels[shuffled].unsqueeze(1)  # (N, 1)
    place_in_class = (
        F.one_hot(labels[:, 0]).cumsum(0).gather(1, labels).squeeze(1)
    )  # (N,): 1 for the first image of a class
    return shuffled[place_in_class.argsort(stable=True)[:count]]
