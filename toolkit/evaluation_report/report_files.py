"""The report of an evaluation, written to the experiment folder by evaluate.py."""

import json
import math
from pathlib import Path

import numpy as np
from filelock import FileLock

from toolkit.core.provenance import now
from toolkit.core.text import as_csv, pipe_table
from toolkit.evaluation_report import bootstrap, pictures
from toolkit.evaluation_report.collected_outputs import CollectedOutputs
from toolkit.evaluation_report.predictions import calibration_error, class_scores, find_predictions, inputs_at
from toolkit.evaluation_report.tagging_mistakes import mistakes_page
from utils import KINDS, UserError, read_json, write_whole

MOST_CLASSES = 1000  # for scores of each class
MOST_CLASSES_SHOWN = 20  # in the terminal
MOST_MISTAKES = 24
LOOKS = "test_looks.json"  # lists the evaluations of the test split


class EvaluationReport:
    """The report of an evaluation. Evaluate with `metrics` in place of the task's metrics, then call `write`.

    Args:
        metrics, loss_fn, dataloader, params: as for `evaluate`.

    Attributes:
        metrics: dict, the task's metrics and one that collects the outputs.
        content: dict, the content of report_<split>.json.
        files: dict from name ("report.json") to the content of the file; None if there is nothing to show.
        lines: list of str, the report for the terminal.
    """

    def __init__(self, metrics, loss_fn, dataloader, params):
        self.task_metrics, self.loss_fn, self.dataloader, self.params = metrics, loss_fn, dataloader, params
        self.collected = CollectedOutputs()
        self.metrics = metrics | {"(report)": self.collected}
        self.content, self.files, self.lines = {}, {}, []

    def write(self, results, folder, split, about):
        """Write the files of the report, and delete those of an earlier report of the same split that it lacks.

        `results` is what `evaluate` returned, and the dict `about` has further entries of report_<split>.json. Return
        the paths of the files, a list.
        """
        self.compute(results, split, about)
        paths = []
        for name in (f"{kind}.{ending}" for kind in KINDS for ending in ("json", "csv", "png", "html")):
            path = Path(folder) / name.replace(".", f"_{split}.")
            if self.files.get(name) is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, self.files[name])
                paths.append(path)
        return paths

    def compute(self, results, split, about):
        """Set `content`, `files` and `lines`; arguments as for `write`."""
        if self.collected.problem:
            self.lines = [results_table(results, {}, split), f"No report of this split: {self.collected.problem}."]
            return
        predictions = find_predictions(self.collected, self.dataloader, self.params)
        contradiction = find_contradiction(predictions, results)
        kind = "other" if predictions is None or contradiction else predictions.kind
        arguments = (self.collected, results, self.task_metrics, self.loss_fn, self.params)
        intervals, count = bootstrap.bootstrap_intervals(*arguments), len(self.collected.lengths)
        self.content = {"split": split, **about, "samples": count, "kind": kind}
        self.content["metrics"] = {name: value if math.isfinite(value) else None for name, value in results.items()}
        self.content |= {"intervals": intervals or {}, "resamples": bootstrap.RESAMPLES if intervals else 0}
        self.lines = [results_table(results, intervals or {}, split)]
        if intervals:
            drawn = f"{bootstrap.RESAMPLES:,} bootstrap resamples of the {count:,} "
            drawn += "sentences" if kind == "tagging" else "samples"
            self.lines += [f"[low, high]: 95% confidence interval from {drawn}; none if all give the same value"]
        elif intervals is None:
            self.lines += ["No confidence intervals: computing the metrics for resamples would take too long."]
        if contradiction:
            self.lines += ["", f"No scores of classes: {contradiction}."]
        if kind == "regression":
            self.files["residuals.png"] = pictures.residuals(predictions.labels, predictions.predictions)
        elif kind != "other":
            self.add_classes(predictions)
        if kind == "tagging":
            try:
                self.files["mistakes.html"] = mistakes_page(predictions, f"Mistakes on {split}")
            except UserError as error:
                self.lines += [f"No page of mistakes: {error}."]
        if kind != "other":
            self.files["predictions.csv"] = as_csv(predictions.rows)
        self.files["report.json"] = json.dumps(self.content, allow_nan=False) + "\n"

    def add_classes(self, predictions):
        """Add to the report the scores of the classes, the calibration and the most confident mistakes."""
        right = predictions.predictions == predictions.labels
        wrong = np.flatnonzero(~right)
        worst = wrong[np.argsort(-predictions.probabilities[wrong], kind="stable")][:MOST_MISTAKES]
        error = calibration_error(predictions.probabilities, right)
        mistakes = [predictions.rows[row] for row in worst]
        self.content |= {"classes": [], "calibration_error": error, "mistakes": mistakes}
        self.files["reliability.png"] = pictures.reliability(predictions.probabilities, right, error)
        if len(predictions.class_names) <= MOST_CLASSES:
            classes, confusion = class_scores(predictions)
            self.content |= {"classes": classes, "confusion": confusion.tolist()}
            self.files["confusion.png"] = pictures.confusion(confusion, predictions.class_names)
            if len(classes) <= MOST_CLASSES_SHOWN:
                self.lines += ["", pipe_table(classes)]
            else:
                by_f1 = sorted(classes, key=lambda row: 1 if row["f1"] is None else row["f1"])
                self.lines += [f"\nThe {MOST_CLASSES_SHOWN} of {len(classes)} classes with the lowest f1:\n"]
                self.lines += [pipe_table(by_f1[:MOST_CLASSES_SHOWN])]
        about = "mean gap between predicted probability and accuracy"
        self.lines += ["", f"expected calibration error: {error:.4f} ({about})"]
        if predictions.kind == "classification" and predictions.positions is not None:
            inputs = inputs_at(self.dataloader, self.params.seed, predictions.positions[worst])
            self.files["mistakes.png"] = pictures.mistakes(mistakes, inputs)


