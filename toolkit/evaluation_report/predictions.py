"""Turn outputs and labels into predictions, one row per sample or per token of a tagger, and score them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch.utils.data import Subset

from toolkit.core.metrics import probabilities_of
from toolkit.core.resumable_batches import has_sample_indices, resumable_batches
from toolkit.core.text import as_rows, in_utf8
from toolkit.core.trees import tensors
from toolkit.evaluation_report.collected_outputs import may_be_lengths

MOST_NUMBERS = 50  # that a regression may predict for each sample
BINS = 15  # of the calibration error


@dataclass
class Predictions:
    """The predictions of a split, in the order of the dataset.

    Attributes:
        kind: "classification", "tagging" (a class for each token) or "regression".
        rows: the rows of predictions_<split>.csv, a list of dicts.
        labels, predictions: arrays (R,) of class numbers; for a regression (R, numbers).
        probabilities: float64 array (R,), of the predicted classes.
        class_names: list of str.
        positions: int array (R,), the number of each row's sample in the order in which the loader yields them; None
            if it is not known which sample of the dataset that is.
    """

    kind: str
    rows: list
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray | None = None
    class_names: list | None = None
    positions: np.ndarray | None = None


def find_predictions(collected, dataloader, params):
    """Return the Predictions that CollectedOutputs hold, or None if the task is of no kind that is known here."""
    facts = (params.values.get(name) for name in ("class_names", "tags"))
    class_names = next((list(map(str, names)) for names in facts if isinstance(names, list)), None)
    found = find_rows(collected, len(class_names) if class_names else params.values.get("num_classes"))
    if found is None:
        return None
    kind, outputs, labels, positions = found
    places = places_in_dataset(dataloader, params.seed, len(collected.lengths))
    place = positions if places is None else places[positions]  # of each row's sample in the dataset
    order = np.argsort(place, kind="stable")
    outputs, labels, positions, place = outputs[order], labels[order].numpy(), positions[order], place[order].tolist()
    names = None if places is None else names_of(dataloader.dataset)
    items = place if names is None else [in_utf8(names[index]) for index in place]
    if kind == "regression":
        outputs, columns = outputs.numpy(), {"item": items}
        for number in range(labels.shape[1]):
            ending = f"_{number}" if labels.shape[1] > 1 else ""
            for name, values in (("label", labels), ("prediction", outputs)):
                columns[name + ending] = map(str, values[:, number])  # the shortest decimals that are exact
        return Predictions(kind, as_rows(columns), labels, outputs)
    probabilities, predictions = (t.numpy() for t in probabilities_of(outputs).double().clamp(max=1).max(dim=1))
    class_names = class_names or list(map(str, range(outputs.shape[1])))
    columns = {"item": items} if kind == "classification" else {"sentence": place, "item": words_of(items, positions)}
    columns["label"] = [class_names[label] for label in labels]
    columns["prediction"] = [class_names[prediction] for prediction in predictions]
    columns["probability"] = probabilities.round(6).tolist()
    positions = None if places is None else positions
    return Predictions(kind, as_rows(columns), labels, predictions, probabilities, class_names, positions)


def find_rows(collected, num_classes=None):
    """Return (kind, outputs, labels, samples), found by shapes and dtypes, or None if the outputs have another form.

    They have one row per sample or token, without padding: outputs (R, classes or numbers), labels (R,), or for a
    regression (R, numbers), and samples, an int64 array (R,) with the number of each row's sample.
    """
    outputs = next(iter(tensors(collected.outputs)), None)
    lengths, labels = collected.lengths, tensors(collected.labels)
    if len(labels) == 2:  # one of them may hold the number of rows of each sample
        labels = [t for t in labels if not (may_be_lengths(t) and t.equal(lengths))] or labels
    if outputs is None or len(labels) != 1 or not outputs.is_floating_point():
        return None
    labels = labels[0]
    if labels.is_floating_point():
        is_binary = bool(((labels == 0) | (labels == 1)).all())  # 0 and 1 are classes, of a binary cross-entropy
        fits = isinstance(collected.outputs, torch.Tensor) and outputs.shape == labels.shape and labels.ndim < 3
        outputs, labels = (t.reshape(len(t), -1) for t in (outputs, labels))  # (N, numbers)
        fits = fits and not is_binary and labels.shape[1] <= MOST_NUMBERS
        return ("regression", outputs, labels, np.arange(len(labels))) if fits else None
    if labels.ndim == 2 and outputs.shape[:2] == labels.shape:  # (N, T, classes) and (N, T)
        outputs, lengths = outputs.flatten(0, 1), torch.full((len(labels),), labels.shape[1])
    labels = labels.reshape(-1)
    if labels.dtype == torch.bool or outputs.ndim != 2 or len(outputs) != len(labels) or outputs.shape[1] < 2:
        return None
    # in a table, what is no class is padding, as it is for the loss (count_labels); elsewhere torch's `ignore_index`
    real, is_tagging = (labels >= 0) & (labels < outputs.shape[1]), bool((lengths != 1).any())
    if not real.any() or not (is_tagging or labels[~real].eq(-100).all()):
        return None
    outputs, labels, samples = outputs[real], labels[real], torch.arange(len(lengths)).repeat_interleave(lengths)[real]
    if num_classes not in (None, outputs.shape[1]):  # features, for example, rather than logits
        return None
    return "tagging" if is_tagging else "classification", outputs, labels.long(), samples.numpy()


def words_of(items, samples):
    """Return the word of each token, or its number in the sentence if the words are not known.

    `items` has the sentence of each token, words separated by blanks, and `samples` the number of that sentence.
    """
    words = []
    for _, group in groupby(zip(samples, items, strict=True), key=lambda pair: pair[0]):
        tokens = list(group)
        split = str(tokens[0][1]).split(" ")
        words += split if len(split) == len(tokens) else range(len(tokens))
    return words


def places_in_dataset(dataloader, seed, count):
    """Return the indices in the dataset of the `count` samples of an evaluation, in its order, as an int64 array.

    Return None if they are not known: the loader is not a plain DataLoader, or its sampler gives no indices.
    """
    order = resumable_batches(dataloader, seed)  # the object that the evaluation has used
    keys = order.keys
    if not keys or not all(map(has_sample_indices, keys)):
        return None
    places = np.concatenate([torch.as_tensor(key).cpu().numpy() for key in keys])
    return places if len(places) == count else None


def names_of(dataset):
    """Return the names of a dataset's samples, its attribute `items` or CS230's `filenames`; None if it has none."""
    if isinstance(dataset, Subset):
        names = names_of(dataset.dataset)
        return None if names is None else [names[index] for index in dataset.indices]
    names = getattr(dataset, "items", getattr(dataset, "filenames", None))
    # an attribute of that name may be something else, such as a method
    return names if isinstance(names, Sequence | np.ndarray) and len(names) == len(dataset) else None


def inputs_at(dataloader, seed, positions):
    """Yield the inputs of samples as batches of one, loaded as in the evaluation; `positions` as in Predictions."""
    order = resumable_batches(dataloader, seed)
    ends = np.cumsum([len(key) for key in order.keys])
    for position in positions:
        number = int(np.searchsorted(ends, position, side="right"))
        indices = order.keys[number]
        first = int(position - ends[number]) + len(indices)
        yield order.load_batch(0, number, first, indices[first : first + 1])[0]


def class_scores(predictions):
    """Return the scores of each class, a list of dicts, and the confusion matrix, with one row per true class.

    An undefined score, such as the precision of a class that is never predicted, is None.
    """
    pair, numbers = (predictions.labels, predictions.predictions), range(len(predictions.class_names))
    confusion = confusion_matrix(*pair, labels=numbers)
    scores = precision_recall_fscore_support(*pair, labels=numbers, zero_division=np.nan)[:3]
    names = ("precision", "recall", "f1")
    columns = {n: [None if v != v else v for v in s.tolist()] for n, s in zip(names, scores, strict=True)}
    return as_rows({"class": predictions.class_names, **columns, "support": confusion.sum(axis=1).tolist()}), confusion


def calibration_error(probabilities, right):
    """Return the expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3).

    It is the mean gap between the probability of the predicted class and the accuracy, in 15 bins. Both arguments are
    arrays (R,): the probabilities, and True where the prediction is right.
    """
    bins = np.ceil(probabilities * BINS).astype(np.int64)
    return float(np.abs(np.bincount(bins, weights=right - probabilities)).sum() / len(bins))
