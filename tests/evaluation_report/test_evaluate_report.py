"""Tests of the report that evaluate.py writes and prints for an experiment."""

import csv
import sys

import pytest
import torch
from conftest import copy_of, optional
from processes import group_finished
from project_kinds import append, wine_project
from torch.utils.data import Subset, TensorDataset

import evaluate
import train
import utils
from toolkit.evaluation_report.predictions import names_of


@pytest.fixture
def trained(call, experiment):
    assert call(train.main, *experiment.arguments)[0] == 0
    return experiment


def predictions(trained, name="predictions_test.csv"):
    with open(trained.folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_value_is_printed_with_its_interval(call, trained):
    _, out, _ = call(evaluate.main, *trained.arguments)
    report = trained.metrics("report_test.json")
    assert {"checkpoint": "best.pth.tar", "epoch": 2, "split": "test"}.items() <= report.items()
    for name, value in trained.metrics("metrics_test_best.json").items():
        low, high = report["intervals"][name]
        assert low < value < high
        assert f"{value:.4f} [{low:.4f}, {high:.4f}]" in out


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_image_has_its_own_name_label_and_prediction(call, trained, split):
    call(evaluate.main, *trained.arguments, "--split", split)
    rows = predictions(trained, f"predictions_{split}.csv")
    files = {f.relative_to(trained.data_dir / split).as_posix() for f in (trained.data_dir / split).rglob("*.png")}
    assert {row["item"] for row in rows} == files
    assert len(rows) == len(files)
    assert all(row["item"].split("/")[0] == row["label"] for row in rows)
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / len(rows) == trained.metrics(f"metrics_{split}_best.json")["accuracy"]
    for name in ("confusion", "reliability", "mistakes"):
        assert (trained.folder / f"{name}_{split}.png").exists()


def test_images_of_a_fold_have_their_names(call, trained):
    trained.write(num_folds=3, fold=1)
    call(train.main, *trained.arguments, "--restart")
    call(evaluate.main, *trained.arguments, "--split", "val")
    rows = predictions(trained, "predictions_val.csv")
    assert {row["item"].split("/")[0] for row in rows} == {"train", "val"}
    assert all(row["item"].split("/")[1] == row["label"] for row in rows)


@pytest.mark.slow
def test_evaluations_on_the_test_split_are_counted_and_printed(call, trained):
    assert "number 1 of this experiment on the test split" in call(evaluate.main, *trained.arguments)[1]
    assert "on the test split." not in call(evaluate.main, *trained.arguments, "--split", "val")[1]
    assert (
        "number 2 of this experiment on the test split"
        in call(evaluate.main, *trained.arguments, "--restore_file", "last")[1]
    )
    looks = trained.metrics("test_looks.json")["looks"]
    assert [look["checkpoint"] for look in looks] == ["best.pth.tar", "last.pth.tar"]
    call(train.main, *trained.arguments, "--restart")
    assert "number 3 of this experiment on the test split" in call(evaluate.main, *trained.arguments)[1]


def test_the_report_on_other_data_has_its_own_file_names(call, trained):
    call(optional("build_dataset").main, "digits", "--name", "other", "--seed", "1")
    call(evaluate.main, "--model_dir", trained.folder, "--data_dir", "data/other", "--other_data")
    assert trained.metrics("report_test_on_other.json")["split"] == "test_on_other"
    assert (trained.folder / "predictions_test_on_other.csv").exists()
    assert not (trained.folder / "report_test.json").exists()
    assert not (trained.folder / "test_looks.json").exists()  # it is another test split


def test_the_report_names_the_checkpoint_of_another_experiment(call, trained, tmp_path):
    other = copy_of(trained.folder, tmp_path / "other")
    call(evaluate.main, *trained.arguments, "--restore_file", other / "best.pth.tar")
    assert trained.metrics("report_test.json")["checkpoint"] == str(other / "best.pth.tar")


def test_the_precision_of_a_class_that_is_never_predicted_is_not_zero(call, trained):
    trained.write(learning_rate=1e-12, num_epochs=1)  # one class is predicted, whatever the image
    call(train.main, *trained.arguments, "--restart")
    _, out, _ = call(evaluate.main, *trained.arguments)
    classes = trained.metrics("report_test.json")["classes"]
    predicted = {row["prediction"] for row in predictions(trained)}
    assert len(predicted) < 10
    assert [row["precision"] is None for row in classes] == [row["class"] not in predicted for row in classes]
    assert all(row["recall"] is not None for row in classes)
    assert out.count(" - |") == 10 - len(predicted)


@pytest.mark.parametrize("items", [5, {}, ["one name"]])
def test_an_attribute_items_that_is_no_list_of_names_is_ignored(items):
    dataset = TensorDataset(torch.zeros(3))
    dataset.items = items
    assert names_of(dataset) is None
    assert names_of(Subset(dataset, [0])) is None


def test_scores_of_classes_that_contradict_the_accuracy_are_left_out(call, tmp_path):
    top_2 = (
        "\n\nmetrics['accuracy'] = lambda outputs, labels: np.mean((-outputs).argsort(1)[:, :2] == labels[:, None]) * 2"
    )
    folder = wine_project(tmp_path / "my_task")
    append(tmp_path / "my_task" / "model" / "net.py", top_2)
    call(train.main, "--model_dir", folder, "--max_steps", 3)
    code, out, err = call(evaluate.main, "--model_dir", folder, "--restore_file", "last")
    assert (code, err) == (0, "")
    assert "No scores of classes: accuracy is" in out
    assert "precision" not in out
    assert utils.read_json(folder / "report_test.json")["kind"] == "other"


@pytest.mark.skipif(sys.platform == "win32", reason="not every torch for Windows can let processes meet")
@pytest.mark.slow
def test_two_processes_write_the_same_report_as_one(call, trained):
    call(evaluate.main, *trained.arguments, "--split", "train")
    rows, report = predictions(trained, "predictions_train.csv"), trained.metrics("report_train.json")
    codes, _, err = group_finished("evaluate", 2, *trained.arguments, "--split", "train")
    assert codes == [0, 0], err
    for row, one in zip(predictions(trained, "predictions_train.csv"), rows, strict=True):
        assert float(row.pop("probability")) == pytest.approx(float(one.pop("probability")), abs=1e-5)
        assert row == one
    both = trained.metrics("report_train.json")
    assert both["classes"] == report["classes"]
    assert both["intervals"]["accuracy"] == report["intervals"]["accuracy"]


def test_the_results_table_shows_the_number_of_evaluations_on_the_test_split(call, trained):
    synthesize_results = optional("synthesize_results")
    table = ["--parent_dir", trained.folder.parent, "--no_plots"]
    assert "test_looks" not in call(synthesize_results.main, *table)[1]
    for _ in range(3):
        call(evaluate.main, *trained.arguments)
    _, out, _ = call(synthesize_results.main, *table)
    header, _, row = out.splitlines()[:3]
    assert header.split("|")[-2].strip() == "test_looks"
    assert row.split("|")[-2].strip() == "3"
    (trained.folder / "test_looks.json").write_text("[]")
    assert "should be an object" in call(synthesize_results.main, *table)[1]
    code, _, err = call(evaluate.main, *trained.arguments)
    assert code == 2
    assert "test_looks.json: should be an object" in err
    (trained.folder / "test_looks.json").write_text('{"looks": 3}')
    code, _, err = call(evaluate.main, *trained.arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert 'test_looks.json: "looks" is not a list' in err
