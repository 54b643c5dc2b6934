"""The data: `fetch_dataloader` gives batches of (images, labels) for each split."""

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from toolkit.dataset import load_images
from toolkit.report_samples import ImageNames


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
        dataset = TensorDataset(*load_images(data_dir, split, params.cache_above_mb))
        dataset.items = ImageNames(data_dir, [split])  # for the report of an evaluation
        order = RandomSampler(dataset) if split == "train" else SequentialSampler(dataset)
        batches = BatchSampler(order, params.batch_size, drop_last=False)
        # batch_size=None: the dataset is indexed with a whole batch at once
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=params.cuda)
    return dataloaders
