import csv
import json
import sys

import pytest
import torch
from conftest import copy_of
from processes import group_finished
from project_kinds import append, wine_project
from torch.utils.data import Subset, TensorDataset

import build_dataset
import evaluate
import synthesize_results
import train
import utils
from toolkit.core.text import pipe_table
from toolkit.evaluation_report.collected_outputs import names_of


@pytest.fixture
def trained(call, experiment):
    assert call(train.main, *experiment.arguments)[0] == 0
    return experiment


def test_the_best_checkpoint_on_test_by_default(call, trained):
    code, out, _ = call(evaluate.main, *trained.arguments)
    assert code == 0
    results = trained.metrics("metrics_test_best.json")
    assert list(results) == ["loss", "accuracy", "macro_f1"]
    assert f"{results['accuracy']:.4f}" in out


def test_val_gives_what_training_gave(call, trained):
    for name in ("best", "last"):
        call(evaluate.main, *trained.arguments, "--split", "val", "--restore_file", name)
        assert trained.metrics(f"metrics_val_{name}.json") == pytest.approx(
            trained.metrics(f"metrics_val_{name}_weights.json"), abs=1e-6
        )


def test_any_split_and_any_checkpoint(call, trained, tmp_path):
    elsewhere = tmp_path / "elsewhere.pth.tar"
    elsewhere.write_bytes((trained.folder / "last.pth.tar").read_bytes())
    code, _, _ = call(evaluate.main, *trained.arguments, "--split", "train", "--restore_file", elsewhere)
    assert code == 0
    assert trained.metrics(f"metrics_train_{tmp_path.name}_elsewhere.json")["accuracy"] > 0.2


def test_the_numbers_do_not_depend_on_the_batch_size(call, trained):
    split_size = sum(json.loads((trained.data_dir / "dataset.json").read_text())["counts"]["test"].values())
    results = []
    for batch_size in (1, 7, 32, split_size - 1, split_size):  # 1 and split_size - 1: a last batch of one image
        trained.write(batch_size=batch_size)
        assert call(evaluate.main, *trained.arguments)[0] == 0
        results.append(trained.metrics("metrics_test_best.json"))
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-6)


def test_other_data_is_refused_unless_allowed(call, trained, tmp_path):
    call(build_dataset.main, "digits", "--name", "other", "--seed", "1")
    arguments = ["--model_dir", trained.folder, "--data_dir", "data/other"]
    code, _, err = call(evaluate.main, *arguments)
    assert code == 2
    assert "best.pth.tar: was trained on another dataset (of the same kind, other samples)" in err
    assert "--other_data" in err
    code, out, _ = call(evaluate.main, *arguments, "--other_data")
    assert code == 0
    assert trained.metrics("metrics_test_best_on_other.json")
    assert not (trained.folder / "metrics_test_best.json").exists()
    assert "was trained on another dataset" in out


def test_data_with_other_classes_is_refused_in_any_case(call, trained, tmp_path):
    data = copy_of(trained.data_dir, tmp_path / "nine")
    facts = json.loads((data / "dataset.json").read_text())
    facts["class_names"].remove("9")
    (data / "dataset.json").write_text(json.dumps(facts | {"num_classes": 9, "fingerprint": "x"}))
    code, _, err = call(evaluate.main, "--model_dir", trained.folder, "--data_dir", data, "--other_data")
    assert code == 2
    assert "num_classes 10, now 9" in err
    assert err.count("\n") == 1


def test_a_result_does_not_outlive_the_checkpoint_it_is_of(call, trained):
    call(evaluate.main, *trained.arguments)
    own = {trained.folder / name for name in ("predictions_test_of_mine.csv", "report_training.json")}
    outdated = {trained.folder / f"{name}_on_other.json" for name in ("report_test", "metrics_test_last")}
    for file in own | outdated:
        file.write_text("")
    trained.write(num_epochs=3)  # whose third epoch is better
    call(train.main, *trained.arguments)
    assert utils.read_checkpoint(trained.folder / "best.pth.tar")["epoch"] == 3
    assert not (trained.folder / "metrics_test_best.json").exists()
    kept = {file for part in ("report", "predictions", "mistakes") for file in trained.folder.glob(f"{part}_*")}
    assert kept == own
    assert not any(file.exists() for file in outdated)


