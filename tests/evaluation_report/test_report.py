"""The report of an evaluation: correct intervals, scores and names for every kind of task and loader."""

import csv
import itertools
import json
import multiprocessing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from evaluate import evaluate
from toolkit.core.entity_tags import entities
from toolkit.core.metrics import probabilities_of
from toolkit.evaluation_report import bootstrap
from toolkit.evaluation_report.predictions import calibration_error, find_predictions, inputs_at
from toolkit.evaluation_report.report_files import EvaluationReport, count_look
from toolkit.evaluation_report.tagging_mistakes import compare, marked
from utils import Params


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Use the smallest number of resamples in the tests in which it does not matter."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)


def accuracy(outputs, labels):
    return np.mean(outputs.argmax(axis=1) == labels)


class Centroids(nn.Module):
    """A classifier whose logit of a class is minus `scale` times the squared distance to the mean image of that class."""

    def __init__(self, images, labels, scale=0.02):
        super().__init__()
        self.means = torch.stack([images[labels == label].mean(dim=0) for label in range(10)])
        self.scale = scale

    def forward(self, images):
        return -self.scale * torch.cdist(images.flatten(1), self.means.flatten(1)) ** 2


@pytest.fixture(scope="module")
def digits():
    """Return a fixed classifier made from 500 real digits, and a dataset of the other 1297, (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(found.target)
    dataset = TensorDataset(images[500:], labels[500:])
    dataset.items = [f"digit {i}" for i in range(len(dataset))]
    return Centroids(images[:500], labels[:500]), dataset


def report_of(model, loader, metrics, tmp_path, loss_fn=F.cross_entropy, **facts):
    """Evaluate a model, write its report to `tmp_path`, and return the results and the EvaluationReport."""
    (tmp_path / "params.json").write_text("{}")
    params = Params(tmp_path / "params.json")
    params.add_facts(facts)
    report = EvaluationReport(metrics, loss_fn, loader, params)
    results = evaluate(model, loss_fn, loader, report.metrics, params)
    assert set(results) >= {"loss", *metrics}
    report.paths = report.write(results, tmp_path, "test", {})
    return results, report


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def rows_in(folder):
    """Return the rows of predictions_test.csv as any reader of CSV files gets them, and the content of report_test.json."""
    with open(folder / "predictions_test.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), json.loads((folder / "report_test.json").read_text())


def test_the_interval_of_the_accuracy_agrees_with_the_wilson_interval(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    model, dataset = digits
    for count in (len(dataset), 400):
        loader = DataLoader(Subset(dataset, range(count)), 100)
        results, report = report_of(model, loader, {"accuracy": accuracy}, tmp_path)
        right = round(results["accuracy"] * count)
        assert 0.7 < right / count < 0.95
        wilson = binomtest(right, count).proportion_ci(method="wilson")
        assert report.content["intervals"]["accuracy"] == pytest.approx([wilson.low, wilson.high], abs=0.01)
    losses = torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in loader])
    error = losses.std().item() / np.sqrt(count)
    low, high = results["loss"] - 1.96 * error, results["loss"] + 1.96 * error
    assert report.content["intervals"]["loss"] == pytest.approx([low, high], rel=0.1)


def test_results_that_resampling_cannot_describe_have_no_interval(digits, tmp_path):
    model, dataset = digits
    numbers = iter(range(9999))
    metrics = {"always": lambda o, _: 1.0, "unsteady": lambda o, _: next(numbers), "accuracy": accuracy}
    loader = DataLoader(dataset, 100)
    summed = lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="sum")  # noqa: E731
    _, report = report_of(model, loader, metrics, tmp_path, loss_fn=summed)
    assert list(report.content["intervals"]) == ["accuracy"]
    _, report = report_of(model, DataLoader(Subset(dataset, [0]), 1), metrics, tmp_path)
    assert report.content["intervals"] == {}


def test_scores_of_each_class_agree_with_counts_in_the_predictions(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 100)
    _, report = report_of(model, loader, {"accuracy": accuracy}, tmp_path, class_names=list("abcdefghij"))
    rows, content = rows_in(tmp_path)
    assert [c["class"] for c in content["classes"]] == list("abcdefghij")
    for number, scores in enumerate(content["classes"]):
        right = sum(row["label"] == row["prediction"] == scores["class"] for row in rows)
        predicted = sum(row["prediction"] == scores["class"] for row in rows)
        actual = sum(row["label"] == scores["class"] for row in rows)
        assert scores["support"] == actual == sum(content["confusion"][number])
        assert [scores["precision"], scores["recall"]] == pytest.approx([right / predicted, right / actual])
        assert scores["f1"] == pytest.approx(2 * right / (predicted + actual))
        assert content["confusion"][number][number] == right


def test_the_calibration_error_agrees_with_a_direct_computation(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 100)
    _, report = report_of(model, loader, {"accuracy": accuracy}, tmp_path)
    probabilities = torch.cat([model(x).softmax(1) for x, _ in loader]).double().numpy()
    labels, error = dataset.tensors[1].numpy(), 0.0
    for number in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if number / 15 < row.max() <= (number + 1) / 15
        ]
        if inside:
            sure, right = np.mean([p for p, _ in inside]), np.mean([r for _, r in inside])
            error += len(inside) / len(labels) * abs(sure - right)
    assert report.content["calibration_error"] == pytest.approx(error, abs=1e-6)
    assert calibration_error(np.array([1.0, 1.0, 0.6]), np.array([True, False, True])) == pytest.approx(
        0.4667, abs=1e-4
    )
    assert calibration_error(np.array([1.0, 0.95]), np.array([False, True])) == pytest.approx(0.475)  # one bin


def test_support_is_correct_if_no_prediction_is_right(digits, tmp_path):
    model, dataset = digits
    wrong = TensorDataset(dataset.tensors[0][:50], (model(dataset.tensors[0][:50]).argmax(1) + 1) % 10)
    _, report = report_of(model, DataLoader(wrong, 20), {"accuracy": accuracy}, tmp_path)
    supports = [row["support"] for row in report.content["classes"]]
    assert supports == wrong.tensors[1].bincount(minlength=10).tolist() and all(type(n) is int for n in supports)


def test_outputs_that_are_probabilities_are_not_normalized_again():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.1, 0.2, 0.3]])
    for outputs in (logits, logits.softmax(1), logits.log_softmax(1)):
        assert torch.allclose(probabilities_of(outputs), logits.softmax(1))


def loaders(dataset):
    """Yield loaders of one dataset in different orders."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1)).tolist()
    yield DataLoader(dataset, 100)
    yield DataLoader(dataset, 77, shuffle=True)
    yield DataLoader(dataset, 77, shuffle=True, num_workers=1)
    yield DataLoader(dataset, sampler=torch.utils.data.BatchSampler(order, 64, False), batch_size=None)
    yield DataLoader(Subset(dataset, order), 50, shuffle=True)


