"""The files of an evaluation: numbers, predictions, pictures, and how often the test split was looked at."""

import contextlib
import csv
import io
import json
import math
import time
from pathlib import Path

from toolkit.core.experiment_folder import LOOKS
from toolkit.core.lock import ExperimentLock, InUse
from toolkit.core.provenance import now
from toolkit.evaluation_report import pictures
from toolkit.evaluation_report.collected_outputs import inputs_at
from toolkit.evaluation_report.marked_text import mistakes_page
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
    contents = {}
    if not report.why_not:
        contents["report_{}.json"] = json.dumps({"split": split} | about | content_of(report), allow_nan=False) + "\n"
    if report.columns:
        contents["predictions_{}.csv"] = as_csv(report.columns)
    if report.kind == "regression":
        contents["residuals_{}.png"] = pictures.residuals(report)
    if report.kind in ("classification", "tagging"):
        contents["reliability_{}.png"] = pictures.reliability(report)
    if report.confusion is not None:
        contents["confusion_{}.png"] = pictures.confusion(report)
    if report.kind == "tagging":
        contents["mistakes_{}.html"] = mistakes_page(report, f"Mistakes on {split}")
    if report.kind == "classification" and report.has_places:
        inputs = inputs_at(dataloader, seed, report.position[report.worst])
        contents["mistakes_{}.png"] = pictures.mistakes(report, inputs)
    written = [name for name in REPORT_FILES if contents.get(name) is not None]
    for name in REPORT_FILES:
        path = Path(folder) / name.format(split)
        if name in written:
            write_whole(path, contents[name])
        else:
            path.unlink(missing_ok=True)
    return [name.format(split) for name in written]


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


def as_csv(columns):
    """Columns, a dict from name to list, as the text of a csv file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def count_look(folder, checkpoint, dataset):
    """Note in an experiment's folder that a checkpoint was evaluated on the test split of a dataset, both by name.

    Returns:
        How often that split was looked at, this time included, an int.

    Raises:
        UserError: the file is not as it should be.
    """
    path = Path(folder) / LOOKS
    with one_at_a_time(path):
        looks = read_json(path).get("looks") if path.exists() else []
        if not isinstance(looks, list):
            raise UserError(f'{path}: "looks" should be a list; mend it, or remove the file to count anew')
        looks.append({"time": now(), "checkpoint": checkpoint, "dataset": dataset})
        write_whole(path, json.dumps({"looks": looks}, indent=1) + "\n")
    return len(looks)


@contextlib.contextmanager
def one_at_a_time(path):
    """Wait until no other process is in here to change the file at `path`."""
    lock = ExperimentLock(path.parent, f".{path.name}.lock")
    while not lock.is_held:
        try:
            lock.acquire(quietly=True)
        except InUse:
            time.sleep(0.01)
    try:
        yield
    finally:
        lock.release()
