"""The report of an evaluation: how sure its numbers are, what they are for each class, and each prediction by name."""

import math
import time
import warnings

import numpy as np
import torch

from toolkit.core.metrics import compute_metric, is_streaming, probabilities_of
from toolkit.core.text import in_utf8, pipe_table
from toolkit.core.totals import to_numpy
from toolkit.core.trees import tensors, tree_map
from toolkit.evaluation_report.collected_outputs import are_lengths, names_of, places_in_dataset

RESAMPLES = 1000  # of the bootstrap
FEWEST_RESAMPLES = 100  # of which the outer 5% are still some
SECONDS = 10.0  # that resampling may take
CLOSE = 1e-4  # relative; what is computed in one piece differs by rounding from what is summed up by batches
BINS = 15  # of the calibration error
MOST_CLASSES = 1000  # that are reported one by one
MOST_CLASSES_SHOWN = 20  # in the terminal
MOST_MISTAKES = 24
MOST_COLUMNS = 50  # numbers that a regression predicts for a sample


@torch.inference_mode()
def find_intervals(collected, results, metrics, loss_fn, params):
    """95% confidence intervals of the results of a split: the percentile bootstrap over its samples.

    As many samples as there are, are drawn with replacement, again and again, and the loss and the metrics computed of
    each such set: the middle 95% of the values are the interval (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13). A result has none where its function does not give it for all samples at once, such
    as a loss that is no mean over samples.

    Args:
        collected: the Collector of the split.
        results: what `evaluate` gave, a dict from name to float.
        metrics, loss_fn, params: as `evaluate` got them.

    Returns:
        intervals: dict from name to [low, high].
        resamples: how many sets were drawn, an int; fewer than RESAMPLES where that takes longer than SECONDS.
    """
    count = len(collected.lengths)

    def values_of(name, metric, samples):
        try:
            if name == "loss" or is_streaming(metric):
                samples = tree_map(lambda t: t.to(getattr(params, "device", "cpu")), samples)
            if name == "loss":
                loss = loss_fn(*samples)
                return {key: float(value) for key, value in {"loss": loss, **getattr(loss, "parts", {})}.items()}
            if is_streaming(metric):
                metric.reset()
                metric.update(*samples)
                return compute_metric(name, metric, None, None, params)
            outputs, labels = tree_map(to_numpy, samples)
            return compute_metric(name, metric, outputs, labels, params)
        except Exception:  # some are not defined for every set of samples, such as one without a class
            return {}

    functions, names = {}, []
    for name, metric in {"loss": loss_fn, **metrics}.items():
        whole = values_of(name, metric, (collected.outputs, collected.labels))
        same = [k for k, v in whole.items() if math.isclose(v, results.get(k, math.nan), rel_tol=CLOSE, abs_tol=1e-9)]
        names += same
        functions |= {name: metric} if same else {}
    drawn, started, random = [], time.monotonic(), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while names and count > 1 and len(drawn) < RESAMPLES and time.monotonic() - started < SECONDS:
            samples = collected.take(torch.from_numpy(random.integers(count, size=count)))
            values = [values_of(name, metric, samples) for name, metric in functions.items()]
            drawn.append({key: value for found in values for key, value in found.items()})
    intervals = {}
    for name in names:
        values = [values[name] for values in drawn if math.isfinite(values.get(name, math.nan))]
        low, high = np.quantile(values, [0.025, 0.975]).tolist() if len(values) >= FEWEST_RESAMPLES else (0, 0)
        if low < high:  # where all is right, all sets are alike, which does not say that it is certain
            intervals[name] = [low, high]
    return intervals, len(drawn)