@pytest.mark.parametrize("number", range(5))
def test_item_label_and_prediction_of_a_row_belong_together(digits, tmp_path, number):
    model, dataset = digits
    loader = list(loaders(dataset))[number]
    results, report = report_of(model, loader, {"accuracy": accuracy}, tmp_path)
    rows, content = rows_in(tmp_path)
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == results["accuracy"]
    assert len(rows) == len({row["item"] for row in rows}) == len(dataset)
    outputs = model(dataset.tensors[0]).softmax(1)
    for row in rows:
        place = int(row["item"].removeprefix("digit "))
        assert int(row["label"]) == dataset.tensors[1][place]
        assert float(row["probability"]) == pytest.approx(outputs[place].max().item(), abs=1e-5)
    if not isinstance(loader.dataset, Subset):
        assert [row["item"] for row in rows] == dataset.items
    wrong = sorted((float(row["probability"]) for row in rows if row["label"] != row["prediction"]), reverse=True)
    assert [mistake["probability"] for mistake in content["mistakes"]] == wrong[:24]
    assert all(mistake["label"] != mistake["prediction"] for mistake in content["mistakes"])


def test_the_picture_of_mistakes_shows_the_right_images(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 77, shuffle=True)
    _, report = report_of(model, loader, {"accuracy": accuracy}, tmp_path)
    predictions = find_predictions(report.collected, loader, report.params)
    wrong = np.flatnonzero(predictions.labels != predictions.predictions)
    for row, inputs in zip(wrong, inputs_at(loader, 230, predictions.positions[wrong]), strict=True):
        place = int(predictions.rows[row]["item"].removeprefix("digit "))
        assert torch.equal(inputs[0], dataset.tensors[0][place])
    pictures = [path for path in report.paths if path.suffix == ".png"]
    assert {path.name for path in pictures} == {f"{name}_test.png" for name in ("confusion", "mistakes", "reliability")}
    assert all(min(size_of(path)) > 300 for path in pictures)


