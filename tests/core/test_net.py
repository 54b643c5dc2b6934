import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from model import net
from utils import Params


def params_for(tmp_path, height=8, width=8, channels=1, classes=10, **values):
    import json

    (tmp_path / "params.json").write_text(json.dumps(values))
    params = Params(tmp_path / "params.json", declared=net.Hyperparameters)
    facts = {"num_classes": classes, "image_channels": channels, "image_height": height, "image_width": width}
    params.add_facts(facts | {"mean": [0.4] * channels, "std": [0.2] * channels})
    return params


def images(count, channels, height, width):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("architecture", ["ConvNet", "DenseNet", "TwoLayerNet"])
@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (28, 28, 1), (64, 64, 3), (5, 17, 4), (1, 1, 3)])
def test_every_architecture_takes_images_of_any_shape(tmp_path, architecture, height, width, channels):
    params = params_for(tmp_path, height, width, channels, 7, architecture=architecture)
    model = net.Net(params)
    outputs = model(images(3, channels, height, width))
    assert outputs.shape == (3, 7)
    assert outputs.dtype == torch.float32
    net.loss_fn(outputs, torch.tensor([0, 3, 6]), params).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_dense_net_has_the_sizes_it_is_known_by(tmp_path):
    model = net.Net(params_for(tmp_path, 28, 28, architecture="DenseNet"))
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(256, 784), (128, 256), (10, 128)]


def test_pixels_are_normalised_with_the_facts_of_the_data(tmp_path):
    layer = net.PixelInput(params_for(tmp_path)).eval()
    assert set(dict(layer.named_buffers())) == {"mean", "std"}
    pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert torch.allclose(layer(pixels).flatten(), torch.tensor([-2.0, 3.0]))


def test_a_constant_channel_does_not_divide_by_zero(tmp_path):
    params = params_for(tmp_path)
    params.add_facts({"std": [0.0]})
    assert net.PixelInput(params).eval()(images(1, 1, 4, 4)).isfinite().all()


def test_augmentation_moves_each_image_on_its_own_and_only_in_training(tmp_path):
    torch.manual_seed(0)
    layer = net.PixelInput(params_for(tmp_path, random_shift=2, random_flip=True))
    layer.mean.zero_()
    layer.std.fill_(1 / 255)
    image = images(1, 3, 6, 6)
    batch = image.expand(500, -1, -1, -1)
    assert torch.equal(layer.eval()(batch).round(), batch.float())
    moved = layer.train()(batch).round().to(torch.uint8)
    padded = torch.nn.functional.pad(image[0], (2, 2, 2, 2))
    possible = {}
    for flip in (False, True):
        for dy in range(5):
            for dx in range(5):
                window = padded[:, dy : dy + 6, dx : dx + 6]
                possible[(window.flip(2) if flip else window).contiguous().numpy().tobytes()] = (flip, dy, dx)
    found = [possible[m.contiguous().numpy().tobytes()] for m in moved]
    assert set(found) == set(possible.values())  # all 50 of them occur, and nothing else


def test_digits_are_not_flipped_by_default(tmp_path):
    layer = net.PixelInput(params_for(tmp_path)).train()
    batch = images(8, 1, 8, 8)
    assert torch.equal(layer(batch), layer.eval()(batch))


def test_smoothed_labels_and_balanced_classes_are_for_training_alone(tmp_path):
    counts = {"train": {"a": 30, "b": 10, "c": 0}}
    facts = {"class_names": ["a", "b", "c"], "counts": counts}
    outputs, labels = torch.randn(40, 3), torch.tensor([0] * 30 + [1] * 10)
    plain = torch.nn.functional.cross_entropy(outputs, labels)
    for values in ({}, {"label_smoothing": 0.2}, {"balanced": True}):
        params = params_for(tmp_path, **values)
        params.add_facts(facts)
        assert net.loss_fn(outputs, labels, params) == plain
        trained = net.loss_fn(outputs.clone().requires_grad_(), labels, params)
        assert bool(trained == plain) is (values == {})
    each = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
    assert trained.item() == pytest.approx((each[:30].mean() + each[30:].mean()).item() / 2)  # two of three occur
    params = params_for(tmp_path, label_smoothing=0.2)
    smoothed = torch.nn.functional.cross_entropy(outputs, labels, label_smoothing=0.2)
    assert torch.isclose(net.loss_fn(outputs.requires_grad_(), labels, params), smoothed)


def test_metrics_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    for classes in (2, 5, 12):
        outputs, labels = generator.normal(size=(40, classes)), generator.integers(0, classes, 40)
        predictions = outputs.argmax(1)
        assert net.accuracy(outputs, labels) == pytest.approx(accuracy_score(labels, predictions))
        assert net.macro_f1(outputs, labels) == pytest.approx(f1_score(labels, predictions, average="macro"))