def find_kind(collected, num_classes=None):
    """What kind of task it is, told by the shapes and types of the outputs and labels.

    Args:
        collected: the Collector of the split.
        num_classes: how many classes there are; None: not known.

    Returns:
        kind: "classification", "tagging" (a class for each token), "regression" or "other".
        outputs: float (R, classes), or of a regression (R, numbers); a row a sample or token, without padding.
        labels: int64 (R,), or of a regression float (R, numbers).
        sample: int64 (R,), the number of the sample that a row is of.
    """
    unknown = "other", None, None, None
    outputs = next(iter(tensors(collected.outputs)), None)
    lengths, labels = collected.lengths, tensors(collected.labels)
    if len(labels) == 2:  # one may be how many rows each sample has
        labels = [t for t in labels if not (are_lengths(t) and t.equal(lengths))] or labels
    if outputs is None or len(labels) != 1 or not outputs.is_floating_point():
        return unknown
    labels = labels[0]
    if labels.is_floating_point():
        is_binary = bool(((labels == 0) | (labels == 1)).all())  # classes, of a loss for two of them
        fits = isinstance(collected.outputs, torch.Tensor) and outputs.shape == labels.shape and labels.ndim < 3
        if not fits or is_binary or labels[0].numel() > MOST_COLUMNS:
            return unknown
        outputs, labels = (t.reshape(len(t), -1) for t in (outputs, labels))  # (N, numbers)
        return "regression", outputs, labels, torch.arange(len(labels))
    if labels.ndim == 2 and outputs.shape[:2] == labels.shape:  # (N, T, classes) and (N, T)
        outputs, lengths = outputs.flatten(0, 1), torch.full((len(labels),), labels.shape[1])
    labels = labels.reshape(-1)
    if labels.dtype == torch.bool or outputs.ndim != 2 or len(outputs) != len(labels) or outputs.shape[1] < 2:
        return unknown
    real = (labels != -1) & (labels != -100)  # CS230's padding, torch's `ignore_index`
    sample = torch.arange(len(lengths)).repeat_interleave(lengths)
    if not real.all():
        outputs, labels, sample = outputs[real], labels[real], sample[real]
    if not len(labels) or labels.min() < 0 or labels.max() >= outputs.shape[1]:
        return unknown
    if num_classes not in (None, outputs.shape[1]):  # not what is taken for logits, but features, say
        return unknown
    return "tagging" if (lengths != 1).any() else "classification", outputs, labels.long(), sample


