import json

import numpy as np
import pytest
import torch

import evaluate
import train
import utils
from model import data_loader, net
from toolkit.core.folds import fold_of
from utils import UserError


def loaders(data_dir, folder, **values):
    (folder / "params.json").write_text(json.dumps(values))
    params = utils.Params(folder / "params.json", declared=net.Hyperparameters)
    params.add_facts({"cuda": False})
    return data_loader.fetch_dataloader(["train", "val", "test"], data_dir, params)


def test_every_sample_of_train_and_val_is_in_val_once_and_none_of_test(digits_dir, tmp_path):
    built = loaders(digits_dir, tmp_path)
    seen = []
    for fold in range(5):
        split = loaders(digits_dir, tmp_path, num_folds=5, fold=fold)
        train_images, val_images = (split[name].dataset.images for name in ("train", "val"))
        assert len(train_images) + len(val_images) == len(built["train"].dataset) + len(built["val"].dataset)
        assert torch.equal(split["test"].dataset.images, built["test"].dataset.images)
        keys = {image.numpy().tobytes() for image in train_images}
        assert not any(image.numpy().tobytes() in keys for image in val_images)
        seen += [image.numpy().tobytes() for image in val_images]
    both = torch.cat([built["train"].dataset.images, built["val"].dataset.images])
    assert sorted(seen) == sorted(image.numpy().tobytes() for image in both)


def test_the_classes_are_spread_evenly(digits_dir, tmp_path):
    counts = [
        np.bincount(loaders(digits_dir, tmp_path, num_folds=4, fold=fold)["val"].dataset.labels) for fold in range(4)
    ]
    assert np.ptp(counts, axis=0).max() <= 1


def test_equal_samples_stay_on_one_side():
    samples = torch.arange(40).repeat(3)[:, None]
    labels = samples[:, 0] % 4
    for fold in range(3):
        split = fold_of(samples, labels, 3, fold)
        assert not set(samples[split["train"], 0].tolist()) & set(samples[split["val"], 0].tolist())
    assert len(fold_of(samples, None, 8, 0)["val"]) == 15


def test_folds_that_there_are_not():
    with pytest.raises(UserError, match="num_folds is 3 and fold 3: num_folds should be at least 2"):
        fold_of(torch.zeros(9, 1), None, 3, 3)
    with pytest.raises(UserError, match="num_folds is 3, but train and val have only 1 different samples"):
        fold_of(torch.zeros(9, 1), None, 3, 0)


def test_a_fold_is_trained_and_evaluated_like_any_experiment(call, experiment):
    experiment.write(num_folds=4, fold=1)
    assert call(train.main, *experiment.arguments)[0] == 0
    code, _, err = call(evaluate.main, *experiment.arguments, "--split", "val")
    assert (code, err) == (0, "")
    best = experiment.metrics("metrics_val_best_weights.json")
    assert experiment.metrics("metrics_val_best.json")["accuracy"] == best["accuracy"]
    experiment.write(num_folds=4, fold=2, num_epochs=3)
    code, _, err = call(train.main, *experiment.arguments)
    assert code == 2
    assert "is of a run with another fold" in err