def test_evaluation_leaves_the_model_alone(call, trained):
    before = utils.read_checkpoint(trained.folder / "best.pth.tar")
    call(evaluate.main, *trained.arguments)
    after = utils.read_checkpoint(trained.folder / "best.pth.tar")
    assert all(before["state_dict"][k].equal(after["state_dict"][k]) for k in before["state_dict"])


def predictions(trained, name="predictions_test.csv"):
    with open(trained.folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_interval_stands_beside_the_value(call, trained):
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
def test_looks_at_the_test_split_are_counted_and_said(call, trained):
    assert "looked at 1 time with" in call(evaluate.main, *trained.arguments)[1]
    assert "looked at" not in call(evaluate.main, *trained.arguments, "--split", "val")[1]
    assert "looked at 2 times with" in call(evaluate.main, *trained.arguments, "--restore_file", "last")[1]
    looks = trained.metrics("test_looks.json")["looks"]
    assert [look["checkpoint"] for look in looks] == ["best.pth.tar", "last.pth.tar"]
    call(train.main, *trained.arguments, "--restart")
    assert "looked at 3 times with" in call(evaluate.main, *trained.arguments)[1]


def test_the_report_of_other_data_has_names_of_its_own(call, trained):
    call(build_dataset.main, "digits", "--name", "other", "--seed", "1")
    call(evaluate.main, "--model_dir", trained.folder, "--data_dir", "data/other", "--other_data")
    assert trained.metrics("report_test_on_other.json")["split"] == "test_on_other"
    assert (trained.folder / "predictions_test_on_other.csv").exists()
    assert not (trained.folder / "report_test.json").exists()
    assert not (trained.folder / "test_looks.json").exists()  # it is another test split


def test_the_report_says_which_checkpoint_of_another_experiment_it_is_of(call, trained, tmp_path):
    other = copy_of(trained.folder, tmp_path / "other")
    call(evaluate.main, *trained.arguments, "--restore_file", other / "best.pth.tar")
    assert trained.metrics("report_test.json")["checkpoint"] == str(other / "best.pth.tar")


def test_a_class_is_called_what_it_is_called():
    rows = [{"class": name, "f1": 0.5, "support": 1} for name in ("1e5", "0.50", "x|y", "a\nb")]
    names = [line.split("|", 1)[1].rsplit("|", 3)[0].strip() for line in pipe_table(rows).splitlines()[2:]]
    assert names == ["1e5", "0.50", "x\\|y", "a\\nb"]


def test_a_share_of_none_is_not_zero(call, trained):
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
def test_what_a_dataset_calls_items_may_be_something_else(items):
    dataset = TensorDataset(torch.zeros(3))
    dataset.items = items
    assert names_of(dataset) is None
    assert names_of(Subset(dataset, [0])) is None


def test_scores_of_classes_that_contradict_the_accuracy_are_not_given(call, tmp_path):
    top_2 = (
        "\n\nmetrics['accuracy'] = lambda outputs, labels: np.mean((-outputs).argsort(1)[:, :2] == labels[:, None]) * 2"
    )
    folder = wine_project(tmp_path / "my_task")
    append(tmp_path / "my_task" / "model" / "net.py", top_2)
    call(train.main, "--model_dir", folder, "--max_steps", 3)
    code, out, err = call(evaluate.main, "--model_dir", folder, "--restore_file", "last")
    assert (code, err) == (0, "")
    assert "no scores of classes: accuracy is" in out
    assert "precision" not in out
    assert utils.read_json(folder / "report_test.json")["kind"] == "other"


@pytest.mark.skipif(sys.platform == "win32", reason="not every torch for Windows can let processes meet")
@pytest.mark.slow
def test_two_processes_write_the_report_that_one_does(call, trained):
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


def test_the_results_table_says_how_often_the_test_split_was_looked_at(call, trained):
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
    assert 'test_looks.json: "looks" should be a list' in err