def test_files_of_an_earlier_evaluation_are_deleted(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 100)
    _, report = report_of(model, loader, {}, tmp_path)
    assert tmp_path / "mistakes_test.png" in report.paths
    outputs = model(dataset.tensors[0])
    right = Subset(dataset, (outputs.argmax(1) == dataset.tensors[1]).nonzero().flatten().tolist())
    loader = DataLoader(right, 100)
    _, report = report_of(model, loader, {}, tmp_path)
    assert tmp_path / "mistakes_test.png" not in report.paths
    assert not (tmp_path / "mistakes_test.png").exists()


def test_images_with_the_label_minus_100_have_no_scores(digits, tmp_path):
    model, dataset = digits
    labels = dataset.tensors[1].where(torch.arange(len(dataset)) % 2 == 0, torch.tensor(-100))
    _, report = report_of(model, DataLoader(TensorDataset(dataset.tensors[0], labels), 100), {}, tmp_path)
    rows, content = rows_in(tmp_path)
    assert [row["item"] for row in rows] == [str(number) for number in range(0, len(dataset), 2)]
    assert sum(row["support"] for row in content["classes"]) == len(rows)


class Streaming:
    def reset(self):
        self.right = self.total = 0

    def update(self, outputs, labels):
        self.right += (outputs.argmax(1) == labels).sum()
        self.total += len(labels)

    def compute(self):
        return self.right / self.total


def test_streaming_metrics_have_the_same_report(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 100)
    _, one = report_of(model, loader, {"accuracy": accuracy}, tmp_path)
    rows, _ = rows_in(tmp_path)
    results, other = report_of(model, loader, {"accuracy": Streaming()}, tmp_path)
    assert results["accuracy"] == pytest.approx(accuracy(model(dataset.tensors[0]).numpy(), dataset.tensors[1].numpy()))
    assert other.content["intervals"]["accuracy"] == pytest.approx(one.content["intervals"]["accuracy"])
    assert (rows_in(tmp_path)[0], other.content["classes"]) == (rows, one.content["classes"])


def test_outputs_too_large_for_memory_give_metrics_without_a_report(digits, tmp_path, monkeypatch):
    model, dataset = digits
    monkeypatch.setattr("toolkit.evaluation_report.collected_outputs.SHARE_OF_MEMORY", 1e-9)
    loader = DataLoader(dataset, 100)
    results, report = report_of(model, loader, {"accuracy": Streaming()}, tmp_path)
    assert results["accuracy"] > 0.8
    assert report.lines[1:] == ["No report of this split: its outputs take more than 0% of the free memory."]
    assert f"{results['accuracy']:.4f}" in report.lines[0]
    assert report.paths == []


def test_a_metric_that_is_too_slow_to_resample_gives_no_interval(digits, tmp_path, monkeypatch):
    model, dataset = digits
    monkeypatch.setattr(bootstrap, "SECONDS", 0.0)
    _, report = report_of(model, DataLoader(dataset, 100), {"accuracy": accuracy}, tmp_path)
    assert report.content["intervals"] == {}
    assert report.lines[1].startswith("No confidence intervals: ")


def macro_f1(outputs, labels):
    return f1_score(labels, outputs.argmax(1), average="macro", zero_division=0)


def test_the_interval_of_a_macro_f1_contains_it_although_resamples_lack_classes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) // 6
    outputs = F.one_hot(labels, 100) + torch.randn(600, 100, generator=generator)
    loader = DataLoader(TensorDataset(outputs, labels), 100)
    results, report = report_of(nn.Identity(), loader, {"macro_f1": macro_f1}, tmp_path)
    low, high = report.content["intervals"]["macro_f1"]
    assert low < results["macro_f1"] < high


def test_features_are_not_taken_for_logits(digits, tmp_path):
    _, dataset = digits
    loader = DataLoader(dataset, 100)
    loss = lambda outputs, labels: (outputs.mean(dim=1) - labels).square().mean()  # noqa: E731
    _, report = report_of(nn.Flatten(), loader, {}, tmp_path, loss, num_classes=10)
    assert report.content["kind"] == "other"


