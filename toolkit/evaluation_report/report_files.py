"""Write the report of an evaluation to its experiment folder; evaluate.py uses what is defined here."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
from filelock import FileLock

from toolkit.core.experiment_folder import LOOKS
from toolkit.core.provenance import now
from toolkit.core.text import pipe_table
from toolkit.evaluation_report import bootstrap, pictures
from toolkit.evaluation_report.collected_outputs import CollectedOutputs
from toolkit.evaluation_report.predictions import find_predictions
from toolkit.evaluation_report.samples import inputs_at
from toolkit.evaluation_report.scores import calibration, scores_of_classes
from toolkit.evaluation_report.tagging_mistakes import mistakes_page
from utils import REPORT_FILES, UserError, read_json, write_whole

MOST_CLASSES = 1000  # with scores of their own
MOST_CLASSES_SHOWN = 20  # in the terminal
MOST_MISTAKES = 24


class EvaluationReport:
    """The report of an evaluation. Evaluate with its `metrics` instead of the task's, then call `write`.

    Args:
        metrics, loss_fn, dataloader, params: as `evaluate` gets them.
    """

    def __init__(self, metrics, loss_fn, dataloader, params):
        self.task_metrics, self.loss_fn, self.dataloader, self.params = metrics, loss_fn, dataloader, params
        self.collected = CollectedOutputs()
        self.metrics = metrics | {"(report)": self.collected}

    def write(self, results, folder, split, about):
        """Write the files of the report, and delete those of an earlier report of the same split that this one lacks.

        Args:
            results: dict from name to float, as `evaluate` returned it.
            folder: the experiment folder.
            split: name of the split, for the names of the files.
            about: further entries of report_<split>.json, a dict.

        Returns:
            files: the paths of the files, a list.
            text: the report as it is shown in the terminal, a str.
        """
        contents, text = self.contents(results, split, about)
        files = {name: Path(folder) / name.format(split) for name in REPORT_FILES}
        for name, path in files.items():
            if contents.get(name) is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, contents[name])
        return [path for name, path in files.items() if contents.get(name) is not None], text

    def contents(self, results, split, about):
        """Return the contents of the files, a dict by the names in REPORT_FILES, and the text for the terminal."""
        collected = self.collected
        if collected.problem:
            return {}, f"{results_table(results, {}, split)}\nNo report of this split: {collected.problem}."
        intervals, resamples = bootstrap.bootstrap_intervals(
            collected, results, self.task_metrics, self.loss_fn, self.params
        )
        predictions = find_predictions(collected, self.dataloader, self.params)
        contradiction = find_contradiction(predictions, results)
        predictions = None if contradiction else predictions
        kind = predictions.kind if predictions else "other"
        samples = f"{resamples:,} bootstrap resamples of the {len(collected.lengths):,} "
        samples += "sentences" if kind == "tagging" else "samples"
        lines = [results_table(results, intervals, split)]
        if intervals:
            lines += [
                f"[low, high]: 95% confidence interval from {samples}; no interval is shown if all resamples "
                f"give the same value",
            ]
        elif 0 < resamples < bootstrap.FEWEST_RESAMPLES:
            lines += [f"No confidence intervals: only {samples} in {bootstrap.SECONDS:g} seconds."]
        lines += [f"\nNo scores of classes: {contradiction}."] if contradiction else []
        content = {"split": split, **about, "samples": len(collected.lengths), "kind": kind}
        content["metrics"] = {name: value if math.isfinite(value) else None for name, value in results.items()}
        content |= {"intervals": intervals, "resamples": resamples}
        contents = {}
        if kind == "regression":
            contents["residuals_{}.png"] = pictures.residuals(predictions.labels, predictions.predictions)
        elif predictions:
            self.add_classes(predictions, content, contents, lines)
        if kind == "tagging":
            contents["mistakes_{}.html"] = mistakes_page(predictions.columns, f"Mistakes on {split}")
        if predictions:
            contents["predictions_{}.csv"] = as_csv(predictions.columns)
        contents["report_{}.json"] = json.dumps(content, allow_nan=False) + "\n"
        return contents, "\n".join(lines)

    def add_classes(self, predictions, content, contents, lines):
        """Add what the report says about classes to report_<split>.json, to the files, and to the terminal's lines."""
        right = predictions.predictions == predictions.labels
        error, bins = calibration(predictions.probabilities, right)
        contents["reliability_{}.png"] = pictures.reliability(error, bins)
        classes, confusion = [], None
        if len(predictions.class_names) <= MOST_CLASSES:
            classes, confusion = scores_of_classes(predictions)
            contents["confusion_{}.png"] = pictures.confusion(confusion, predictions.class_names)
            shown = classes
            if len(classes) > MOST_CLASSES_SHOWN:
                shown = sorted(classes, key=lambda row: 1 if row["f1"] is None else row["f1"])[:MOST_CLASSES_SHOWN]
            lines += ["", pipe_table(shown)]
            if len(shown) < len(classes):
                lines.append(f"(the {len(shown)} classes with the lowest f1, of {len(classes)})")
        lines += ["", f"expected calibration error: {error:.4f} (mean gap between predicted probability and accuracy)"]
        wrong = np.flatnonzero(~right)
        worst = wrong[np.argsort(-predictions.probabilities[wrong], kind="stable")][:MOST_MISTAKES]
        mistakes = [{name: values[row] for name, values in predictions.columns.items()} for row in worst]
        content |= {"classes": classes, "calibration_error": error, "mistakes": mistakes}
        if confusion is not None:
            content["confusion"] = confusion.tolist()
        if predictions.kind == "classification" and predictions.positions is not None:
            inputs = inputs_at(self.dataloader, self.params.seed, predictions.positions[worst])
            contents["mistakes_{}.png"] = pictures.mistakes(mistakes, inputs)


