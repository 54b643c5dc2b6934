"""The template's scripts on the experiments and the data of the examples."""

import importlib
import importlib.util
import json
import re
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, copy_of, optional, run_process
from project_kinds import copied_experiment, predictions, train_and_evaluate
from seqeval.metrics.sequence_labeling import get_entities

import evaluate
import train
import utils
from toolkit.core.task import import_model_package

export = optional("export")
predict = optional("predict")
preflight = optional("preflight")
search_hyperparams = optional("search_hyperparams")
synthesize_results = optional("synthesize_results")
first_difference = optional("toolkit.verify.comparison").first_difference

TAKES_LONG = ["transfer-base_model", "cifar10-ten_thousand"]  # their sisters are quicker
EXAMPLES = [
    pytest.param(path, id=name, marks=[pytest.mark.slow] if name in TAKES_LONG else [])
    for path in sorted(ROOT.glob("examples/*/experiments/*/params.json"))
    for name in [f"{path.parents[2].name}-{path.parent.name}"]
]


@pytest.fixture
def example(tmp_path, digits_dir):
    """A copy of an example, with data: gives its folder, and the arguments for one of its experiments."""

    def example(path):
        task = path.parents[2].name
        folder = tmp_path / "examples" / task
        if not folder.exists():
            ignored = shutil.ignore_patterns("data", "__pycache__", "*.pth.tar", "*.log", "tensorboard")
            shutil.copytree(path.parents[2], folder, ignore=ignored)
        return folder, ["--data_dir", data_of(path, folder, digits_dir)]

    return example


def data_of(path, folder, digits_dir):
    """A small dataset for an example's experiment."""
    if folder.name in ("transfer", "cifar10"):
        return digits_dir
    if folder.name == "ner":
        return ROOT / "examples" / "ner" / "data" / "sample"
    dataset = json.loads(path.read_text())["dataset"]
    if not (folder / "data" / dataset).exists():
        shutil.copytree(ROOT / "toolkit", folder / "toolkit", dirs_exist_ok=True)  # what marks a repository
        shutil.copy(ROOT / "utils.py", folder)
        done = run_process(sys.executable, folder / "build_dataset.py", dataset, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "data" / dataset


OF_TRANSFER = ["weights=none", "backbone=resnet18", "batch_size=32"]  # no download


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_examples_experiment_trains_and_goes_on_exactly(call, example, path):
    folder, data = example(path)
    overrides = OF_TRANSFER if folder.name == "transfer" else []
    states = []
    for name, sessions in (("straight", [3]), ("stopped", [1, 2, 3])):
        model_dir = folder / "experiments" / name
        origin = ["--from", path.parent, *overrides]
        for steps in sessions:
            code, out, err = call(train.main, "--model_dir", model_dir, *data, "--max_steps", steps, *origin)
            assert (code, err) == (0, ""), out
            origin = []
        assert "examples/" + folder.name + "/model/net.py" in out
        states.append(utils.read_checkpoint(model_dir / "last.pth.tar"))
    assert states[0]["step"] == 3
    assert first_difference(*states) is None
    code, out, err = call(evaluate.main, "--model_dir", model_dir, *data, "--restore_file", "last")
    assert (code, err) == (0, "")


def test_an_example_is_swept_and_tabulated(call, example):
    path = ROOT / "examples" / "regression" / "experiments" / "base_model" / "params.json"
    folder, data = example(path)
    sweep = folder / "experiments" / "sweep"
    sweep.mkdir(parents=True)
    (sweep / "params.json").write_text(json.dumps(json.loads(path.read_text()) | {"num_epochs": 2}))
    (sweep / "search_space.json").write_text('{"hidden_size": [2, 64]}')
    code, out, _ = call(search_hyperparams.main, "--parent_dir", sweep, *data, "--jobs", 1)
    assert code == 0, out
    assert "Best rmse on val" in out
    code, out, _ = call(synthesize_results.main, "--parent_dir", sweep, "--no_plots")
    assert code == 0
    assert "| hidden_size=64 *" in out and "sorted by rmse" in out


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES)
def test_an_examples_experiment_passes(call, digits_dir, tmp_path, path):
    example = shutil.copytree(path.parents[2], tmp_path / path.parents[2].name, ignore=shutil.ignore_patterns("data"))
    changed = {"weights": "none"} if example.name == "transfer" else {}  # no download
    arguments = copied_experiment(path, example / "experiments" / "one", changed)
    code, out, err = call(preflight.main, *arguments, "--data_dir", data_of(path, example, digits_dir))
    assert (code, err) == (0, ""), out