# taggers

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = ["Anna Smith lives in Rome", "Bob <b> left", "the Paris office of New York", "nobody & nothing", "Ann"]
LABELS = [[1, 2, 0, 0, 3], [1, 0, 0], [0, 3, 0, 0, 3, 4], [0, 0, 0], [1]]
PREDICTED = [[1, 0, 0, 0, 3], [3, 1, 0], [0, 0, 0, 0, 3, 4], [0, 0, 0], [1]]
# predicted: only Anna of Anna Smith, Bob as a place, <b> as a person, and no Paris


class Words(torch.utils.data.Dataset):
    """The sentences; the inputs are the tags that the model is to predict."""

    items = SENTENCES

    def __len__(self):
        return len(SENTENCES)

    def __getitem__(self, index):
        return torch.tensor(PREDICTED[index]), torch.tensor(LABELS[index])


def padded(batch, length=None, value=-1):
    longest = length or max(len(labels) for _, labels in batch)
    return tuple(
        torch.stack([F.pad(t, (0, longest - len(t)), value=value) for t in part]) for part in zip(*batch, strict=True)
    )


class Tagger(nn.Module):
    """A model that predicts the tags it is given, with logits (N, T, tags), or (N * T, tags) as in CS230's code."""

    def __init__(self, is_flat):
        super().__init__()
        self.is_flat = is_flat

    def forward(self, tags):
        logits = 3.0 * F.one_hot(tags.clamp(0, len(TAGS) - 1), len(TAGS))
        return logits.flatten(0, 1) if self.is_flat else logits


def token_loss(outputs, labels):
    return F.cross_entropy(outputs.reshape(-1, len(TAGS)), labels.reshape(-1), ignore_index=-1)


def token_accuracy(outputs, labels):
    real = labels.reshape(-1) != -1
    return np.mean(outputs.reshape(-1, len(TAGS)).argmax(1)[real] == labels.reshape(-1)[real])


@pytest.mark.parametrize(("is_flat", "length", "batch_size"), [(True, None, 2), (True, 6, 5), (False, 6, 2)])
def test_each_token_has_a_row_for_every_form_of_outputs(tmp_path, is_flat, length, batch_size):
    loader = DataLoader(Words(), batch_size, shuffle=True, collate_fn=lambda batch: padded(batch, length))
    results, report = report_of(Tagger(is_flat), loader, {"accuracy": token_accuracy}, tmp_path, token_loss, tags=TAGS)
    rows, content = rows_in(tmp_path)
    assert content["kind"] == "tagging"
    expected = [
        (str(number), word, TAGS[label], TAGS[prediction])
        for number, (sentence, *tags) in enumerate(zip(SENTENCES, LABELS, PREDICTED, strict=True))
        for word, label, prediction in zip(sentence.split(), *tags, strict=True)
    ]
    assert [tuple(row[name] for name in ("sentence", "item", "label", "prediction")) for row in rows] == expected
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == pytest.approx(results["accuracy"])
    assert content["samples"] == len(SENTENCES)
    assert set(report.content["intervals"]) == {"loss", "accuracy"}


def test_sentences_are_resampled_not_tokens(tmp_path):
    """If one of two sentences is right, a resample has none, one or two right sentences."""

    class Two(Words):
        def __getitem__(self, index):
            return torch.full((50,), index), torch.zeros(50, dtype=torch.int64)

        def __len__(self):
            return 2

    loader = DataLoader(Two(), 2)
    _, report = report_of(Tagger(True), loader, {"accuracy": token_accuracy}, tmp_path, token_loss, tags=TAGS)
    assert report.content["intervals"]["accuracy"] == [0.0, 1.0]


def test_wrong_entities_are_marked_and_words_are_escaped(tmp_path):
    loader = DataLoader(Words(), 2, collate_fn=padded)
    _, report = report_of(Tagger(True), loader, {"accuracy": token_accuracy}, tmp_path, token_loss, tags=TAGS)
    assert tmp_path / "mistakes_test.html" in report.paths
    page = (tmp_path / "mistakes_test.html").read_text(encoding="utf-8")
    for mark in (
        '<mark class="confused">Anna Smith <small>predicted PER “Anna”, label PER “Anna Smith”</small></mark>',
        '<mark class="confused">Bob <small>predicted LOC “Bob”, label PER “Bob”</small></mark>',
        '<mark class="spurious">&lt;b&gt; <small>spurious PER</small></mark>',
        '<mark class="missed">Paris <small>missed LOC</small></mark>',
    ):
        assert mark in page
    assert "<b>" not in page
    assert "nobody" not in page
    assert page.count("<li>") == 3
    assert "http" not in page


