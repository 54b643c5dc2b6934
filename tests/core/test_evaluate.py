import json
import sys

import pytest
from conftest import copy_of, optional
from project_kinds import LOADER, NET, own_model

import evaluate
import train
import utils
from toolkit.core.text import pipe_table


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
    call(optional("build_dataset").main, "digits", "--name", "other", "--seed", "1")
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


def test_a_class_is_called_what_it_is_called():
    rows = [{"class": name, "f1": 0.5, "support": 1} for name in ("1e5", "0.50", "x|y", "a\nb")]
    names = [line.split("|", 1)[1].rsplit("|", 3)[0].strip() for line in pipe_table(rows).splitlines()[2:]]
    assert names == ["1e5", "0.50", "x\\|y", "a\\nb"]


def test_without_the_report_tool_the_metrics_are_written_and_printed(call, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "toolkit.evaluation_report", None)
    monkeypatch.delitem(sys.modules, "toolkit.evaluation_report.report_files", raising=False)
    code, out, err = call(evaluate.main, *trained.arguments)
    assert (code, err) == (0, "")
    results = trained.metrics("metrics_test_best.json")
    assert all(f"{value:.4f} |" in out for value in results.values())
    assert {file.name for file in trained.folder.glob("*_test*")} == {"metrics_test_best.json"}


def test_a_split_of_other_samples_is_refused_unless_allowed(call, experiment):
    experiment.write(num_epochs=1, num_folds=5, fold=0, batch_size=64)
    assert call(train.main, *experiment.arguments)[0] == 0
    for changed, message in (({"fold": 1}, "fold 0, now 1"), ({"num_folds": 4}, "num_folds 5, now 4")):
        experiment.write(**{"num_epochs": 1, "num_folds": 5, "fold": 0, "batch_size": 32} | changed)
        code, _, err = call(evaluate.main, *experiment.arguments, "--split", "val")
        assert (code, err.count("\n")) == (2, 1)
        assert f"best.pth.tar: was trained on other splits of the data ({message})" in err and "--other_data" in err
        assert not (experiment.folder / "metrics_val_best.json").exists()
    assert call(evaluate.main, *experiment.arguments, "--split", "val", "--other_data")[0] == 0
    experiment.write(num_epochs=1, num_folds=5, fold=0, batch_size=32, cache_above_mb=0.01, random_shift=1)
    assert call(evaluate.main, *experiment.arguments, "--split", "val")[0] == 0


def test_a_dataset_that_is_rebuilt_meanwhile_leaves_no_results(call, trained, tmp_path, monkeypatch):
    data = copy_of(trained.data_dir, tmp_path / "data")
    inner = evaluate.evaluate

    def rebuilt(*arguments):
        facts = (data / "dataset.json").read_text()
        utils.write_whole(data / "dataset.json", facts)
        return inner(*arguments)

    monkeypatch.setattr(evaluate, "evaluate", rebuilt)
    before = {file.name for file in trained.folder.iterdir()}
    code, _, err = call(evaluate.main, "--model_dir", trained.folder, "--data_dir", data)
    assert code == 2 and f"{data}/dataset.json: was replaced during the evaluation" in err
    assert {file.name for file in trained.folder.iterdir()} - before <= {"test_looks.json", ".test_looks.json.lock"}


def test_what_is_not_trained_yet_or_has_lost_its_best_checkpoint_says_what_to_do(call, experiment):
    code, _, err = call(evaluate.main, *experiment.arguments)
    assert code == 2 and f"it is not trained yet: python train.py --model_dir {experiment.folder}" in err
    assert call(train.main, *experiment.arguments)[0] == 0
    (experiment.folder / "best.pth.tar").unlink()
    code, _, err = call(evaluate.main, *experiment.arguments)
    assert code == 2 and "it has last, previous: choose one with --restore_file" in err
    code, out, _ = call(train.main, *experiment.arguments)
    assert code == 0 and "best.pth.tar is missing; evaluate.py --restore_file last" in out


def test_a_misspelled_experiment_is_suggested_and_a_file_is_not_a_folder(call, experiment):
    data = experiment.arguments[2:]
    code, _, err = call(evaluate.main, "--model_dir", f"{experiment.folder}s", *data)
    assert code == 2 and err.count("\n") == 1
    assert f"{experiment.folder}s/params.json: no such file; did you mean {experiment.folder}?" in err
    code, _, err = call(evaluate.main, "--model_dir", experiment.folder / "params.json", *data)
    assert code == 2 and f"params.json: is a file; give the folder that it is in: {experiment.folder}" in err
    code, _, err = call(evaluate.main, "--model_dir", "nowhere/near", *data)
    assert code == 2 and "an experiment is a folder with a params.json in it; in " in err


def test_metrics_that_are_nan_are_null_in_json(tmp_path):
    utils.save_dict_to_json({"auroc": float("nan"), "loss": 1, "worst": float("inf")}, tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"auroc": None, "loss": 1.0, "worst": None}


def test_a_network_that_draws_random_numbers_gives_on_val_what_training_gave(call, experiment):
    drawn = NET.replace("return self.head(x)", "return self.head(x) * (0.5 + np.random.rand())")
    assert drawn != NET
    own_model(experiment, net=f"import numpy as np\n{drawn}")
    call(train.main, *experiment.arguments)
    assert call(evaluate.main, *experiment.arguments, "--split", "val")[0] == 0
    assert experiment.metrics("metrics_val_best.json") == experiment.metrics("metrics_val_best_weights.json")


def test_initial_weights_do_not_depend_on_what_the_loader_draws(call, experiment):
    weights = []
    for draw in ("", "    torch.rand(3)\n    utils.np.random.rand()\n"):
        own_model(experiment, loader=LOADER.replace("    params.declare(", f"{draw}    params.declare("))
        assert call(train.main, *experiment.arguments, "--restart", "--max_steps", 1)[0] == 0
        weights.append(utils.read_checkpoint(experiment.folder / "last.pth.tar")["state_dict"])
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_data_of_which_the_fingerprint_begins_alike_is_other_data(call, trained, tmp_path):
    data = copy_of(trained.data_dir, tmp_path / "data")
    facts = json.loads((data / "dataset.json").read_text())
    other = facts | {"fingerprint": facts["fingerprint"][:-1] + ("0" if facts["fingerprint"][-1] != "0" else "1")}
    (data / "dataset.json").write_text(json.dumps(other))
    code, _, err = call(evaluate.main, "--model_dir", trained.folder, "--data_dir", data)
    assert code == 2 and "was trained on another dataset" in err