def find_contradiction(predictions, results):
    """Return why the outputs cannot be scores of classes (the accuracy contradicts the largest output), or ""."""
    if predictions is None or predictions.kind == "regression":
        return ""
    if np.isnan(predictions.probabilities).any():
        return "some outputs are NaN"
    found = np.mean(predictions.predictions == predictions.labels)
    stated = results.get("accuracy", found)
    if min(abs(found - stated), abs(found - stated / 100)) <= bootstrap.CLOSE:  # or in percent
        return ""
    return f"accuracy is {stated:.4f}, but the largest output is that of the label for {found:.4f} of the samples"


def results_table(results, intervals, split):
    """Return the results as a table, and those of parts, such as "f1/person", as a second one with a row per part."""
    cells = {name: f"{value:.4f}" for name, value in results.items()}
    cells |= {name: f"{cells[name]} [{low:.4f}, {high:.4f}]" for name, (low, high) in intervals.items()}
    main, parts = {"split": split}, {}
    for name, cell in cells.items():
        metric, slash, part = name.partition("/")
        (parts.setdefault(part, {"part": part}) if slash else main)[metric] = cell
    return "\n\n".join(pipe_table(rows) for rows in ([main], list(parts.values())) if rows) + "\n"


def count_look(folder, checkpoint, dataset):
    """Record in an experiment folder that a checkpoint was evaluated on a dataset's test split (both are names).

    Return a sentence for the terminal with the number of such evaluations.
    """
    path = Path(folder) / LOOKS
    with FileLock(path.with_name(f".{path.name}.lock")):
        looks = read_json(path).get("looks") if path.exists() else []
        if not isinstance(looks, list):
            raise UserError(f'{path}: "looks" is not a list; correct it, or delete the file to count from zero')
        looks.append({"time": now(), "checkpoint": checkpoint, "dataset": dataset})
        write_whole(path, json.dumps({"looks": looks}, indent=1) + "\n")
    return f"This is evaluation number {len(looks)} of this experiment on the test split."
