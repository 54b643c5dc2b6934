"""The data: `fetch_dataloader` gives batches of (images, labels) for each split."""

from torch.utils.data import DataLoader, TensorDataset

from toolkit.core.image_dataset import BatchIndices, ImageNames, load_images


class Images(TensorDataset):
    """The images and labels of a split; `items`, the names of the images, are for the report of an evaluation."""

    def __init__(self, images, labels, items):
        super().__init__(images, labels)
        self.items = items


def fetch_dataloader(types, data_dir, params):
    """The data loaders of the splits in `types`.

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
        dataset = Images(images, labels, ImageNames(data_dir, [split]))
        batches = BatchIndices(len(dataset), params.batch_size, shuffle=split == "train")
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=params.cuda)
    return dataloaders