def find_contradiction(predictions, results):
    """Return why the outputs cannot be scores of classes, or "": the accuracy of their largest is another."""
    if predictions is None or predictions.kind == "regression" or "accuracy" not in results:
        return ""
    found, stated = float(np.mean(predictions.predictions == predictions.labels)), results["accuracy"]
    if min(abs(found - stated), abs(found - stated / 100)) <= bootstrap.CLOSE:  # or in percent
        return ""
    return f"accuracy is {stated:.4f}, but the largest output is that of the label for {found:.4f} of the samples"


def results_table(results, intervals, split):
    """Return results as a table; those of parts, such as "f1/person", as a second one with a row for each part."""
    cells = {name: f"{value:.4f}" for name, value in results.items()}
    cells |= {name: f"{cells[name]} [{low:.4f}, {high:.4f}]" for name, (low, high) in intervals.items()}
    parts = {}
    for metric, part, name in [(*name.split("/", 1), name) for name in cells if "/" in name]:
        parts.setdefault(part, {"part": part})[metric] = cells[name]
    tables = [[{"split": split} | {k: v for k, v in cells.items() if "/" not in k}], list(parts.values())]
    return "\n\n".join(pipe_table(table) for table in tables if table) + "\n"


def as_csv(columns):
    """Return columns, a dict from name to list, as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def count_look(folder, checkpoint, dataset):
    """Record in an experiment folder that a checkpoint was evaluated on the test split of a dataset; both are names.

    Returns:
        The number of such evaluations so far, this one included.

    Raises:
        UserError: the file has another form.
    """
    path = Path(folder) / LOOKS
    with FileLock(path.with_name(f".{path.name}.lock")):
        looks = read_json(path).get("looks") if path.exists() else []
        if not isinstance(looks, list):
            raise UserError(f'{path}: "looks" is not a list; correct it, or delete the file to start counting again')
        looks.append({"time": now(), "checkpoint": checkpoint, "dataset": dataset})
        write_whole(path, json.dumps({"looks": looks}, indent=1) + "\n")
    return len(looks)
