"""The signs experiment: CS230's hand signs, from the folder as it is downloaded to a trained model by two commands."""

import json

import numpy as np
from conftest import IMAGES, optional
from PIL import Image
from sklearn.datasets import load_digits

import evaluate
import train

build_dataset = optional("build_dataset")


def signs_as_downloaded(folder):
    """Square photos in colour named `{label}_IMG_{id}.jpg`, the first one as large as a phone takes them."""
    digits, number = load_digits(n_class=6), 5864
    for split, indices in (("train_signs", range(60)), ("test_signs", range(60, 84))):
        (folder / split).mkdir(parents=True)
        for i in indices:
            side = 3024 if i == 0 else 200
            image = Image.fromarray((digits.images[i] * 15).astype(np.uint8)).resize((side, side)).convert("RGB")
            image.save(folder / split / f"{digits.target[i]}_IMG_{number + i}.jpg")


def test_two_commands_lead_from_the_download_to_a_trained_model(tmp_path, call):
    signs_as_downloaded(tmp_path / "SIGNS")
    code, out, err = call(build_dataset.main, "folder", "SIGNS", "--name", "signs")
    assert code == 0, err
    assert "data/signs: RGB images of 64×64 pixels" in out
    facts = json.loads((tmp_path / "data/signs/dataset.json").read_text())
    assert facts["class_names"] == ["0", "1", "2", "3", "4", "5"]
    counts = {split: sum(classes.values()) for split, classes in facts["counts"].items()}
    assert (counts["train"] + counts["val"], counts["test"]) == (60, 24)  # the test photos are tested on, and no other
    arguments = [
        "--from",
        IMAGES / "experiments" / "signs",
        "num_epochs=2",
        "--data_dir",
        "data/signs",
        "--device",
        "cpu",
    ]
    code, out, err = call(train.main, "--model_dir", "signs", *arguments)
    assert (code, err) == (0, "")
    assert "no effect" not in out
    assert call(evaluate.main, "--model_dir", "signs", *arguments[-4:])[0] == 0
    assert (tmp_path / "signs" / "metrics_test_best.json").exists()


def test_the_hyperparameters_are_cs230s():
    params = json.loads((IMAGES / "experiments" / "signs" / "params.json").read_text())
    published = {"learning_rate": 1e-3, "batch_size": 32, "num_epochs": 10, "dropout_rate": 0.8, "num_channels": 32}
    assert params.items() >= (published | {"dataset": "signs", "random_flip": True}).items()
