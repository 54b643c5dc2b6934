"""Turn outputs and labels into predictions: one row per sample, or per token of a tagger."""

from dataclasses import dataclass

import numpy as np
import torch

from toolkit.core.metrics import probabilities_of
from toolkit.core.text import in_utf8
from toolkit.core.trees import tensors
from toolkit.evaluation_report.collected_outputs import may_be_lengths
from toolkit.evaluation_report.samples import names_of, places_in_dataset

MOST_NUMBERS = 50  # that a regression predicts for each sample


@dataclass
class Predictions:
    """The predictions of a split, in the order of the dataset.

    Attributes:
        kind: "classification", "tagging" (a class for each token) or "regression".
        columns: the columns of predictions_<split>.csv, a dict from name to list.
        labels, predictions: arrays (R,) of class numbers; for a regression (R, numbers).
        probabilities: float array (R,), of the predicted classes; None for a regression.
        class_names: list of str; None for a regression.
        positions: int array (R,), the position of each row's sample in the evaluation; None if its place in the
            dataset is not known.
    """

    kind: str
    columns: dict
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray | None = None
    class_names: list | None = None
    positions: np.ndarray | None = None


def find_predictions(collected, dataloader, params):
    """Return the Predictions in the CollectedOutputs of a split, or None if they have another form.

    The names of the classes are the dataset's `class_names` or `tags`.
    """
    facts = (params.values.get(name) for name in ("class_names", "tags"))
    class_names = next((list(map(str, names)) for names in facts if isinstance(names, list)), None)
    num_classes = len(class_names) if class_names else params.values.get("num_classes")
    found = find_rows(collected, num_classes)
    if found is None:
        return None
    kind, outputs, labels, samples = found
    places = places_in_dataset(dataloader, params.seed, len(collected.lengths))
    names = names_of(dataloader.dataset) if places is not None else None
    order = np.argsort((np.arange(len(collected.lengths)) if places is None else places)[samples], kind="stable")
    outputs, labels, positions = outputs[order], labels.numpy()[order], samples.numpy()[order]
    place = (positions if places is None else places[positions]).tolist()
    items = place if names is None else [in_utf8(names[index]) for index in place]
    positions = None if places is None else positions
    if kind == "regression":
        return Predictions(kind, columns_of_numbers(items, outputs.numpy(), labels), labels, outputs.numpy())
    probabilities, predicted = probabilities_of(outputs).max(dim=1)
    probabilities, predicted = probabilities.double().numpy(), predicted.numpy()
    class_names = class_names or [str(number) for number in range(outputs.shape[1])]
    columns = {"item": items} if kind == "classification" else {"sentence": place, "item": words_of(items, place)}
    columns["label"] = [class_names[label] for label in labels]
    columns["prediction"] = [class_names[prediction] for prediction in predicted]
    columns["probability"] = probabilities.round(6).tolist()
    return Predictions(kind, columns, labels, predicted, probabilities, class_names, positions)


def find_rows(collected, num_classes=None):
    """Return (kind, outputs, labels, samples), inferred from the shapes and dtypes, or None if they have another form.

    Args:
        collected: the CollectedOutputs of the split.
        num_classes: the number of classes, if it is known.

    Returns:
        kind: see Predictions.
        outputs: float (R, classes), for a regression (R, numbers); one row per sample or token, without padding.
        labels: int64 (R,), for a regression float (R, numbers).
        samples: int64 (R,), the position of each row's sample in the evaluation.
    """
    outputs = next(iter(tensors(collected.outputs)), None)
    lengths, labels = collected.lengths, tensors(collected.labels)
    if len(labels) == 2:  # one of them may hold the number of rows of each sample
        labels = [t for t in labels if not (may_be_lengths(t) and t.equal(lengths))] or labels
    if outputs is None or len(labels) != 1 or not outputs.is_floating_point():
        return None
    labels = labels[0]
    if labels.is_floating_point():
        is_binary = bool(((labels == 0) | (labels == 1)).all())  # labels of a loss for two classes
        fits = isinstance(collected.outputs, torch.Tensor) and outputs.shape == labels.shape and labels.ndim < 3
        if not fits or is_binary or labels[0].numel() > MOST_NUMBERS:
            return None
        outputs, labels = (t.reshape(len(t), -1) for t in (outputs, labels))  # (N, numbers)
        return "regression", outputs, labels, torch.arange(len(labels))
    if labels.ndim == 2 and outputs.shape[:2] == labels.shape:  # (N, T, classes) and (N, T)
        outputs, lengths = outputs.flatten(0, 1), torch.full((len(labels),), labels.shape[1])
    labels = labels.reshape(-1)
    if labels.dtype == torch.bool or outputs.ndim != 2 or len(outputs) != len(labels) or outputs.shape[1] < 2:
        return None
    real = (labels != -1) & (labels != -100)  # CS230's padding, torch's `ignore_index`
    outputs, labels, samples = outputs[real], labels[real], torch.arange(len(lengths)).repeat_interleave(lengths)[real]
    if not len(labels) or labels.min() < 0 or labels.max() >= outputs.shape[1]:
        return None
    if num_classes not in (None, outputs.shape[1]):  # features, for example, rather than logits
        return None
    return "tagging" if (lengths != 1).any() else "classification", outputs, labels.long(), samples


def columns_of_numbers(items, outputs, labels):
    """Return the columns of a regression's predictions, with the shortest decimals that give the exact numbers."""
    columns = {"item": items}
    for number in range(labels.shape[1]):
        ending = f"_{number}" if labels.shape[1] > 1 else ""
        columns[f"label{ending}"] = [str(value) for value in labels[:, number]]
        columns[f"prediction{ending}"] = [str(value) for value in outputs[:, number]]
    return columns


def words_of(items, place):
    """Return the word of each token, or its number in its sentence if the words are not known.

    Args:
        items: for each token its sentence, words separated by blanks, or something else.
        place: for each token the number of its sentence.
    """
    words, starts = [], np.flatnonzero(np.diff(place, prepend=-1)).tolist()
    for first, end in zip(starts, [*starts[1:], len(place)], strict=True):
        sentence = str(items[first]).split(" ")
        words += sentence if len(sentence) == end - first else range(end - first)
    return words
