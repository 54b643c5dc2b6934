"""Load chosen samples of a data loader, as an epoch loads them."""


def load_batch(order, key):
    """Return the batch (inputs, labels) of a key (epoch, number, first, indices) that ResumableBatches would load."""
    loader = order.seeded
    load = loader.dataset.__getitem__ if loader.batch_sampler is None else loader.dataset.__getitems__
    batch = loader.collate_fn(load(key))
    return order.unpack_batch(batch) if order.unpack_batch is not None else batch
