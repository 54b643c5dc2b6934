"""examples/regression: tables of numbers, the network in the target's own units, the picture."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_process, snapshot
from project_kinds import differences, outcome
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

import evaluate
import train
from toolkit.core.setup import set_up
from toolkit.core.task import find_task, import_model_package

EXAMPLE = ROOT / "examples" / "regression"
TABLE = "id,x,y\n" + "".join(f"{i},{i / 7},{3 * i + 0.5}\n" for i in range(20))


@pytest.fixture
def example(tmp_path):
    """A copy of the example beside the root's scripts, where a test may build and train."""
    copy = tmp_path / "regression"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("data", "*.pth.tar", "*.json", "*.png", "__pycache__"))
    for name in ("base_model", "diabetes"):
        shutil.copy(EXAMPLE / "experiments" / name / "params.json", copy / "experiments" / name)
    return copy


@pytest.fixture
def build(example, call, monkeypatch):
    """Build a dataset as the script does: `build("sine", "--seed", 1)` gives (exit code, stdout, stderr)."""
    build_dataset = load(EXAMPLE / "build_dataset.py", monkeypatch)
    monkeypatch.setattr(build_dataset, "DATA", example / "data")
    return lambda *arguments: call(build_dataset.main, *arguments)


def load(script, monkeypatch):
    """A script of the example as a module, without a trace in sys.path."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    import_model_package(EXAMPLE / "model")
    spec = importlib.util.spec_from_file_location(f"regression_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(folder, split):
    return np.loadtxt(folder / f"{split}.csv", delimiter=",", skiprows=1, ndmin=2)


def test_the_sine_is_learned_and_drawn_by_the_commands_of_the_readme(example, build, call, monkeypatch):
    model_dir = example / "experiments" / "base_model"
    assert build("sine")[0] == 0
    code, out, err = call(train.main, "--model_dir", model_dir, "--device", "cpu")
    assert (code, err) == (0, ""), err
    assert "no effect" not in out
    assert call(evaluate.main, "--model_dir", model_dir, "--device", "cpu")[0] == 0
    results = json.loads((model_dir / "metrics_test_best.json").read_text())
    assert results["rmse"] < 0.08  # the noise of the points is 0.1
    assert results["r2"] > 0.98
    assert call(load(EXAMPLE / "plot_fit.py", monkeypatch).main, "--model_dir", model_dir)[0] == 0
    assert (model_dir / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_diabetes_is_predicted_about_as_well_as_by_linear_regression(example, build, call, monkeypatch):
    from sklearn.linear_model import LinearRegression

    model_dir = example / "experiments" / "diabetes"
    assert build("diabetes")[0] == 0
    assert call(train.main, "--model_dir", model_dir, "--device", "cpu")[0] == 0
    assert call(evaluate.main, "--model_dir", model_dir, "--device", "cpu")[0] == 0
    results = json.loads((model_dir / "metrics_test_best.json").read_text())
    fitted, test = (rows(example / "data" / "diabetes", split) for split in ("train", "test"))
    linear = LinearRegression().fit(fitted[:, :-1], fitted[:, -1]).predict(test[:, :-1])
    assert results["rmse"] < 1.1 * root_mean_squared_error(test[:, -1], linear)
    assert call(load(EXAMPLE / "plot_fit.py", monkeypatch).main, "--model_dir", model_dir)[0] == 0


def test_metrics_are_scikit_learns(example):
    task = find_task(example / "experiments" / "base_model")
    generator = np.random.default_rng(0)
    labels, outputs = generator.normal(50, 20, (2, 1000)).astype(np.float32)
    theirs = {"rmse": root_mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}
    for name, metric in task.metrics.items():
        assert metric(outputs, labels) == pytest.approx(theirs[name](labels, outputs), rel=1e-5), name
    assert np.isnan(task.metrics["r2"](outputs[:1], labels[:1]))  # a batch of one


def test_predictions_are_in_the_unit_of_the_target_and_the_loss_in_its_deviations(example, build):
    build("diabetes")
    task, params, data_dir = set_up(example / "experiments" / "diabetes", device="cpu")
    fitted = rows(data_dir, "train")
    assert params.target_std == pytest.approx(fitted[:, -1].std())  # of train alone
    assert params.mean == pytest.approx(fitted[:, :-1].mean(axis=0))
    inputs, labels = task.fetch_dataloader(["train"], data_dir, params)["train"].dataset[:2]
    model = task.make_model(params)
    with torch.no_grad():
        for parameter in model.layers[-1].parameters():
            parameter.zero_()
    assert model(inputs).tolist() == pytest.approx([params.target_mean] * 2)
    mean = torch.full((len(fitted),), params.target_mean, requires_grad=True)
    assert task.loss_fn(params)(mean, torch.tensor(fitted[:, -1])).item() == pytest.approx(1)
    assert labels.shape == (2,)


def test_a_batch_is_the_whole_split_unless_it_is_said_otherwise(example, build):
    build("sine")
    overrides = {"passes_per_epoch": 3, "batch_size": None}
    task, params, data_dir = set_up(example / "experiments" / "base_model", device="cpu", overrides=overrides)
    loaders = task.fetch_dataloader(["train", "val", "test"], data_dir, params)
    assert {split: [len(labels) for _, labels in loader] for split, loader in loaders.items()} == {
        "train": [32, 32, 32],
        "val": [32],
        "test": [200],
    }
    for inputs, _ in loaders["train"]:
        assert len(inputs.unique()) == 32
    params.batch_size = 20
    params.passes_per_epoch = 1
    assert [len(labels) for _, labels in task.fetch_dataloader(["train"], data_dir, params)["train"]] == [20, 12]


def test_it_resumes_exactly_and_cross_validates(example, build, call):
    build("sine")
    model_dir = example / "experiments" / "base_model"
    other = example / "experiments" / "interrupted"
    base = ["--from", model_dir, "num_epochs=3", "--device", "cpu"]
    for folder, steps in ((example / "experiments" / "whole", []), (other, ["--max_steps", 30]), (other, [])):
        assert call(train.main, "--model_dir", folder, *base, *steps)[0] == 0
    assert differences(outcome(other), outcome(example / "experiments" / "whole")) == []
    task, params, data_dir = set_up(model_dir, device="cpu", overrides={"num_folds": 4, "fold": 1})
    loaders = task.fetch_dataloader(["train", "val", "test"], data_dir, params)
    assert [len(loader.dataset) for loader in loaders.values()] == [48, 16, 200]


def test_a_table_of_ones_own_is_read_and_split(tmp_path, example, build):
    lines = TABLE.replace("y\n", '"the, y"\n', 1).replace("\n", "\r\n")
    (tmp_path / "own.csv").write_bytes(b"\xef\xbb\xbf" + (lines + "3,0.5,9.5\r\n" * 4 + "\r\n").encode())
    code, out, err = build("csv", "own.csv", "--target", "the, y", "--ignore", "id")
    assert (code, err) == (0, "")
    folder = example / "data" / "own"
    facts = json.loads((folder / "dataset.json").read_text())
    assert (facts["input_names"], facts["target_name"], facts["num_inputs"]) == (["x"], "the, y", 1)
    tables = {split: rows(folder, split) for split in ("train", "val", "test")}
    assert {split: len(table) for split, table in tables.items()} == {s: c["rows"] for s, c in facts["counts"].items()}
    assert sum(len(table) for table in tables.values()) == 24
    assert [any((table == [0.5, 9.5]).all(axis=1)) for table in tables.values()].count(True) == 1  # copies together
    before = snapshot(folder)
    code, out, _ = build("csv", "own.csv", "--target", "the, y", "--ignore", "id")
    assert (code, snapshot(folder)) == (0, before)
    assert "nothing to do" in out
    code, _, err = build("csv", "own.csv", "--target", "x", "--ignore", "id")
    assert (code, snapshot(folder)) == (2, before)
    assert "--force replaces it" in err
    assert build("csv", "own.csv", "--target", "x", "--ignore", "id", "--force")[0] == 0
    assert snapshot(folder) != before


@pytest.mark.parametrize(
    "content, expected",
    {
        "missing cell": (TABLE + "20,,1\n", "own.csv, line 22: not a number in column x: ''"),
        "a word": (TABLE + "20,north,1\n", "own.csv, line 22: not a number in column x: 'north'"),
        "nan": (TABLE + "20,nan,1\n", "own.csv, line 22: not a number in column x: 'nan'"),
        "an underscore": (TABLE + "20,5_6,1\n", "own.csv, line 22: not a number in column x: '5_6'"),
        "digits of another script": (TABLE + "20,１２,1\n", "own.csv, line 22: not a number in column x: '１２'"),
        "infinity": (TABLE + "20,inf,1\n", "own.csv, line 22: not a number in column x: 'inf'"),
        "too large for a float": (TABLE + "20,1e999,1\n", "own.csv, line 22: not a number in column x: '1e999'"),
        "too large for a deviation": (
            TABLE + "20,1e200,1\n",
            "own.csv: column x has numbers above 1e+30; scale or ignore it",
        ),
        "decimal comma in quotes": (TABLE + '20,"1,5",1\n', "own.csv, line 22: not a number in column x: '1,5'"),
        "utf-16": (TABLE.encode("utf-16-le"), "own.csv: has bytes of 0, as UTF-16 and files that are no text have"),
        "short line": (TABLE + "20,1\n", "own.csv, line 22: 2 cells, but the header has 3"),
        "decimal comma": (TABLE + "20,1,5,1\n", "own.csv, line 22: 4 cells, but the header has 3"),
        "other target": (
            TABLE.replace("y", "z"),
            "own.csv, line 1: there is no column 'y'; separated by commas there are id, x, z",
        ),
        "two names alike": (TABLE.replace("id", "x"), "own.csv, line 1: there is more than one column 'x'"),
        "empty": ("", "own.csv, line 1: there is no column 'y'; separated by commas there are none"),
        "few rows": (TABLE[:60].rpartition("\n")[0], "different rows below the header; it needs at least 10"),
        "equal rows": (
            "x,y\n" + "1,2\n2,3\n" * 12,
            "own.csv: has 2 different rows below the header; it needs at least 10",
        ),
        "latin-1": (TABLE.encode() + b"\xe9\n", "own.csv: cannot be read: 'utf-8' codec can't decode byte 0xe9"),
        "one column": ("y\n1\n", "own.csv, line 1: there is no column besides 'y' to predict it from"),
        "constant": ("x,y\n" + "".join(f"{i},4\n" for i in range(20)), "the target y is 4 in all rows of train"),
        "not text": (b"PK\x03\x04\xff\xfe", "it should be a table as text, in UTF-8"),
    }.values(),
)
def test_a_table_that_cannot_be_used_is_named_with_line_and_column(tmp_path, example, build, content, expected):
    (tmp_path / "own.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = build("csv", "own.csv", "--target", "y")
    assert expected in err
    assert (code, err.count("\n"), (example / "data").exists()) == (2, 1, False)


def test_cells_are_read_as_other_programs_read_them(tmp_path, example, build):
    """Blanks around a number, exponents; U+2028 and other ends of lines that Python knows, in a cell of text."""
    ends = ["\u2028", "\x0b", "\x0c", "\x1c", "\x85"]
    cells = [" 1 ", "1e5", "+.5", "3.", "-2E-3", *map(str, range(10))]
    lines = [f"good{end}flat,{cell},{place}" for place, (cell, end) in enumerate(zip(cells, ends * 3, strict=True))]
    (tmp_path / "own.csv").write_text("\n".join(['text,"x\ncm",y', *lines]), encoding="utf-8")
    assert build("csv", "own.csv", "--target", "y", "--ignore", "text")[0] == 0
    found = np.concatenate([rows(example / "data" / "own", split) for split in ("train", "val", "test")])
    assert found[found[:, 1].argsort(), 0].tolist() == [float(cell) for cell in cells]


@pytest.mark.parametrize("columns", ["x,y", "y,x"], ids=["target", "input"])
def test_numbers_that_vary_little_around_a_large_one_are_learned(tmp_path, example, build, call, columns):
    values = np.random.default_rng(0).uniform(0, 10, 60)
    (tmp_path / "own.csv").write_text(f"{columns}\n" + "".join(f"{x},{1e9 + 3 * x}\n" for x in values))
    assert build("csv", "own.csv", "--target", "y")[0] == 0
    model_dir = example / "experiments" / "own"
    changes = ["--from", example / "experiments" / "base_model", "dataset=own", "num_epochs=30"]
    assert call(train.main, "--model_dir", model_dir, "--device", "cpu", *changes)[0] == 0
    assert call(evaluate.main, "--model_dir", model_dir, "--device", "cpu")[0] == 0
    results = json.loads((model_dir / "metrics_test_best.json").read_text())
    assert 0 < results["rmse"] < 1
    assert results["r2"] > 0.9


def test_other_mistakes_end_in_one_line(tmp_path, example, build, call):
    (example / "data" / "photos").mkdir(parents=True)
    for arguments, expected in {
        ("csv", "own.csv"): "takes a file and --target",
        ("sine", "own.csv"): "takes a file and --target",
        ("csv", "nowhere.csv", "--target", "y"): "nowhere.csv: cannot be read: [Errno 2] No such file",
        ("sine", "--noise", "-1"): "--noise is -1.0; give a finite number of at least 0",
        ("sine", "--name", "a/b"): "--name a/b: give the name of a folder",
        ("sine", "--name", "photos"): "photos: exists and was not made by build_dataset.py",
    }.items():
        code, _, err = build(*arguments)
        assert expected in err
        assert (code, err.count("\n")) == (2, 1)
    build("sine")
    file = example / "data" / "sine" / "val.csv"
    file.write_text(file.read_text() + "1,2\n")
    code, _, err = call(train.main, "--model_dir", example / "experiments" / "base_model")
    assert "val.csv: not what dataset.json says, changed by hand; build it again with --force" in err
    assert (code, err.count("\n")) == (2, 1)


def test_the_script_finds_the_repository_and_works_when_copied_beside_train_py(tmp_path):
    """As a process, which has no path set for it: in the example's folder, and with its files over the root's."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "toolkit", project / "toolkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("utils.py", "train.py", "evaluate.py"):
        shutil.copy(ROOT / name, project)
    shutil.copy(EXAMPLE / "build_dataset.py", project)
    shutil.copytree(EXAMPLE / "model", project / "model")
    (project / "experiments" / "mine").mkdir(parents=True)
    shutil.copy(EXAMPLE / "experiments" / "base_model" / "params.json", project / "experiments" / "mine")
    for command in (["build_dataset.py", "sine"], ["train.py", "--model_dir", "experiments/mine", "--max_steps", "2"]):
        done = run_process(sys.executable, *command, cwd=project)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (project / "data" / "sine" / "dataset.json").exists()
