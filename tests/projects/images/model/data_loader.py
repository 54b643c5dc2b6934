"""The data: batches of (images, labels) for each split. Change this file to use your own data."""

import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

import utils
from toolkit.core.folds import fold_of
from toolkit.core.image_dataset import BatchIndices, ImageNames, fits_on, load_images, read_image_facts


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    num_folds: int = Field(0, ge=0, le=1000, description="cross-validation: folds that train and val are divided into")
    fold: int = Field(0, ge=0, description="cross-validation: the fold that is val, from 0; the others are train")
    cache_above_mb: float = Field(32, ge=0, description="MB of pixels above which a split is read from a mapped file")


class Images(Dataset):
    """The images of one split, decoded once and kept as uint8, so that a batch is a single index operation.

    They are kept on the GPU if they fit (worker processes cannot read them there: this loader uses none).

    Args:
        data_dir: dataset folder, made by build_dataset.py.
        split: "train", "val" or "test".
        params: `num_folds`, `fold`, `cache_above_mb`; `device`, if it is set.
    """

    def __init__(self, data_dir, split, params):
        parts = [split] if split == "test" or not params.num_folds else ["train", "val"]
        loaded = [load_images(data_dir, part, params.cache_above_mb) for part in parts]
        self.images, self.labels = loaded[0] if len(loaded) == 1 else map(torch.cat, zip(*loaded, strict=True))
        self.items = ImageNames(data_dir, parts)  # for the report of an evaluation
        if len(loaded) > 1:  # cross-validation, as in `search_hyperparams.py --folds`
            chosen = fold_of(self.images, self.labels, params.num_folds, params.fold)[split]
            self.images, self.labels = self.images[chosen], self.labels[chosen]
            self.items = ImageNames(data_dir, parts, chosen)
        device = getattr(params, "device", "cpu")
        if fits_on(device, self.images.nbytes):
            self.images, self.labels = self.images.to(device), self.labels.to(device)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, indices):
        """Return the images, uint8 (B, C, H, W), and labels, int64 (B,), at `indices`, int64 (B,)."""
        pixels = self.images.permute(0, 2, 3, 1)  # (N, H, W, C), as in memory: an image is one contiguous piece
        return pixels.index_select(0, indices).permute(0, 3, 1, 2), self.labels[indices]


def fetch_dataloader(types, data_dir, params):
    """Return the data loaders of the splits in `types`.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder.
        params: hyperparameters; they get the defaults of this file, and the facts of the dataset.

    Returns:
        dict from split to a DataLoader of (images, labels): uint8 (B, C, H, W) and int64 (B,). No sample is dropped;
        the last batch may be smaller.
    """
    params.declare(Hyperparameters)
    params.add_facts(read_image_facts(data_dir), source=f"{data_dir}/dataset.json")
    dataloaders = {}
    for split in types:
        dataset = Images(data_dir, split, params)
        device = dataset.labels.device
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train", device=device)
        pinned = getattr(params, "cuda", False) and device.type == "cpu"  # for fast copies to the GPU
        # batch_size=None: the dataset returns whole batches, so the loader has nothing to collate
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)
    return dataloaders
