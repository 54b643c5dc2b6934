"""The data: batches of (images, labels) for each split."""

from pydantic import Field
from torch.utils.data import DataLoader, TensorDataset

import utils
from toolkit.core.image_dataset import BatchIndices, ImageNames, load_images, read_image_facts


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    cache_above_mb: float = Field(32, ge=0, description="MB of pixels above which a split is read from a mapped file")


class Images(TensorDataset):
    """The images and labels of a split; `items` are the names of the images, for the report of an evaluation."""

    def __init__(self, images, labels, items):
        super().__init__(images, labels)
        self.items = items


def fetch_dataloader(types, data_dir, params):
    """Return the data loaders of the splits in `types`.

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
    pinned, dataloaders = getattr(params, "cuda", False), {}  # pinned memory: for fast copies to the GPU
    for split in types:
        images, labels = load_images(data_dir, split, params.cache_above_mb)
        dataset = Images(images, labels, ImageNames(data_dir, [split]))
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train")
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)
    return dataloaders
