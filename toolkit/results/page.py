"""results.html: the table of experiments as one page that opens from disk, alone; made of page.html and page_*.js.

What comes from experiments is in the page as JSON, which the scripts make text of, never markup.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import math
import os
from itertools import accumulate
from pathlib import Path
from string import Template

from toolkit.core.monitor import MODES
from toolkit.core.provenance import now
from toolkit.results.pictures import Axis, curves_of, ticks_of
from toolkit.results.rows import as_dict, read_or_note
from toolkit.results.tables import plain
from utils import UserError

SCRIPTS = ("table", "charts", "details", "keys")  # in this order
LARGEST = 10_000_000  # bytes of the page; pictures, then reports, then points of curves stay out where it would be more
MOST_POINTS = 100  # of a learning curve
MOST_AXES = 12  # hyperparameters that are drawn
LONGEST_VALUE = 2_000  # characters of a hyperparameter
MOST_PICTURES = 100  # of mistakes: those of the best rows
PICTURE_SIZE = 900  # pixels, the longer side of the pictures of mistakes


def make_page(table, mode, parent_dir):
    """Make the page of a table.

    Args:
        table: ResultsTable.
        mode: "max" or "min", whichever of its metric is better.
        parent_dir: the folder that the experiments are in, which the page names.

    Returns:
        (page, left_out): the bytes of an HTML file of at most LARGEST, and lines that say what is not in it.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("results.html is made with plotly, which is not installed: pip install plotly") from error
    plotly = get_plotlyjs()
    packed = base64.b64encode(gzip.compress(plotly.encode())).decode()
    folder = Path(__file__).parent
    script = "\n".join((folder / f"page_{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    parts = {"scripts": f"{sha256(script)} {sha256(plotly)}", "plotly": packed, "script": script}
    data = Data(table, mode, parent_dir)
    text = data.fill(LARGEST - len(template.substitute(parts, data="").encode()))
    return template.substitute(parts, data=text).encode(), data.left_out


class Data:
    """What the page shows of a table: `rows`, best first, and `content`, what they share; dicts for JSON."""

    def __init__(self, table, mode, parent_dir):
        self.table, self.mode, self.left_out = table, mode, []  # left_out: lines that say what did not go in
        self.reports = [read_report(row.folder) for row in table.rows]
        drawn = dict.fromkeys([table.metric.removeprefix("test_"), "loss"] if table.metric else ["loss"])
        self.series = [f"{part}_{name}" for name in drawn for part in ("val", "train")]
        self.metrics = [column.name for column in table.columns if column.kind == "metric"]
        columns, values = zip(*self.columns(), strict=True)
        cells = zip(*values, strict=True)
        shared_params, params = shared([{k: short(v) for k, v in row.params.items()} for row in table.rows])
        shared_facts, facts = shared([self.facts_of(row) for row in table.rows])
        self.rows = [{"cells": c, "params": p, "facts": f} for c, p, f in zip(cells, params, facts, strict=True)]
        for entry, row, report in zip(self.rows, table.rows, self.reports, strict=True):
            more = {"folder": row.folder, "why": row.why, "spreads": self.spreads_of(row, report)}
            more["details"] = row.metrics if len(row.metrics) > len(self.metrics) else None  # `f1/person`
            more["replicates"] = [[one.name, one.status, one.metrics.get(table.metric)] for one in row.replicates]
            entry |= {name: cleaned(value) for name, value in more.items() if value}
        self.content = {
            "title": str(parent_dir),
            "written": now(),
            "metric": table.metric,
            "mode": mode,
            "best": next((i for i, row in enumerate(table.rows) if row is table.best), None),
            "below": table.below(longest=1000),
            "columns": columns,
            "series": self.series,
            "params": shared_params,
            "facts": shared_facts,
        }

    def columns(self):
        """A list of pairs: a column (`name`, `kind`, of metrics `mode`, "max" where more is better), and its values."""
        columns = []
        for column in self.table.columns:
            about, place = {"name": column.name, "kind": column.kind}, len(columns)
            if column.kind == "metric":
                about["mode"] = MODES.get(column.name.removeprefix("test_"), "max")
            if column.name == self.table.metric:
                about["mode"], place = self.mode, 1  # what counts comes first
            if column.kind != "detail":
                columns.insert(place, (about, [short(column.value(row)) for row in self.table.rows]))
        return columns

    def spreads_of(self, row, report):
        """The 95% confidence intervals of the metrics: a dict from name to half their width, or to [low, high]."""
        prefix = "test_" if report.get("split") == "test" else ""
        shown = report.get("checkpoint") == "best.pth.tar" and not row.replicates  # what the row's metrics are of
        ends = {f"{prefix}{name}": value for name, value in as_dict(report.get("intervals")).items() if shown}
        return {name: value for name, value in (ends | row.half_widths).items() if name in self.metrics}

    def facts_of(self, row):
        """What a run was made with, a dict of texts and numbers."""
        run = read_or_note(row.folder, "run.json", [])
        sessions = [as_dict(one) for one in as_list(run.get("sessions"))] or [{}]
        seconds = [one["seconds"] for one in sessions if isinstance(one.get("seconds"), int | float)]
        code, hardware = as_dict(sessions[-1].get("code")), as_dict(sessions[-1].get("hardware"))
        changes = code.get("uncommitted_diff")
        facts = {
            "commit": str(code.get("commit") or "")[:12],
            "uncommitted changes": hashlib.sha256(str(changes).encode()).hexdigest()[:12] if changes else None,
            "data": str(as_dict(run.get("dataset")).get("fingerprint") or "")[:12],
            "hardware": ", ".join(map(str, as_list(hardware.get("gpus")) or [hardware.get("processor", "")])),
            "parameters of the model": run.get("parameters_of_the_model"),
            "best epoch": as_dict(run.get("best")).get("epoch"),
            "command": " ".join(map(str, as_list(sessions[-1].get("command")))),
            "started": sessions[0].get("started"),
            "seconds": round(sum(seconds), 1) if seconds else None,
        } | as_dict(sessions[-1].get("versions"))
        return {name: short(value) for name, value in facts.items() if value not in (None, "")}

    def axes(self, number):
        """The hyperparameters and the metric as axes; `rows` are those of the first `number` that have the metric."""
        table, space = self.table, self.table.results.search_space
        drawn = [i for i in range(number) if math.isfinite(table.rows[i].metrics.get(table.metric, math.nan))]
        rows = [table.rows[i] for i in drawn]
        axes = [Axis.of_hyperparameter(name, rows, space.get(name)) for name in table.hyperparameters if rows]
        varying = [axis for axis in axes if len({place for place in axis.positions if not math.isnan(place)}) > 1]
        axes = varying[:MOST_AXES] + ([Axis.of_metric(table.metric, rows, self.mode)] if rows else [])
        return {
            "rows": drawn,
            "axes": [
                {
                    "name": axis.name,
                    "log": axis.scale == "log",
                    "categorical": axis.is_categorical,
                    "ticks": [[round(float(place), 4), label.replace(r"\$", "$")] for place, label in ticks_of(axis)],
                    "fractions": [round(float(place), 4) for place in axis.fractions],
                    "values": None if axis.is_categorical else cleaned(axis.positions),
                }
                for axis in axes
            ],
        }

    def fill(self, size):
        """Add curves, reports and pictures, best rows first, until `size` bytes. Returns it as JSON."""
        lengths = [len(as_json(row)) + 1 for row in self.rows]
        left = size - len(as_json(self.content)) - 1000
        kept = sum(total <= 0.8 * left for total in accumulate(lengths))
        if kept < len(lengths):
            self.left_out.append(f"rows: only the best {kept:,} of {len(lengths):,}")
        self.content |= {"rows": self.rows[:kept], "picture": self.axes(kept), "left_out": self.left_out}
        left -= sum(lengths[:kept]) + len(as_json(self.content["picture"]))
        points = min(MOST_POINTS, int(0.5 * left / (8 * len(self.series) * max(kept, 1))))
        for key, what, share, most, read in (
            ("curves", "learning curves", 1, kept, lambda row, _: thinned_curves(row, self.series, points)),
            ("report", "reports of the evaluation", 0.7, kept, lambda _, report: cleaned(report)),
            ("mistakes", "pictures of mistakes", 1, MOST_PICTURES, read_picture),
        ):
            room = share * left
            for place, row in enumerate(self.table.rows[:kept]):
                value = read(row, self.reports[place])
                cost = len(as_json(value)) + len(key) + 4
                if value and (cost > room or place >= most):
                    self.left_out.append(f"{what}: only those of the best {place:,}")
                    break
                if value:
                    self.rows[place][key], room, left = value, room - cost, left - cost
        return as_json(self.content)


def thinned_curves(row, series, most):
    """Learning curves, of replicates the means over the epochs that all have.

    Args:
        row: Row.
        series: names of columns of history.csv.
        most: the number of points that a curve is thinned out to.

    Returns:
        dict: "epochs", how many there were, and "values", a list for each of `series`, empty where there is none; the
        i-th of m values is of the epoch i * (epochs - 1) // (m - 1), counted from 0. None where there is no curve.
    """
    means = curves_of(row, series)
    epochs = max(map(len, means), default=0)
    if not epochs or most < 2:
        return None
    points = min(most, epochs)
    places = [i * (epochs - 1) // max(points - 1, 1) for i in range(points)]
    return {"epochs": epochs, "values": [cleaned([float(f"{v[i]:.4g}") for i in places]) if v else [] for v in means]}


def read_report(folder):
    """What evaluate.py found on the test split, else on the validation: report_<split>.json; {} where there is none."""
    for split in ("test", "val"):
        name = f"report_{split}.json"
        if os.path.exists(os.path.join(folder, name)):
            return read_or_note(folder, name, []) | {"split": split}
    return {}


def read_picture(row, report):
    """The picture of the most confident mistakes, or of the residuals, as a data URL; None where there is none."""
    from PIL import Image

    for kind in ("mistakes", "residuals"):
        picture = io.BytesIO()
        with contextlib.suppress(OSError), Image.open(f"{row.folder}/{kind}_{report.get('split')}.png") as image:
            image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), reducing_gap=2)
            image.convert("RGB").save(picture, "WEBP", quality=70)
            return "data:image/webp;base64," + base64.b64encode(picture.getvalue()).decode()
    return None


def shared(dicts):
    """What is the same in all dicts, and of each dict the rest: (dict, list of dicts)."""
    common = dict(dicts[0]) if dicts else {}
    for one in dicts:
        common = {name: value for name, value in common.items() if name in one and one[name] == value}
    return common, [{name: value for name, value in one.items() if name not in common} for one in dicts]


def short(value):
    """A value of a hyperparameter as JSON holds it for the page: a number, a text of at most LONGEST_VALUE, or None."""
    value = plain(value)
    if isinstance(value, int) and abs(value) > 2**53:  # which JavaScript's numbers do not hold
        value = str(value)
    return cleaned(value[:LONGEST_VALUE] if isinstance(value, str) else value)


def as_list(value):
    """The value, if it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def cleaned(value):
    """A value with texts for the numbers that JSON does not have: "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {name: cleaned(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_json(value):
    """JSON that is text wherever it stands in a page: no `</script>` ends it, no `<!--` begins a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def sha256(script):
    """A script as the policy of the page names it: nothing but those that are named is run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