def calibration(probabilities, right):
    """How far the probabilities of predictions are from how often they are right.

    Expected calibration error with 15 bins of equal width: Guo et al., "On Calibration of Modern Neural Networks"
    (2017), equation 3.

    Args:
        probabilities: float array (R,).
        right: bool array (R,).

    Returns:
        error: float in [0, 1].
        bins: three arrays (15,): predictions, their share that is right, their mean probability (NaN without any).
    """
    bins = np.clip(np.ceil(probabilities * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (right, probabilities)]
    error = np.abs(sums[0] - sums[1]).sum() / len(bins)
    with np.errstate(invalid="ignore"):
        return float(error), (counts, sums[0] / counts, sums[1] / counts)


class Report:
    """What an evaluation found, besides its results.

    Args:
        collected: the Collector that was among the metrics.
        dataloader: the split.
        results: what `evaluate` gave, a dict from name to float.
        metrics, loss_fn, params: as `evaluate` got them; the facts `class_names` or `tags` are the names of classes.

    Attributes:
        kind: as `find_kind` says. Of "other" there are intervals alone.
        intervals: dict from name to [low, high], of the results that have some.
        position: int array (R,), for each row (a sample, or a token) the number of its sample in the evaluation. Rows
            are in the order of the dataset, whatever that of the evaluation was.
        sentences: of tagging, pairs of the first row of each sentence and the row behind its last.
        labels, predictions: arrays (R,) of classes, or of a regression (R, numbers).
        names: those of the classes, a list of str.
        probabilities: float array (R,), of the predicted classes.
        columns: those of predictions_<split>.csv, a dict from name to list.
        classes: list of dicts with "class", "precision", "recall", "f1" and "support"; None is a share of none, as the
            precision of a class that is never predicted.
        confusion: int array (classes, classes), true ones in rows.
        worst: the rows of the wrong predictions with the highest probability, an int array.
    """

    def __init__(self, collected, dataloader, results, metrics, loss_fn, params):
        self.why_not, self.why_other, self.results = collected.why_not, "", results
        self.kind, self.intervals, self.resamples, self.samples = "other", {}, 0, None
        self.columns, self.classes, self.confusion, self.error = {}, [], None, None
        if self.why_not:
            return
        self.samples = len(collected.lengths)
        self.intervals, self.resamples = find_intervals(collected, results, metrics, loss_fn, params)
        facts = (params.values.get(name) for name in ("class_names", "tags"))
        self.names = next((list(map(str, names)) for names in facts if isinstance(names, list)), None)
        num_classes = len(self.names) if self.names else params.values.get("num_classes")
        self.kind, outputs, labels, position = find_kind(collected, num_classes)
        if self.kind in ("classification", "tagging"):
            right, stated = (outputs.argmax(dim=1) == labels).double().mean().item(), results.get("accuracy")
            if stated is not None and min(abs(right - stated), abs(right - stated / 100)) > CLOSE:  # or in percent
                self.kind = "other"
                self.why_other = f"accuracy is {stated:.4f}, but {right:.4f} of the largest outputs are the label's"
        if self.kind == "other":
            return
        places = places_in_dataset(dataloader, params.seed, self.samples)
        self.has_places = places is not None
        names = names_of(dataloader.dataset) if self.has_places else None
        places = places if self.has_places else np.arange(self.samples)
        order = np.argsort(places[position], kind="stable")
        self.position = position.numpy()[order]
        place = places[self.position].tolist()
        items = place if names is None else [in_utf8(names[index]) for index in place]
        if self.kind == "regression":
            self._describe_numbers(items, outputs.numpy()[order], labels.numpy()[order])
        else:
            self._describe_classes(items, place, outputs[order], labels.numpy()[order])

    def _describe_numbers(self, items, outputs, labels):
        self.columns["item"], self.predictions, self.labels = items, outputs, labels
        for number in range(labels.shape[1]):
            ending = f"_{number}" if labels.shape[1] > 1 else ""
            for name, values in (("label", labels), ("prediction", outputs)):
                self.columns[name + ending] = [str(value) for value in values[:, number]]  # shortest that is exact

    def _describe_classes(self, items, place, outputs, labels):
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

        values, predictions = probabilities_of(outputs).max(dim=1)
        self.labels, self.predictions, self.probabilities = labels, predictions.numpy(), values.double().numpy()
        self.names = self.names or [str(number) for number in range(outputs.shape[1])]
        right = self.predictions == labels
        self.error, self.bins = calibration(self.probabilities, right)
        if len(self.names) <= MOST_CLASSES:
            pair, numbers = (labels, self.predictions), range(len(self.names))
            self.confusion = confusion_matrix(*pair, labels=numbers)
            scores = precision_recall_fscore_support(*pair, labels=numbers, zero_division=np.nan)[:3]
            scores += (self.confusion.sum(axis=1),)  # theirs are no integers where nothing is right
            keys = ("class", "precision", "recall", "f1", "support")
            rows = zip(self.names, *(score.tolist() for score in scores), strict=True)
            self.classes = [dict(zip(keys, [None if v != v else v for v in row], strict=True)) for row in rows]
        if self.kind == "tagging":
            begins = np.flatnonzero(np.diff(self.position, prepend=-1)).tolist()
            self.sentences = list(zip(begins, [*begins[1:], len(self.position)], strict=True))
            words = [word for first, end in self.sentences for word in words_of(items[first], end - first)]
            self.columns = {"sentence": place, "item": words}
        else:
            self.columns = {"item": items}
        self.columns["label"] = [self.names[label] for label in labels]
        self.columns["prediction"] = [self.names[prediction] for prediction in self.predictions]
        self.columns["probability"] = self.probabilities.round(6).tolist()
        wrong = np.flatnonzero(~right)
        self.worst = wrong[np.argsort(-self.probabilities[wrong], kind="stable")][:MOST_MISTAKES]

    def table(self, split):
        """The results as a table, in text; those with a slash in their name, `f1/person`, in one of their own below."""
        cells = {name: f"{value:.4f}" for name, value in self.results.items()}
        cells |= {name: f"{cells[name]} [{low:.4f}, {high:.4f}]" for name, (low, high) in self.intervals.items()}
        main = {name: cell for name, cell in cells.items() if "/" not in name}
        details = {}
        for name in [name for name in cells if name not in main]:
            metric, _, part = name.partition("/")
            details.setdefault(part, {"of": part})[metric] = cells[name]
        tables = [[{"split": split} | main], list(details.values())]
        return "\n\n".join(pipe_table(table) for table in tables if table)

    def lines(self):
        """What stands below the results in the terminal, a list of str."""
        if self.why_not:
            return [f"no report of this split: {self.why_not}"]
        unit = "sentences" if self.kind == "tagging" else "samples"
        drawn = f"{self.resamples:,} bootstrap resamples of the {self.samples:,} {unit}"
        lines = [f"[low, high]: 95% confidence interval, from {drawn}; none where these do not tell"]
        if not self.intervals:
            few = 0 < self.resamples < FEWEST_RESAMPLES
            lines = [f"no confidence intervals: only {drawn} in {SECONDS:g} seconds"] if few else []
        if self.why_other:
            lines += ["", f"no scores of classes: {self.why_other}"]
        if self.classes:
            shown = self.classes
            if len(shown) > MOST_CLASSES_SHOWN:
                shown = sorted(shown, key=lambda row: 1 if row["f1"] is None else row["f1"])[:MOST_CLASSES_SHOWN]
            lines += ["", pipe_table(shown)]
            if len(shown) < len(self.classes):
                lines.append(f"(of {len(self.classes)} classes those with the lowest f1)")
        if self.error is not None:
            about = "how far its probabilities are from how often it is right"
            lines += ["", f"expected calibration error: {self.error:.4f} ({about})"]
        return lines


def words_of(sentence, count):
    """The words of a sentence of `count` tokens, a list; their numbers where they are not known."""
    words = str(sentence).split(" ")
    return words if len(words) == count else list(range(count))