def test_what_is_derived_from_an_experiment_of_another_model_says_so(call, tmp_path):
    origin = ROOT / "examples" / "regression" / "experiments" / "base_model"
    code, out, err = call(train.main, "--model_dir", tmp_path / "new", "--from", origin)
    assert re.search("base_model uses .*examples/regression/model, but an experiment in .*new uses ", out)
    assert (code, "batch_size is None, should be a valid integer" in err) == (2, True)


def test_a_model_of_sentences_says_so_when_it_is_evaluated_on_others(call, tmp_path):
    project = copy_of(ROOT / "examples" / "ner", tmp_path / "ner")
    text = copy_of(project / "data" / "sample", tmp_path / "text")
    for name in ("sentences", "labels"):  # the same words to know, one sentence less to be tested on
        file = text / "test" / f"{name}.txt"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    script, options = project / "build_dataset.py", {"cwd": tmp_path, "env": {"PYTHONPATH": str(ROOT)}}
    assert run_process("python", script, text, "--name", "other", **options).returncode == 0
    one = ["--model_dir", project / "experiments" / "one"]
    code, _, err = call(train.main, *one, "--from", project / "experiments" / "base_model", "num_epochs=1")
    assert (code, err) == (0, "")
    arguments = [*one, "--data_dir", project / "data" / "other"]
    code, _, err = call(evaluate.main, *arguments)
    assert code == 2 and "was trained on another dataset (of the same kind, other samples)" in err
    code, out, err = call(evaluate.main, *arguments, "--other_data")
    assert (code, err) == (0, "") and "was trained on another dataset (of the same kind, other samples)" in out
    (project / "data" / "other" / "test" / "sentences.txt").write_text("changed by hand\n")
    code, _, err = call(evaluate.main, *arguments, "--other_data")
    assert code == 2 and "test: not what dataset.json says, changed by hand" in err


def test_sentences_in_two_splits_unknown_words_and_rare_tags(tmp_path):
    texts = {
        "train": [
            "Ann lives in Rome since 1999 .",
            "Bob works .",
            "Ann lives in Rome since 1999 .",
            "no entity here at all .",
        ],
        "val": ["Bob works .", "ANN lives in Rome since 2020 ."],
        "test": ["Zoë paints unheard things daily .", "Ann lives in Rome since 1999 ."],
    }
    for split, lines in texts.items():
        (tmp_path / "text" / split).mkdir(parents=True)
        (tmp_path / "text" / split / "sentences.txt").write_text("\n".join(lines), encoding="utf-8")
        tags = [" ".join("B-PER" if word in ("Ann", "ANN") else "O" for word in line.split()) for line in lines]
        tags[-1] = tags[-1].replace("B-PER", "O")
        (tmp_path / "text" / split / "labels.txt").write_text("\n".join(tags))
    project = copy_of(ROOT / "examples" / "ner", tmp_path / "ner")
    script = project / "build_dataset.py"
    environment = {"PYTHONPATH": str(ROOT)}
    built = run_process("python", script, tmp_path / "text", cwd=tmp_path, env=environment)
    assert (built.returncode, built.stderr) == (0, "")
    done = run_process("python", script, "--audit", project / "data" / "text", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "✗ copies       also in an earlier split: 1 of val (50.0%), 1 of test (50.0%); remove them",
        "✗ near copies  also in an earlier split: 2 of val (100.0%), 1 of test (50.0%); remove them",
        "! unknown      tokens missing in words.txt: 20.0% of val, 38.5% of test",
        "! tags         2 tags; O is 91% of train, 100% of val, 100% of test; too rare in train to be learned well: B-PER 2",
    ):
        assert line in done.stdout, done.stdout
        assert line in built.stdout
    found = json.loads((project / "data" / "text" / "audit" / "audit.json").read_text())
    assert found["copies"]["test"] == ["Ann lives in Rome since 1999 ."]
    assert found["tags"]["counts"]["B-PER"] == {"train": 2, "val": 0, "test": 0}
    wrong = run_process("python", script, "--audit", tmp_path / "text", cwd=tmp_path, env=environment)
    assert wrong.returncode == 2 and "does not describe a dataset of sentences" in wrong.stderr


