"""Tests of predict.py: the same labels as evaluate.py, without the dataset, for any files in a folder."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Experiment, copy_of, optional, snapshot
from PIL import Image
from project_kinds import predictions, train_and_evaluate, wine_project
from sklearn.datasets import load_wine

import evaluate
import predict
import train
import utils
from toolkit.core.image_dataset import load_images
from toolkit.core.task import find_task
from toolkit.predict.outputs import predict as apply_model
from utils import Params


@pytest.fixture
def trained(call, experiment, tmp_path):
    """Return a trained experiment whose dataset has been moved to `experiment.data_dir`."""
    gone = copy_of(experiment.data_dir, tmp_path / "data" / "gone")
    experiment.data_dir = gone
    experiment.write(dataset="gone", random_flip=True, ema_decay=0.9)
    assert call(train.main, *experiment.arguments)[0] == 0
    assert call(evaluate.main, *experiment.arguments)[0] == 0
    experiment.data_dir = gone.rename(tmp_path / "elsewhere")
    return experiment


def test_the_labels_agree_with_evaluation_and_the_dataset_is_not_needed(call, trained, tmp_path):
    before = snapshot(trained.folder)
    rows = predictions(call, trained.folder, trained.data_dir / "test")
    assert snapshot(trained.folder) == before
    assert not (tmp_path / "data" / "gone").exists()
    names = [row["item"].split("/")[-2] for row in rows]
    accuracy = np.mean([row["prediction"] == name for row, name in zip(rows, names, strict=True)])
    assert accuracy == trained.metrics("metrics_test_best.json")["accuracy"]

    params = Params(trained.folder / "params.json", declared=find_task(trained.folder).hyperparameters)
    facts = json.loads((trained.data_dir / "dataset.json").read_text())
    params.add_facts(facts | {"device": "cpu"})
    model = find_task(trained.folder).Net(params)
    utils.load_checkpoint(trained.folder / "best.pth.tar", model)
    images, _ = load_images(trained.data_dir, "test", 32)  # in the order of evaluate.py
    outputs = apply_model(model, images.split(50), params)
    assert [row["prediction"] for row in rows] == [facts["class_names"][i] for i in outputs.argmax(axis=1)]
    assert float(rows[0]["probability"]) == pytest.approx(np.exp(outputs[0]).max() / np.exp(outputs[0]).sum(), abs=1e-4)


def test_photos_are_decoded_as_in_build_dataset(call, tmp_path, digits_dir):
    photos = tmp_path / "photos"
    numbers = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (photos / label).mkdir(parents=True)
        for i in range(6):
            pixels = numbers.integers(0, 256, (90 + i, 120, 3), np.uint8)
            exif = Image.Exif()
            exif[0x0112] = 1 + i  # rotated and mirrored
            Image.fromarray(pixels).save(photos / label / f"{i}.jpg", exif=exif)
    builder, sources = optional("toolkit.datasets.builder"), optional("toolkit.datasets.sources")
    builder.build(sources.folder(photos), tmp_path / "built", image_size=(16, 24))
    experiment = Experiment(tmp_path / "experiment", tmp_path / "built")
    assert call(train.main, *experiment.arguments)[0] == 0
    of_photos = {row["item"][-9:-4]: row for row in predictions(call, experiment.folder, photos)}
    of_built = {row["item"][-9:-4]: row for row in predictions(call, experiment.folder, tmp_path / "built")}
    assert of_photos.keys() == of_built.keys()
    assert len(of_photos) == 12
    for name, row in of_photos.items():
        assert row["prediction"] == of_built[name]["prediction"]
        assert row["probability"] == of_built[name]["probability"]


def test_files_that_are_no_images_are_skipped_with_a_warning(call, trained, tmp_path):
    digit = next((trained.data_dir / "test" / "3").iterdir())
    mixed = tmp_path / "mixed"
    (mixed / "deep").mkdir(parents=True)
    (mixed / ".hidden").mkdir()
    for name in ("b.png", "deep/c.PNG", ".hidden/d.png", "no_ending"):
        shutil.copy(digit, mixed / name)
    (mixed / "a.png").write_bytes(b"not an image")
    (mixed / "notes.txt").write_text("not an image")
    odd = {"\\udcff.png"} if sys.platform == "linux" else set()
    if odd:  # on Linux a file name need not be UTF-8
        shutil.copy(digit, os.fsencode(mixed) + b"/\xff.png")
    arguments = ["--model_dir", trained.folder, mixed, mixed / "no_ending", mixed / "b.png", "--output", "out.csv"]
    code, out, err = call(predict.main, *arguments)
    assert (code, err) == (0, "")
    assert "skipped: " in out
    assert "a.png: cannot be read as an image" in out
    assert f"{3 + len(odd)} labelled by" in out  # b.png once, c.PNG, no_ending because it is given, and the odd one
    with open("out.csv", encoding="utf-8", newline="") as file:
        assert odd | {"b.png"} < {row["item"].split("/")[-1] for row in csv.DictReader(file)}
    code, _, err = call(predict.main, "--model_dir", trained.folder, mixed / "a.png", mixed / "notes.txt")
    assert code == 2
    assert err == f"error: {mixed / 'a.png'}: none of the 2 files can be read as an image\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_linked_folders_are_read_and_what_cannot_be_read_is_named(call, trained, tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "camera").symlink_to(trained.data_dir / "test" / "3")
    (trained.data_dir / "test" / "3" / "back").symlink_to(tmp_path / "inbox")
    (tmp_path / "inbox" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "inbox" / "a.heic").write_bytes(b"x")
    (tmp_path / "inbox" / "notes.txt").write_bytes(b"x")
    count = len(list((trained.data_dir / "test" / "3").glob("*.png")))
    code, out, err = call(predict.main, "--model_dir", trained.folder, tmp_path / "inbox")
    assert (code, err) == (0, "")
    assert f"\n{count} labelled by " in out
    assert "skipped: " in out and "gone.jpg: cannot be decoded: it is a link to nowhere, which is not there" in out
    assert "a.heic: cannot be read as an image: its format is unknown to Pillow: convert it" in out
    assert "Ignored files that are not images: 1, such as " in out


def test_new_images_of_12_bits_have_the_scale_of_the_dataset(call, tmp_path):
    numbers = np.random.default_rng(0)
    for label, brightness in (("a", 0.2), ("b", 0.8)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(15):
            pixels = 4095 * numbers.normal(brightness, 0.1, (16, 16)).clip(0, 1)
            Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "photos" / label / f"{i}.png")
    builder, sources = optional("toolkit.datasets.builder"), optional("toolkit.datasets.sources")
    builder.build(sources.folder(tmp_path / "photos"), tmp_path / "built", image_size=(16, 16))
    experiment = Experiment(tmp_path / "experiment", tmp_path / "built")
    experiment.write(num_epochs=12)
    assert call(train.main, *experiment.arguments)[0] == 0
    of_built = {row["item"][-8:]: row for row in predictions(call, experiment.folder, tmp_path / "built")}
    for row in predictions(call, experiment.folder, tmp_path / "photos" / "a"):
        expected = of_built.get(f"a/{row['item'].split('/')[-1]}", row)
        assert (row["prediction"], row["probability"]) == (expected["prediction"], expected["probability"])
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(tmp_path / "photos" / "other.png")
    code, _, err = call(predict.main, "--model_dir", experiment.folder, tmp_path / "photos" / "other.png")
    assert code == 2


def test_class_names_that_a_spreadsheet_would_run_are_text_in_csv_files(call, tmp_path):
    names = ["=cmd|calc!A0", "@x", "-1", "+7a", "'quoted", "plain"]
    for label, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 40 * label + i, np.uint8)).save(tmp_path / "photos" / name / f"={i}.png")
    builder, sources = optional("toolkit.datasets.builder"), optional("toolkit.datasets.sources")
    builder.build(sources.folder(tmp_path / "photos"), tmp_path / "built", image_size=(8, 8))
    experiment = Experiment(tmp_path / "experiment", tmp_path / "built")
    assert call(train.main, *experiment.arguments)[0] == 0
    assert call(evaluate.main, *experiment.arguments)[0] == 0
    with open(experiment.folder / "predictions_test.csv", encoding="utf-8", newline="") as file:
        evaluated = list(csv.DictReader(file))
    rows = predictions(call, experiment.folder, tmp_path / "photos")
    cells = [cell for row in evaluated + rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
    read_back = {row["label"].removeprefix("'") if row["label"] != "''quoted" else "'quoted" for row in evaluated}
    assert read_back == set(names)


def test_outputs_without_a_number_have_empty_cells_and_are_said_once(call, trained, tmp_path):
    state = torch.load(trained.folder / "best.pth.tar", weights_only=True)
    state["state_dict"] = {k: v * 1e38 if v.is_floating_point() else v for k, v in state["state_dict"].items()}
    torch.save(state, tmp_path / "broken.pth.tar")
    arguments = [
        "--model_dir",
        trained.folder,
        trained.data_dir / "test",
        "--restore_file",
        tmp_path / "broken.pth.tar",
    ]
    code, out, err = call(predict.main, *arguments, "--output", "out.csv")
    count = len(list((trained.data_dir / "test").glob("*/*.png")))
    assert (code, err) == (0, "") and "nan" not in out
    assert out.count(f"The model's outputs are NaN for {count} of {count} items, such as ") == 1
    with open("out.csv", encoding="utf-8", newline="") as file:
        assert {(row["prediction"], row["probability"]) for row in csv.DictReader(file)} == {("", "")}


def test_the_most_probable_classes_and_a_short_table(call, trained):
    rows = predictions(call, trained.folder, trained.data_dir / "test", "--top_k", "99")
    assert len(rows[0]) == 1 + 2 * 10
    chances = [float(rows[0][f"probability{i}"]) for i in ("", *(f"_{n}" for n in range(2, 11)))]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-4)
    code, out, _ = call(predict.main, "--model_dir", trained.folder, trained.data_dir / "test")
    assert (code, out.count(".png |")) == (0, len(rows))  # no terminal: all
    code, out, _ = call(predict.main, "--model_dir", trained.folder, trained.data_dir / "test", "--output", "x.csv")
    assert out.count(".png |") == 20
    assert f"... and {len(rows) - 20} more" in out


def test_mistakes_on_the_command_line_give_one_line(call, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["gone.png"], "gone.png: no such file or folder"),
        (["empty"], "empty: no images in it"),
        (["empty", "--top_k", "0"], "--top_k is 0; it should be at least 1"),
        (
            ["empty", "--output", "no/where.csv"],
            "--output no/where.csv: give a .csv file in an existing folder, other than the input files",
        ),
        (
            ["gone.png", "--output", "a.png"],
            "--output a.png: give a .csv file in an existing folder, other than the input files",
        ),
        (
            ["x.csv", "--output", "./x.csv"],
            "--output ./x.csv: give a .csv file in an existing folder, other than the input files",
        ),
        (["empty", "--restore_file", "first"], "first: no such checkpoint"),
    ):
        code, _, err = call(predict.main, "--model_dir", trained.folder, *arguments)
        assert code == 2
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1
    err = call(predict.main, "--model_dir", "empty", "gone.png")[2]
    assert (
        err == f"error: {Path('empty/params.json')}: no such file; an experiment is a folder with a params.json in it\n"
    )


def test_a_task_without_read_items_gets_advice(call, tmp_path):
    wine_project(tmp_path / "my_task")
    model_dir = "my_task/experiments/base_model"
    call(train.main, "--model_dir", model_dir)
    (tmp_path / "new.csv").write_text("1,2\n")
    code, _, err = call(predict.main, "--model_dir", model_dir, "new.csv")
    assert code == 2
    assert err.startswith(f"error: {Path('my_task/model/data_loader.py')}: has no read_items(files, params)")


def test_read_items_and_describe_are_used(call, tmp_path):
    scores = train_and_evaluate(call, wine_project(tmp_path / "my_task", "new_files"))
    features, labels = load_wine(return_X_y=True)
    is_test = np.arange(len(labels)) % 5 == 0
    np.savetxt("new_wines.csv", features[is_test], delimiter=",")
    rows = predictions(call, "my_task/experiments/base_model", "new_wines.csv")
    assert rows[0].keys() == {"item", "cultivar"}
    right = np.mean(["ABC".index(row["cultivar"]) == label for row, label in zip(rows, labels[is_test], strict=True)])
    assert right == pytest.approx(scores["accuracy"])
