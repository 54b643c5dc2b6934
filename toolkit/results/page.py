"""Write results.html, one self-contained file made from page.html and page_*.js.

Everything that comes from experiments is in the page as JSON, which the scripts turn into text, never into markup.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import math
import os
from pathlib import Path
from string import Template

from toolkit.core.monitor import MODES
from toolkit.core.provenance import now
from toolkit.results.pictures import scale_of, spans_orders
from toolkit.results.rows import as_dict, read_curves, read_or_note
from toolkit.results.tables import plain
from utils import UserError

SCRIPTS = ("table", "charts", "details")  # in this order
LARGEST = 10_000_000  # bytes of the page; what would make it larger is left out
MOST_POINTS = 100  # per learning curve
MOST_AXES = 12  # hyperparameters in the charts
LONGEST_VALUE = 2_000  # characters of a hyperparameter
MOST_PICTURES = 50  # pictures of mistakes
PICTURE_SIZE = 900  # pixels, the longer side of such a picture


def make_page(table, mode, parent_dir):
    """Make the page that shows a table.

    Args:
        table: ResultsTable.
        mode: "max" if higher values of its metric are better, else "min".
        parent_dir: the folder with the experiments, which the page names.

    Returns:
        (page, left_out): the bytes of an HTML file of at most LARGEST bytes, and lines that say what is not in it.

    Raises:
        UserError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("results.html needs plotly, which is not installed: pip install plotly") from error
    plotly = get_plotlyjs()
    packed = base64.b64encode(gzip.compress(plotly.encode())).decode()
    folder = Path(__file__).parent
    script = "\n".join((folder / f"page_{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    parts = {"scripts": f"{sha256(script)} {sha256(plotly)}", "plotly": packed, "script": script}
    content, left_out = page_content(
        table, mode, parent_dir, LARGEST - len(template.substitute(parts, data="").encode())
    )
    return template.substitute(parts, data=as_json(content)).encode(), left_out


def page_content(table, mode, parent_dir, size):
    """Return (content, left_out): what the page shows, a dict of at most `size` bytes as JSON, and what is missing."""
    names = dict.fromkeys([table.metric.removeprefix("test_"), "loss"] if table.metric else ["loss"])
    content = {
        "title": str(parent_dir),
        "written": now(),
        "metric": table.metric,
        "mode": mode,
        "best": next((i for i, row in enumerate(table.rows) if row is table.best), None),
        "below": table.below(longest=1000),
        "series": [f"{split}_{name}" for name in names for split in ("val", "train")],
    }
    shown = [column for column in table.columns if column.kind != "detail"]
    shown.sort(key=lambda column: 0 if column.kind == "name" else 1 if column.name == table.metric else 2)
    content["columns"] = describe_columns(shown, table, mode)
    cells = zip(*([short(value) for value in column.values] for column in shown), strict=True)
    content["params"], params = split_common([{k: short(v) for k, v in row.params.items()} for row in table.rows])
    content["facts"], facts = split_common([facts_of(row) for row in table.rows])
    entries = [{"cells": c, "params": p, "facts": f} for c, p, f in zip(cells, params, facts, strict=True)]
    reports = [read_report(row.folder) for row in table.rows]
    metrics = [column.name for column in shown if column.kind == "metric"]
    for entry, row, report in zip(entries, table.rows, reports, strict=True):
        more = {"folder": row.folder, "why": row.why, "spreads": spreads_of(row, report, metrics)}
        more["details"] = row.metrics if len(row.metrics) > len(metrics) else None  # such as f1/person
        more["replicates"] = [[one.name, one.status, one.metrics.get(table.metric)] for one in row.replicates]
        entry |= {name: cleaned(value) for name, value in more.items() if value}
    return content, fill(content, entries, table.rows, reports, size)


def fill(content, entries, rows, reports, size):
    """Add the rows, then their curves, reports and pictures, best rows first, until the page has `size` bytes.

    Returns:
        Lines that say what was left out.
    """
    content |= {"rows": [], "left_out": []}
    left = size - len(as_json(content)) - 1000
    for place, entry in enumerate(entries):
        left -= len(as_json(entry)) + 1
        if left < 0:
            content["left_out"].append(f"rows: only the best {place:,} of {len(entries):,}")
            break
        content["rows"].append(entry)
    for place, (entry, row, report) in enumerate(zip(content["rows"], rows, reports, strict=False)):
        extras = {"curves": thinned_curves(row, content["series"]), "report": cleaned(report)}
        extras["mistakes"] = read_picture(row, report) if place < MOST_PICTURES else None
        left -= len(as_json(extras))
        if left < 0:
            content["left_out"].append(f"curves, reports and pictures: only those of the best {place:,} rows")
            break
        entry |= {name: value for name, value in extras.items() if value}
    return content["left_out"]


def describe_columns(columns, table, mode):
    """Return a dict per column: name, kind, "mode" of metrics, and "scale" of what the charts show."""
    drawn = [i for i, row in enumerate(table.rows) if math.isfinite(row.metrics.get(table.metric, math.nan))]
    described = [{"name": column.name, "kind": column.kind} for column in columns]
    hyperparameters = [i for i, column in enumerate(columns) if column.kind == "hyperparameter"]
    axes = 0
    for i, name in zip(hyperparameters, table.hyperparameters, strict=True):
        values = [columns[i].values[row] for row in drawn]
        if len(set(map(plain, values))) > 1 and axes < MOST_AXES:
            described[i]["scale"], axes = scale_of(values, table.results.search_space.get(name)), axes + 1
    for column in described:
        if column["kind"] == "metric":
            is_main = column["name"] == table.metric
            column["mode"] = mode if is_main else MODES.get(column["name"].removeprefix("test_"), "max")
            if is_main and drawn:
                is_log = mode == "min" and spans_orders([table.rows[row].metrics[table.metric] for row in drawn])
                column["scale"] = "log" if is_log else "linear"
    return described


def spreads_of(row, report, metrics):
    """Return the 95% confidence intervals of metrics: a dict from name to half the width, or to [low, high]."""
    prefix = "test_" if report.get("split") == "test" else ""
    matches = report.get("checkpoint") == "best.pth.tar" and not row.replicates  # the row's metrics are from there
    ends = {f"{prefix}{name}": value for name, value in as_dict(report.get("intervals")).items() if matches}
    return {name: value for name, value in (ends | row.half_widths).items() if name in metrics}


def facts_of(row):
    """Return code, data, hardware and versions of a run, a dict of texts and numbers."""
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


def thinned_curves(row, series):
    """Return learning curves with at most MOST_POINTS points each, or None if there are none.

    Returns:
        dict: "epochs", their number, and "values", a list for each of `series`, empty if it is missing. Of m values,
        the i-th belongs to epoch i * (epochs - 1) // (m - 1), counted from 0.
    """
    curves = read_curves(row, series)
    epochs = max(map(len, curves), default=0)
    if not epochs:
        return None
    points = min(MOST_POINTS, epochs)
    places = [i * (epochs - 1) // max(points - 1, 1) for i in range(points)]
    return {"epochs": epochs, "values": [cleaned([float(f"{v[i]:.4g}") for i in places]) if v else [] for v in curves]}


def read_report(folder):
    """Return the report of evaluate.py on the test split, else on the validation split, else an empty dict."""
    for split in ("test", "val"):
        name = f"report_{split}.json"
        if os.path.exists(os.path.join(folder, name)):
            return read_or_note(folder, name, []) | {"split": split}
    return {}


def read_picture(row, report):
    """Return the picture of the most confident mistakes, or of the residuals, as a data URL; None if there is none."""
    from PIL import Image

    for kind in ("mistakes", "residuals"):
        picture = io.BytesIO()
        with contextlib.suppress(OSError), Image.open(f"{row.folder}/{kind}_{report.get('split')}.png") as image:
            image.thumbnail((PICTURE_SIZE, PICTURE_SIZE), reducing_gap=2)
            image.convert("RGB").save(picture, "WEBP", quality=70)
            return "data:image/webp;base64," + base64.b64encode(picture.getvalue()).decode()
    return None


def split_common(dicts):
    """Return (common, rest): the items that all dicts share, and a list of dicts with the other items of each."""
    common = dict(dicts[0]) if dicts else {}
    for one in dicts:
        common = {name: value for name, value in common.items() if name in one and one[name] == value}
    return common, [{name: value for name, value in one.items() if name not in common} for one in dicts]


def short(value):
    """Return a value as the page's JSON holds it: a number, a text of at most LONGEST_VALUE characters, or None."""
    value = plain(value)
    if isinstance(value, int) and abs(value) > 2**53:  # too large for a number in JavaScript
        value = str(value)
    return cleaned(value[:LONGEST_VALUE] if isinstance(value, str) else value)


def as_list(value):
    """Return `value` if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def cleaned(value):
    """Return a value in which "NaN", "Infinity" and "-Infinity" replace the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: cleaned(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_json(value):
    """Return JSON that is safe inside a script element: it contains no `</script>` and no `<!--`."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def sha256(script):
    """Return the hash of a script for the page's security policy, which allows only scripts with a known hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