@pytest.mark.parametrize("value", [-100, -1, 255])
def test_labels_in_a_table_that_are_no_class_are_padding(tmp_path, value):
    loader = DataLoader(Words(), 5, collate_fn=lambda batch: padded(batch, value=value))
    loss = lambda outputs, labels: F.cross_entropy(outputs, labels.reshape(-1), ignore_index=value)  # noqa: E731
    _, report = report_of(Tagger(True), loader, {}, tmp_path, loss, tags=TAGS)
    rows, content = rows_in(tmp_path)
    assert content["kind"] == "tagging"
    assert [row["label"] for row in rows] == [TAGS[label] for labels in LABELS for label in labels]


def test_entities_of_another_scheme_are_marked_and_those_of_an_unknown_one_are_not(tmp_path):
    loader = DataLoader(Words(), 2, collate_fn=padded)
    tags = ["O", "B-PER", "L-PER", "U-LOC", "L-LOC"]
    _, report = report_of(Tagger(True), loader, {}, tmp_path, token_loss, tags=tags)
    page = (tmp_path / "mistakes_test.html").read_text(encoding="utf-8")
    assert "Anna Smith <small>predicted PER “Anna”, label PER “Anna Smith”" in page
    _, report = report_of(Tagger(True), loader, {}, tmp_path, token_loss, tags=["O", "PER-B", "PER-I", "X", "Y"])
    assert not (tmp_path / "mistakes_test.html").exists()
    assert any(line.startswith("No page of mistakes: the tags 'PER-B'") for line in report.lines)


tag_lists = st.lists(st.sampled_from([*(f"{a}-{b}" for a in "BIES" for b in ("PER", "LOC")), "O"]), max_size=12)


@given(tag_lists.flatmap(lambda tags: st.tuples(st.just(tags), st.permutations(tags))))
def test_every_wrong_entity_is_marked_once(both):
    actual, predicted = (entities(tags) for tags in both)
    words = [str(place) for place in range(len(both[0]))]
    mistakes = compare(words, actual, predicted)
    spans = [span for span in actual.keys() | predicted.keys() if actual.get(span) != predicted.get(span)]
    for first, last in spans:
        assert sum(a <= first and last <= b for _, a, b, _ in mistakes) == 1
    assert all(one[2] < other[1] for one, other in itertools.pairwise(mistakes))
    assert marked(words, mistakes).count("<mark") == len(mistakes)


# regressions, and other outputs


def rmse(outputs, labels):
    return np.sqrt(np.mean((outputs - labels) ** 2))


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_the_metric_of_a_regression_follows_from_its_predictions(tmp_path, columns):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn((200, columns) if columns else (200,), generator=generator)
    inputs = labels + 0.1 * torch.randn(labels.shape, generator=generator)
    loader = DataLoader(TensorDataset(inputs, labels), 32, shuffle=True)
    results, report = report_of(nn.Identity(), loader, {"rmse": rmse}, tmp_path, F.mse_loss)
    rows, content = rows_in(tmp_path)
    assert content["kind"] == "regression"
    endings = [f"_{number}" for number in range(columns)] if (columns or 1) > 1 else [""]
    read = [
        np.array([[np.float32(row[name + ending]) for ending in endings] for row in rows]).reshape(labels.shape)
        for name in ("prediction", "label")
    ]
    assert torch.equal(torch.tensor(read[1]), labels)
    assert rmse(*read) == pytest.approx(results["rmse"], rel=1e-6)
    assert [row["item"] for row in rows] == [str(number) for number in range(200)]
    low, high = report.content["intervals"]["rmse"]
    assert 0.08 < low < results["rmse"] < high < 0.12
    assert (tmp_path / "residuals_test.png").exists()


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ((20, 3), torch.arange(60).reshape(20, 3) % 2.0),  # several labels at once
        ((20,), torch.arange(20) % 2.0),  # two classes, one logit
        ((20, 3, 8, 8), torch.zeros(20, 8, 8, dtype=torch.int64)),  # a class for each pixel
        ((20, 3), torch.arange(20)),  # classes without outputs
        ((20, 2), torch.arange(20) % 2 * 2 - 1),  # -1 and 1, of which one would be left
        ((20, 3), torch.arange(20) / 7),
        ((20, 100, 2), torch.zeros(20, 100, 2) + 0.3),
    ],
)
def test_outputs_of_another_form_get_intervals_only(tmp_path, outputs, labels):
    outputs = torch.rand(outputs, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(outputs, labels), 8)
    loss = lambda outputs, labels: outputs.mean()  # noqa: E731
    results, report = report_of(nn.Identity(), loader, {"mean": lambda o, _: o.mean()}, tmp_path, loss)
    assert report.content["kind"] == "other"
    assert set(report.content["intervals"]) == {"loss", "mean"}
    assert report.paths == [tmp_path / "report_test.json"]
    content = json.loads((tmp_path / "report_test.json").read_text())
    assert content["metrics"] == results
    assert "classes" not in content


