"""The data: `fetch_dataloader` gives batches of (images, labels) for each split. Change it to feed data of your own."""

import torch
from torch.utils.data import DataLoader, Dataset

from toolkit.core.folds import fold_of
from toolkit.core.image_dataset import BatchIndices, ImageNames, fits_on, load_images


class Images(Dataset):
    """The images of one split, decoded once and kept as uint8, so that a batch is a single index operation.

    Where a GPU has room for them they stay there (worker processes could not read them then: this loader has none).

    Args:
        data_dir: dataset folder that build_dataset.py made.
        split: "train", "val" or "test".
        params: hyperparameters; `cache_above_mb` says when the pixels stay in a mapped file, `num_folds` and `fold`
            that train and val are one of so many ways to divide the two.
    """

    def __init__(self, data_dir, split, params):
        parts = [split] if split == "test" or not params.num_folds else ["train", "val"]
        loaded = [load_images(data_dir, part, params.cache_above_mb) for part in parts]
        self.images, self.labels = loaded[0] if len(loaded) == 1 else map(torch.cat, zip(*loaded, strict=True))
        self.items = ImageNames(data_dir, parts)  # for the report of an evaluation
        if len(loaded) > 1:  # cross-validation, which `search_hyperparams.py --folds` asks for
            chosen = fold_of(self.images, self.labels, params.num_folds, params.fold)[split]
            self.images, self.labels = self.images[chosen], self.labels[chosen]
            self.items = ImageNames(data_dir, parts, chosen)
        device = getattr(params, "device", "cpu")
        if fits_on(device, self.images.nbytes):
            self.images, self.labels = self.images.to(device), self.labels.to(device)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, indices):
        """The images, uint8 (B, C, H, W), and labels, int64 (B,), at `indices`, int64 (B,)."""
        pixels = self.images.permute(0, 2, 3, 1)  # (N, H, W, C), as they lie in memory: an image is one piece of it
        return pixels.index_select(0, indices).permute(0, 3, 1, 2), self.labels[indices]


def fetch_dataloader(types, data_dir, params):
    """The data loaders of the splits in `types`.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: the dataset's folder.
        params: hyperparameters.

    Returns:
        dict from split to a DataLoader of (images, labels): uint8 (B, C, H, W) and int64 (B,). No sample is dropped;
        the last batch may be smaller.
    """
    dataloaders = {}
    for split in types:
        dataset = Images(data_dir, split, params)
        device = dataset.labels.device
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train", device=device)
        pinned = params.cuda and device.type == "cpu"  # memory that a GPU copies from while it computes
        # batch_size=None: the dataset gives whole batches, so the loader has nothing to put together
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)
    return dataloaders