def test_sentences_of_the_named_entity_example(call, tmp_path):
    project = tmp_path / "ner"
    shutil.copytree(ROOT / "examples" / "ner", project, ignore=shutil.ignore_patterns("experiments", "__pycache__"))
    model_dir = project / "experiments" / "small"
    scores = train_and_evaluate(
        call,
        model_dir,
        dataset="sample",
        num_epochs=12,
        learning_rate=0.01,
        batch_size=16,
        monitor="loss",
        char_embedding_dim=8,
        lstm_hidden_dim=50,
    )
    test = project / "data" / "sample" / "test"
    rows = predictions(call, model_dir, test / "sentences.txt")
    sentences, labels = (
        (test / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("sentences", "labels")
    )
    assert [row["item"] for row in rows] == sentences
    found = [row["entities"].split(", ") if row["entities"] else [] for row in rows]
    true = [
        [f"{' '.join(s.split()[begin : end + 1])} [{kind}]" for kind, begin, end in get_entities(tags.split())]
        for s, tags in zip(sentences, labels, strict=True)
    ]
    right = sum(len(set(one) & set(other)) for one, other in zip(found, true, strict=True))
    assert right > 3
    assert right / sum(map(len, found)) == pytest.approx(scores["precision"])
    assert right / sum(map(len, true)) == pytest.approx(scores["recall"])
    (project / "data" / "sample" / "words.txt").unlink()
    code, _, err = call(predict.main, "--model_dir", model_dir, test / "sentences.txt")
    assert code == 2
    assert "has no words.txt" in err


def test_rows_of_the_regression_example(call, tmp_path, monkeypatch):
    project = tmp_path / "regression"
    shutil.copytree(ROOT / "examples" / "regression" / "model", project / "model")
    table = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt("table.csv", table, delimiter=",", header="a,b,y", comments="")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    builder = importlib.util.spec_from_file_location("build", ROOT / "examples" / "regression" / "build_dataset.py")
    build_dataset = importlib.util.module_from_spec(builder)
    import_model_package(project / "model")
    builder.loader.exec_module(build_dataset)
    monkeypatch.setattr(build_dataset, "DATA", project / "data")
    assert call(build_dataset.main, "csv", "table.csv", "--target", "y")[0] == 0
    model_dir = project / "experiments" / "small"
    scores = train_and_evaluate(call, model_dir, dataset="table", learning_rate=0.01, num_epochs=3)
    rows = predictions(call, model_dir, project / "data" / "table" / "test.csv")
    labels = np.loadtxt(project / "data" / "table" / "test.csv", delimiter=",", skiprows=1)[:, -1]
    rmse = np.sqrt(np.mean((np.array([float(row["prediction"]) for row in rows]) - labels) ** 2))
    assert rmse == pytest.approx(scores["rmse"], rel=1e-5)
    for text, message in (("a,c\n1,2\n", "line 1: there is no column 'b'"), ("a,b\n1,x\n", "line 2: not a number")):
        (tmp_path / "wrong.csv").write_text(text)
        code, _, err = call(predict.main, "--model_dir", model_dir, "wrong.csv")
        assert code == 2
        assert message in err


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.skipif(importlib.util.find_spec("torch.export._patches") is None, reason="this torch cannot")
def test_sentences_of_any_length(call, tmp_path, bidirectional):
    project = tmp_path / "ner"
    shutil.copytree(ROOT / "examples" / "ner", project, ignore=shutil.ignore_patterns("experiments", "__pycache__"))
    folder = project / "experiments" / "small"
    folder.mkdir(parents=True)
    values = {
        "dataset": "sample",
        "num_epochs": 1,
        "batch_size": 8,
        "char_embedding_dim": 8,
        "bidirectional": bidirectional,
    }
    (folder / "params.json").write_text(json.dumps(values | {"monitor": "loss"}))
    assert call(train.main, "--model_dir", folder)[0] == 0
    code, _, err = call(export.main, "--model_dir", folder)
    assert (code, err) == (0, "")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [given.shape for given in session.get_inputs()]
    assert names == [["batch", "size_1"], ["batch"], ["size_2", "size_3"]]
