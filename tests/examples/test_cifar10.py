"""examples/cifar10: what its network, its augmentation and its data loader do; on the digits in the format of CIFAR-10."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, optional

import evaluate
import train
from toolkit.core.setup import set_up

build = optional("toolkit.datasets.builder").build
digits = optional("toolkit.datasets.sources").digits

EXAMPLE = ROOT / "examples" / "cifar10"
SHIPPED = sorted(path.parent.name for path in EXAMPLE.glob("experiments/*/params.json"))
SMALL = {"num_channels": 4, "num_epochs": 1, "batch_size": 64, "num_train_images": 500, "precision": "fp32"}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The digits, in RGB and of 32×32 pixels."""
    source, target = digits(), tmp_path_factory.mktemp("data") / "rgb"
    items = [dataclasses.replace(item, image=item.image.repeat(3, axis=2)) for item in source.load()]
    build(dataclasses.replace(source, load=lambda: items, channels=3), target, image_size=(32, 32))
    return target


@pytest.fixture
def example(tmp_path):
    """A copy of the example's code and params.json files."""
    shutil.copytree(EXAMPLE / "model", tmp_path / "cifar10" / "model")
    for name in SHIPPED:
        (tmp_path / "cifar10" / "experiments" / name).mkdir(parents=True)
        shutil.copy(EXAMPLE / "experiments" / name / "params.json", tmp_path / "cifar10" / "experiments" / name)
    return tmp_path / "cifar10"


@pytest.fixture
def make(example, data_dir):
    """Gives the Task, the Params and the network of base_model with some values changed."""

    def make(**values):
        task, params, _ = set_up(example / "experiments" / "base_model", data_dir, "cpu", overrides=SMALL | values)
        return task, params, task.make_model(params)

    return make


def random_images(count):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


def run(call, folder, data_dir, *arguments, base="base_model", **values):
    values = [f"{key}={json.dumps(value)}" for key, value in (SMALL | values).items()]
    origin = ["--from", folder.parent / base, "--data_dir", data_dir, "--device", "cpu"]
    return call(train.main, "--model_dir", folder, *origin, *arguments, *values)


def test_it_learns_and_is_evaluated(call, example, data_dir):
    folder = example / "experiments" / "new"
    learns = {"num_channels": 8, "num_epochs": 2, "num_train_images": 0, "random_flip": False, "batch_size": 32}
    code, out, err = run(call, folder, data_dir, **learns)
    assert (code, err) == (0, ""), err
    assert "no effect" not in out
    code, _, err = call(evaluate.main, "--model_dir", folder, "--data_dir", data_dir, "--device", "cpu")
    assert (code, err) == (0, ""), err
    assert json.loads((folder / "metrics_test_best.json").read_text())["accuracy"] > 0.8  # by chance 0.1


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_experiment_takes_a_step(call, example, data_dir, name):
    few = {"num_channels": 4, "num_train_images": 500}
    values = json.loads((EXAMPLE / "experiments" / name / "params.json").read_text()) | few
    code, out, err = run(call, example / "experiments" / "new", data_dir, "--max_steps", 1, base=name, **values)
    assert (code, err) == (0, ""), err
    assert "no effect" not in out


def test_each_training_image_is_moved_and_mirrored_on_its_own(make):
    _, _, model = make(random_shift=2, random_flip=True)
    images = random_images(100)
    moved = model.pixels.augment(images)
    assert (moved.shape, moved.dtype) == (images.shape, torch.uint8)
    used = set()
    for image, result in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (2, 2), (2, 2)], mode="reflect")
        for down, right, step in itertools.product(range(5), range(5), (1, -1)):
            if np.array_equal(padded[:, down : down + 32, right : right + 32][..., ::step], result):
                used.add((down, right, step))
                break
        else:
            pytest.fail("an image that is no shift of the one that was given")
    assert {down for down, _, _ in used} == {right for _, right, _ in used} == set(range(5))
    assert len(used) > 25  # of 50


def test_nothing_is_moved_in_an_evaluation(make):
    _, params, model = make(random_shift=4, random_flip=True)
    images = random_images(4)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (params.mean, params.std))
    torch.testing.assert_close(model.eval().pixels(images), (images / 255 - mean) / std, rtol=1e-4, atol=1e-4)


def test_in_an_evaluation_an_image_and_its_mirror_image_count_alike(make):
    images = random_images(4)
    for flip in (True, False):
        _, _, model = make(flip_in_evaluation=flip)
        outputs, mirrored = model.eval()(images), model(images.flip(3))
        assert torch.allclose(outputs, mirrored, atol=1e-6) == flip


def test_the_first_layer_whitens_and_stays_as_it_is(make, call, example, data_dir):
    task, params, model = make()
    task.load_pretrained(model, params)
    images, _ = task.fetch_dataloader(["train"], data_dir, params)["train"].dataset.tensors
    outputs = model.whiten(model.eval().pixels(images)).transpose(0, 1).flatten(1)[:12]  # (12, N)
    covariance = outputs @ outputs.T / outputs.shape[1]
    assert (covariance - torch.eye(12))[-3:, -3:].abs().max() < 0.1  # of grey digits the others hardly vary
    folder = example / "experiments" / "new"
    assert run(call, folder, data_dir, "--max_steps", 2)[0] == 0
    saved = torch.load(folder / "last.pth.tar", weights_only=True)["state_dict"]
    assert torch.equal(saved["whiten.weight"], model.whiten.weight)


def test_labels_are_smoothed_in_training_alone(make):
    task, params, _ = make(label_smoothing=0.2)
    outputs, labels = torch.randn(8, 10), torch.arange(8)
    log_shares = outputs.log_softmax(1)
    plain = -log_shares[torch.arange(8), labels].mean()
    with torch.inference_mode():  # as in evaluate
        assert task.loss_fn(params)(outputs, labels).item() == pytest.approx(plain.item())
    smoothed = 0.8 * plain - 0.2 * log_shares.mean()
    assert task.loss_fn(params)(outputs.requires_grad_(), labels).item() == pytest.approx(smoothed.item())


def test_num_train_images_takes_as_many_alike_in_every_class(make, data_dir):
    def taken(**values):
        task, params, _ = make(**values)
        loaders = task.fetch_dataloader(["train", "val"], data_dir, params)
        return [loader.dataset.tensors for loader in loaders.values()]

    (images, labels), (_, val_labels) = taken(num_train_images=504)
    assert len(images) == len(labels) == 504
    assert set(torch.bincount(labels).tolist()) == {50, 51}
    assert torch.equal(taken(num_train_images=504)[0][0], images)
    assert not torch.equal(taken(num_train_images=504, seed=1)[0][0], images)
    assert len(taken(num_train_images=10_000)[0][0]) == len(taken(num_train_images=0)[0][0])
    everything, everything_and_val = (len(taken(num_train_images=0, train_on_val=on)[0][1]) for on in (False, True))
    assert everything_and_val == everything + len(val_labels) == everything + len(taken(train_on_val=True)[1][1])
