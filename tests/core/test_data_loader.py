import pytest
import torch

import utils
from model import net
from model.data_loader import fetch_dataloader
from utils import Params


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.json").write_text('{"batch_size": 100}')
    params = Params(tmp_path / "params.json", declared=net.Hyperparameters)
    params.add_facts({"cuda": False})
    return params


def epoch_of(loader, seed, epoch):
    utils.set_seed(seed, epoch)
    return [(images.clone(), labels.clone()) for images, labels in loader]


def test_every_image_comes_once_an_epoch(digits_dir, params):
    loaders = fetch_dataloader(["train", "val", "test"], digits_dir, params)
    total = 0
    for split, loader in loaders.items():
        batches = epoch_of(loader, 1, 1)
        assert len(batches) == len(loader)
        assert all(images.dtype == torch.uint8 and images.shape[1:] == (1, 8, 8) for images, _ in batches)
        labels = torch.cat([labels for _, labels in batches])
        assert len(labels) == len(loader.dataset)
        assert torch.equal(labels.bincount(), loader.dataset.labels.bincount()), split
        total += len(labels)
    assert total == 1797


def test_the_order_is_a_function_of_seed_and_epoch(digits_dir, params):
    loader = fetch_dataloader(["train"], digits_dir, params)["train"]
    first = epoch_of(loader, 1, 1)
    for (images, labels), (images_again, labels_again) in zip(first, epoch_of(loader, 1, 1), strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(first[0][1], epoch_of(loader, 1, 2)[0][1])
    assert not torch.equal(first[0][1], epoch_of(loader, 2, 1)[0][1])


def test_validation_keeps_its_order(digits_dir, params):
    loader = fetch_dataloader(["val"], digits_dir, params)["val"]
    assert torch.equal(torch.cat([labels for _, labels in loader]), loader.dataset.labels)
