"""A text project in CS230's form, with a `DataLoader` class of its own, trains and evaluates here without a change."""

import json
import math
import re
import shutil
from collections import Counter

import pytest
import torch
from conftest import ROOT, optional
from project_kinds import outcome

import evaluate
import train
import utils
from toolkit.core.task import find_task

SPECIAL = ["UNK", "PAD"]


@pytest.fixture
def project(tmp_path):
    """The project, with the words of a frozen page, one sentence per line, each tagged as a number, capitalised, or other."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "tests" / "projects" / "nlp", folder)
    page = (folder / "page.md").read_text(encoding="utf-8")
    lines = [words for words in (re.findall(r"\w+|[^\w\s]", line) for line in page.splitlines()) if words]
    data = folder / "data" / "page"
    for split, part in (("train", lines[24:125]), ("val", lines[:12]), ("test", lines[12:24])):
        (data / split).mkdir(parents=True)
        (data / split / "sentences.txt").write_text("".join(" ".join(line) + "\n" for line in part))
        (data / split / "labels.txt").write_text("".join(" ".join(map(tag, line)) + "\n" for line in part))
    words = SPECIAL + list(Counter(word for line in lines[24:125] for word in line))
    (data / "words.txt").write_text("\n".join(words))
    (data / "tags.txt").write_text("NUMBER\nCAPITAL\nOTHER")
    facts = {"vocab_size": len(words), "number_of_tags": 3, "pad_word": "PAD", "unk_word": "UNK", "train_size": 7}
    (data / "dataset_params.json").write_text(json.dumps(facts))
    return folder


def tag(word):
    return "NUMBER" if word.isdigit() else "CAPITAL" if word[0].isupper() else "OTHER"


def arguments(project):
    return ["--model_dir", project / "experiments" / "base_model", "--data_dir", project / "data" / "page"]


def test_it_trains_and_evaluates_unchanged(project, call):
    code, out, err = call(train.main, *arguments(project))
    assert (code, err) == (0, "")
    assert "no effect" not in out
    code, out, err = call(evaluate.main, *arguments(project))
    assert (code, err) == (0, "")
    metrics = json.loads((project / "experiments/base_model/metrics_test_best.json").read_text())
    assert metrics["accuracy"] > 0.6
    evaluated = {"loss": metrics["loss"], "accuracy": metrics["accuracy"]}
    assert evaluated == pytest.approx(by_hand(project, "test"), abs=1e-6)


def test_it_passes_preflight(project, call):
    preflight = optional("preflight")
    code, out, err = call(preflight.main, *arguments(project))
    assert (code, err) == (0, ""), out


def by_hand(project, split):
    """The loss and the accuracy of the best checkpoint, of all words of a split, one sentence after the other."""
    folder = project / "experiments" / "base_model"
    task, params = find_task(folder), utils.Params(folder / "params.json")
    params.cuda, data_dir = False, str(project / "data" / "page")
    loader = task.data_loader.DataLoader(data_dir, params)
    data = loader.load_data([split], data_dir)[split]
    model = task.Net(params)
    utils.load_checkpoint(folder / "best.pth.tar", model)
    losses, right = [], []
    for words, tags in zip(data["data"], data["labels"], strict=True):
        scores = model(torch.tensor([words]))
        losses += (-scores[range(len(tags)), tags]).tolist()
        right += (scores.argmax(1) == torch.tensor(tags)).tolist()
    return {"loss": math.fsum(losses) / len(losses), "accuracy": sum(right) / len(right)}


def test_no_sentence_is_left_out_and_each_epoch_has_its_order(project):
    folder = project / "experiments" / "base_model"
    task, params = find_task(folder), utils.Params(folder / "params.json")
    params.cuda, data_dir = False, str(project / "data" / "page")
    loader = task.fetch_dataloader(["train"], data_dir, params)["train"]
    sentences = task.data_loader.DataLoader(data_dir, params).load_data(["train"], data_dir)["train"]["data"]
    assert len(sentences) % params.batch_size == 1  # the last batch is of one: what the original would drop
    epochs = []
    for _ in range(2):
        batches = [[row[row != 1].tolist() for row in words] for words, _ in loader]  # 1 is the padding
        assert sorted(row for batch in batches for row in batch) == sorted(sentences)
        epochs.append(batches)
    assert epochs[0] != epochs[1]


def test_it_goes_on_exactly(project, call):
    assert call(train.main, *arguments(project))[0] == 0
    straight = outcome(project / "experiments" / "base_model")
    shutil.rmtree(project / "experiments")
    shutil.copytree(ROOT / "tests" / "projects" / "nlp" / "experiments", project / "experiments")
    for steps in (5, 41):
        assert call(train.main, *arguments(project), "--max_steps", steps)[0] == 0
    assert call(train.main, *arguments(project))[0] == 0
    assert outcome(project / "experiments" / "base_model") == straight


def test_data_without_a_size_is_named(project, call):
    loader = project / "model" / "data_loader.py"
    loader.write_text(loader.read_text().replace("d['size'] = ", "d['length'] = "))
    code, _, err = call(train.main, *arguments(project))
    assert code == 2
    assert "load_data should return 'train' as a dict with \"size\", not a dict with the keys ['data', 'labels'," in err


OTHER = {  # what a data_loader.py may have instead, and what is said then
    "its own batch size": ("params.batch_size", "4", "should yield one batch of the 5 samples that it was given"),
    "a smaller one": ("params.batch_size", "2", "should yield one batch of the 5 samples that it was given"),
    "a larger batch size": ("params.batch_size", "64", "should yield one batch of the 5 samples that it was given"),
    "data of its own kind": (
        "d['data'] = sentences",
        "d['data'] = Own(sentences)",
        "load_data returned data as a Own; it should",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_would_lose_samples_is_named(project, call, name):
    old, new, expected = OTHER[name]
    loader = project / "model" / "data_loader.py"
    own = "\n\nclass Own:\n    def __init__(self, values):\n        self.values = values\n\n    def __len__(self):\n"
    loader.write_text(loader.read_text().replace(old, new) + own + "        return len(self.values)\n")
    code, _, err = call(train.main, *arguments(project))
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err


def test_data_may_be_nested_and_arguments_have_other_names(project, call):
    loader = project / "model" / "data_loader.py"
    text = loader.read_text().replace("d['data'] = sentences", "d['data'] = {'words': sentences, 'of': data_of(self)}")
    text = text.replace("data['data'][idx]", "data['data']['words'][idx]").replace("shuffle=False", "shuffled=False")
    text = text.replace("if shuffle:", "if shuffled:").replace("d['size'] = len(", "d['size'] = np.int64(len(")
    text = text.replace("np.int64(len(sentences)", "np.int64(len(sentences))")
    loader.write_text(text + "\n\ndef data_of(loader):\n    return 'readme'\n")
    code, _, err = call(train.main, *arguments(project))
    assert (code, err) == (0, "")