class Boxes(nn.Module):
    """A detector: for each image a dict of boxes; here as many for every image as there are dimensions of a box."""

    def forward(self, images):
        return [{"boxes": image.flatten()[:20].view(5, 4)} for image in images]


def test_outputs_of_a_detector_get_no_intervals_of_boxes_taken_for_images(digits, tmp_path):
    _, dataset = digits

    def collate(items):
        return torch.stack([image for image, _ in items]), [{"boxes": torch.zeros(5, 4)} for _ in items]

    metrics = {"boxes": lambda outputs, labels: float(len(outputs))}
    loader = DataLoader(Subset(dataset, range(12)), 3, collate_fn=collate)
    results, report = report_of(
        Boxes(), loader, metrics, tmp_path, lambda o, _: torch.stack([x["boxes"] for x in o]).mean()
    )
    assert results["boxes"] == 12
    assert report.paths == []
    assert "No report of this split: it is not clear which rows" in report.lines[1]


def test_a_metric_that_is_not_a_number_is_null(digits, tmp_path):
    model, dataset = digits
    loader = DataLoader(dataset, 100)
    _, report = report_of(model, loader, {"undefined": lambda outputs, labels: float("nan")}, tmp_path)
    assert rows_in(tmp_path)[1]["metrics"]["undefined"] is None
    assert "undefined" not in report.content["intervals"]


def test_outputs_that_are_nan_get_no_scores_of_classes_and_the_report_says_so(digits, tmp_path):
    _, dataset = digits
    broken = lambda images: torch.where(images.flatten(1)[:, :10] > 15, torch.nan, 1.0)  # noqa: E731
    _, report = report_of(Function(broken), DataLoader(dataset, 100), {"accuracy": accuracy}, tmp_path)
    content = json.loads((tmp_path / "report_test.json").read_text(), parse_constant=pytest.fail)
    assert (content["kind"], content["metrics"]["loss"]) == ("other", None)
    assert "No scores of classes: some outputs are NaN." in report.lines


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("count", [2, 30, 100])
def test_pictures_with_many_classes_and_unusual_names(tmp_path, count):
    labels = torch.arange(300) % count
    outputs = F.one_hot(labels, count).float() + torch.rand(300, count, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(outputs, labels), 50)
    names = [f"$class_{number}$ 猫\n{number} " + "long " * 10 for number in range(count)]
    _, report = report_of(nn.Identity(), loader, {}, tmp_path, class_names=names)
    rows, _ = rows_in(tmp_path)
    assert {row["label"] for row in rows} == set(names)
    size = size_of(tmp_path / "confusion_test.png")
    assert min(size) > 300
    assert max(size) < 3000


def look(folder, barrier):
    barrier.wait()
    for _ in range(50):
        count_look(folder, "best.pth.tar", "digits")


@pytest.mark.slow
def test_two_evaluations_at_the_same_time_are_both_counted(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=look, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(json.loads((tmp_path / "test_looks.json").read_text())["looks"]) == 100
    left = {file.name for file in tmp_path.glob("*looks*")}
    assert left - {".test_looks.json.lock"} == {"test_looks.json"}  # an older filelock leaves its file


def test_evaluations_on_the_test_split_are_counted(tmp_path):
    for number in (1, 2, 3):
        line = f"This is evaluation number {number} of this experiment on the test split."
        assert count_look(tmp_path, "best.pth.tar", "digits") == line
    looks = json.loads((tmp_path / "test_looks.json").read_text())["looks"]
    assert [(look["checkpoint"], look["dataset"]) for look in looks] == [("best.pth.tar", "digits")] * 3
