"""examples/transfer: torchvision's networks with a new head, frozen or not, and where their weights come from."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_process, snapshot
from project_kinds import differences, outcome
from sklearn.metrics import balanced_accuracy_score
from torchvision import models
from torchvision.transforms.v2 import functional

import train
from toolkit.core.setup import set_up

EXAMPLE = ROOT / "examples" / "transfer"
FAST = {"backbone": "shufflenet_v2_x0_5", "weights": "none", "input_size": 32, "num_epochs": 1, "batch_size": 512}


@pytest.fixture
def make(tmp_path, digits_dir):
    """Gives the Task, the Params and the network of base_model with some values changed."""
    shutil.copytree(EXAMPLE / "model", tmp_path / "transfer" / "model")
    for name in ("base_model", "frozen"):
        folder = tmp_path / "transfer" / "experiments" / name
        folder.mkdir(parents=True)
        shutil.copy(EXAMPLE / "experiments" / name / "params.json", folder)

    def make(**overrides):
        overrides = FAST | overrides
        task, params, _ = set_up(tmp_path / "transfer/experiments/base_model", digits_dir, "cpu", overrides=overrides)
        return task, params, task.make_model(params)

    return make


@pytest.fixture
def published(tmp_path):
    """A file as torchvision publishes them, of a network for 1000 classes, and that network."""
    model = models.shufflenet_v2_x0_5().eval()
    torch.save(model.state_dict(), tmp_path / "published.pth")
    return tmp_path / "published.pth", model


def one_step(task, params, model):
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    model.train()
    optimizer = task.make_optimizer(model, params)
    task.loss_fn(params)(model(images), torch.arange(16) % 10).backward()
    optimizer.step()


def run(call, model_dir, digits_dir, *arguments, **values):
    values = [f"{key}={value}" for key, value in (FAST | {"input_size": 0} | values).items()]
    base = ["--from", model_dir.parent / "base_model", "--data_dir", digits_dir, "--device", "cpu"]
    return call(train.main, "--model_dir", model_dir, *base, *arguments, *values)


@pytest.mark.parametrize(
    "backbone, head",
    {
        "resnet18": "fc",
        "mobilenet_v3_small": "classifier.3",
        "shufflenet_v2_x0_5": "fc",
        "efficientnet_b0": "classifier.1",
        "densenet121": "classifier",
        "convnext_tiny": "classifier.2",
        "swin_t": "head",
    }.items(),
)
def test_a_backbone_gets_a_head_for_the_classes_of_the_dataset(make, backbone, head):
    _, _, model = make(backbone=backbone)
    assert model.head_name == head
    assert model.head.out_features == 10
    assert model.eval()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


def test_a_frozen_backbone_stays_as_it_is_and_the_head_learns(make):
    task, params, model = make(frozen=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one_step(task, params, model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"backbone.fc.weight", "backbone.fc.bias"}  # nor batch norm's running means


def test_without_freezing_all_of_it_learns_and_the_backbone_more_slowly(make):
    task, params, model = make(learning_rate=0.01, backbone_learning_rate=1e-5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    one_step(task, params, model)
    steps = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    assert steps["backbone.fc.weight"] == pytest.approx(0.01, rel=0.01)  # Adam's first step
    assert steps["backbone.conv1.0.weight"] == pytest.approx(1e-5, rel=0.01)
    groups = task.make_optimizer(model, params).param_groups
    assert [len(group["params"]) for group in groups] == [2, len(before) - 2]


def test_weights_from_a_file_give_what_torchvision_gives(make, published):
    file, theirs = published
    task, params, model = make(weights=str(file), input_size=0)
    task.load_pretrained(model, params)
    model.backbone.fc = theirs.fc  # the head for ten classes was left out
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    preset = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    expected = theirs(functional.normalize(images / 255, preset.mean, preset.std))
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-5)
    grey = images[:, :1]
    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_a_head_of_as_many_classes_is_taken_too(make, tmp_path):
    task, params, model = make()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "last.pth.tar")  # as train.py saves
    task, params, other = make(weights=str(tmp_path / "last.pth.tar"), seed=1)
    assert not torch.equal(other.head.weight, model.head.weight)
    task.load_pretrained(other, params)
    assert torch.equal(other.head.weight, model.head.weight)


def test_the_names_of_published_densenets_are_understood(make, tmp_path):
    theirs = models.densenet121().state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for name, v in theirs.items()}
    assert old.keys() != theirs.keys()
    torch.save(old, tmp_path / "densenet121.pth")
    task, params, model = make(backbone="densenet121", weights=str(tmp_path / "densenet121.pth"))
    task.load_pretrained(model, params)
    name = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(model.backbone.state_dict()[name], theirs[name])


def test_a_download_that_fails_says_what_to_do_and_the_file_put_there_is_used(
    make, call, tmp_path, digits_dir, published, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(
        models.ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", "https://localhost:9/models/shufflenet-0123456789.pth"
    )
    model_dir = tmp_path / "transfer" / "experiments" / "new"
    code, _, err = run(call, model_dir, digits_dir, weights="imagenet")
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    assert (
        "the weights of shufflenet_v2_x0_5 cannot be downloaded from https://localhost:9/models/shufflenet-0123456789.pth: "
        in err
    )
    assert f"Put the file shufflenet-0123456789.pth into {folder}" in err
    assert '"weights": "none"' in err
    lines = [line for line in err.splitlines() if not line.startswith("Downloading: ")]  # which torch 2.6 says there
    assert (code, len(lines), model_dir.exists(), list(folder.iterdir())) == (2, 1, False, [])
    shutil.copy(published[0], folder / "shufflenet-0123456789.pth")
    code, out, err = run(call, model_dir, digits_dir, weights="imagenet")
    assert (code, err) == (0, ""), err
    assert "Its head is for 1000 classes; the new head starts from random weights" in out
    assert "no effect" not in out


@pytest.mark.slow
def test_going_on_and_evaluating_need_neither_network_nor_file(make, call, tmp_path, digits_dir, published):
    import evaluate

    folder = tmp_path / "transfer" / "experiments"
    for name, steps in (("whole", []), ("interrupted", ["--max_steps", 1])):
        code, _, err = run(call, folder / name, digits_dir, *steps, weights=str(published[0]), num_epochs=2)
        assert code == 0, err
    published[0].unlink()
    assert run(call, folder / "interrupted", digits_dir, weights=str(published[0]), num_epochs=2)[0] == 0
    assert differences(outcome(folder / "interrupted"), outcome(folder / "whole")) == []
    data = ["--data_dir", digits_dir, "--device", "cpu"]
    assert call(evaluate.main, "--model_dir", folder / "interrupted", *data)[0] == 0


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"backbone": "resnet19"}, "backbone is 'resnet19', which torchvision does not have; it has resnet18, "),
        ({"backbone": "squeezenet1_1"}, "squeezenet1_1 has no linear layer to replace; choose another backbone"),
        ({"backbone": "googlenet"}, "googlenet gives further outputs in training; choose another backbone"),
        ({"backbone": "densenet121", "input_size": 0}, "densenet121 takes no images of size 8×8 ("),
        (
            {"weights": "nowhere.pth"},
            "weights nowhere.pth: cannot be read, or are damaged: [Errno 2] No such file or directory",
        ),
        ({"weights": "damaged.pth"}, "weights damaged.pth: cannot be read, or are damaged: "),
        ({"weights": "list.pth"}, "list.pth: no weights: it should be a state dict"),
        (
            {"weights": "published.pth", "backbone": "shufflenet_v2_x1_0"},
            "weights published.pth: not those of ",
        ),
        (
            {"weights": "published.pth", "backbone": "mobilenet_v3_small"},
            "weights published.pth: not those of ",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(make, call, tmp_path, digits_dir, published, values, expected):
    Path("damaged.pth").write_bytes(published[0].read_bytes()[:10_000])
    torch.save([1, 2], "list.pth")
    before = snapshot(tmp_path)
    code, _, err = run(call, tmp_path / "transfer" / "experiments" / "new", digits_dir, **values)
    assert expected in err
    assert (code, err.count("\n"), snapshot(tmp_path)) == (2, 1, before)


def test_training_images_are_mirrored_one_by_one(make):
    _, _, model = make(random_flip=True)
    model.backbone, seen = torch.nn.Identity(), torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    seen[..., 0] = 255
    model.head_name = ""
    model.training = True
    left = (model(seen)[:, 0, :, 0] > 0).all(dim=1)
    assert 10 < left.sum() < 54


def test_torchvision_is_imported_by_this_example_alone():
    code = "import sys, train, model.net; sys.exit('torchvision' in sys.modules)"
    assert run_process(sys.executable, "-c", code).returncode == 0


def test_balanced_classes_count_alike_in_the_loss_and_the_metric(make):
    task, params, model = make(balanced=True)
    outputs, labels = torch.randn(64, 10), torch.randint(0, 10, (64,))
    losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
    train_counts = [params.counts["train"][name] for name in params.class_names]
    weights = [sum(train_counts) / 10 / train_counts[label] for label in labels.tolist()]
    loss = task.loss_fn(params)(outputs.requires_grad_(), labels)
    assert loss.item() == pytest.approx((torch.tensor(weights) * losses).mean().item())
    assert loss.parts["cross_entropy"].item() == pytest.approx(losses.mean().item())
    metric = task.metrics["balanced_accuracy"]
    metric.reset()
    for part, their in zip(outputs.split(9), labels.split(9), strict=True):
        metric.update(part, their)
    expected = balanced_accuracy_score(labels, outputs.detach().argmax(1))
    assert metric.compute().item() == pytest.approx(expected)
