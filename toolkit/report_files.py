"""The files of an evaluation: numbers, predictions, pictures, and how often the test split was looked at."""

import csv
import io
import json
import math
from pathlib import Path

from toolkit.provenance import now
from toolkit.report_samples import inputs_at
from toolkit.results import LOOKS
from utils import REPORT_FILES, UserError, read_json, write_whole


def write_report(report, folder, split, dataloader, seed, **about):
    """Write what a report has to an experiment's folder; what an earlier one of this split had besides is removed.

    Args:
        report: the Report.
        folder: the experiment's.
        split: its name, which ends the names of the files.
        dataloader, seed: what the split was evaluated with, for the inputs of the mistakes.
        about: what report_<split>.json says besides, values by name.

    Returns:
        The names of the files, a list.
    """
    files = {}
    if not report.why_not:
        content = {"split": split} | about | content_of(report)
        files["report_{}.json"] = json.dumps(content, allow_nan=False) + "\n"
    if report.columns:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(report.columns)
        writer.writerows(zip(*report.columns.values(), strict=True))
        files["predictions_{}.csv"] = text.getvalue()
        files |= pictures_of(report, split, dataloader, seed)
    for name in REPORT_FILES:
        path = Path(folder) / name.format(split)
        if files.get(name) is not None:
            write_whole(path, files[name])
        else:
            path.unlink(missing_ok=True)
    return [name.format(split) for name in REPORT_FILES if files.get(name) is not None]


def pictures_of(report, split, dataloader, seed):
    """The pictures, and the page, that suit the kind of a report: a dict from name to content (None: there is none)."""
    from toolkit import report_pictures
    from toolkit.report_text import mistakes_page

    if report.kind == "regression":
        return {"residuals_{}.png": report_pictures.residuals(report)}
    files = {"reliability_{}.png": report_pictures.reliability(report)}
    if report.confusion is not None:
        files["confusion_{}.png"] = report_pictures.confusion(report)
    if report.kind == "tagging" and report.has_words:
        files["mistakes_{}.html"] = mistakes_page(report, f"Mistakes on {split}")
    elif report.kind == "classification" and report.has_places:
        inputs = inputs_at(dataloader, seed, report.position[report.worst])
        files["mistakes_{}.png"] = report_pictures.mistakes(report, inputs)
    return files


def content_of(report):
    """What report_<split>.json holds of a Report, a dict; a number that is not finite is null."""
    found = {
        "samples": report.samples,
        "kind": report.kind,
        "metrics": {name: value if math.isfinite(value) else None for name, value in report.results.items()},
        "intervals": report.intervals,
        "resamples": report.resamples,
    }
    if report.kind in ("classification", "tagging"):
        found |= {"classes": report.classes, "calibration_error": report.error}
        found["mistakes"] = [{name: values[row] for name, values in report.columns.items()} for row in report.worst]
    if report.confusion is not None:
        found["confusion"] = report.confusion.tolist()
    return found


def count_look(folder, checkpoint, dataset):
    """Note in an experiment's folder that the test split was looked at.

    Args:
        folder: the experiment's.
        checkpoint: name of the file that was evaluated.
        dataset: name of the dataset.

    Returns:
        How often it was, this time included, an int.

    Raises:
        UserError: the file is not as it should be.
    """
    path = Path(folder) / LOOKS
    looks = read_json(path).get("looks") if path.exists() else []
    if not isinstance(looks, list):
        raise UserError(f'{path}: "looks" should be a list; mend it, or remove the file to count anew')
    looks.append({"time": now(), "checkpoint": checkpoint, "dataset": dataset})
    write_whole(path, json.dumps({"looks": looks}, indent=1) + "\n")
    return len(looks)
