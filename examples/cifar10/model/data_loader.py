"""The data: `fetch_dataloader` gives batches of (images, labels) for each split."""

import logging

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from toolkit.core.image_dataset import BatchIndices, ImageNames, load_images


class Images(TensorDataset):
    """The images and labels of a split; `items`, the names of the images, are for the report of an evaluation."""

    def __init__(self, images, labels, items):
        super().__init__(images, labels)
        self.items = items


def fetch_dataloader(types, data_dir, params):
    """The data loaders of the splits in `types`. All images are on the device from the start, as uint8.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder that the root's build_dataset.py made.
        params: hyperparameters.

    Returns:
        dict from split to a DataLoader of (images, labels): uint8 (B, C, H, W) and int64 (B,). No sample is dropped;
        the last batch may be smaller.
    """
    dataloaders = {}
    for split in types:
        images, labels = load_images(data_dir, split, params.cache_above_mb)
        if split == "train":
            images, labels = training_images(images, labels, data_dir, params)
        items = ImageNames(data_dir, [split]) if split != "train" else None  # train may be another choice of images
        dataset = Images(images.to(params.device), labels.to(params.device), items)
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train", device=params.device)
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None)
    return dataloaders


def training_images(images, labels, data_dir, params):
    """Of the images and labels of the train split those to train on, with val's where `train_on_val` is set."""
    if params.train_on_val:
        logging.info("Training on val's images, too: metrics of val say nothing then, those of test do")
        both = zip((images, labels), load_images(data_dir, "val", params.cache_above_mb), strict=True)
        images, labels = map(torch.cat, both)
    if not params.num_train_images:
        return images, labels
    chosen = some_of_each_class(labels, params.num_train_images, params.seed)
    return images[chosen], labels[chosen]


def some_of_each_class(labels, count, seed):
    """Indices, int64 (count,), of a random choice by `seed`: of each class as many, give or take one; all, if fewer."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    labels = labels[shuffled].unsqueeze(1)  # (N, 1)
    place_in_class = F.one_hot(labels[:, 0]).cumsum(0).gather(1, labels).squeeze(1)  # (N,): 1 for the first of a class
    return shuffled[place_in_class.argsort(stable=True)[:count]]
