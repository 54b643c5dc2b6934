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
from toolkit.results.pictures import is_wide, scale_of
from toolkit.results.rows import of_type, read_curves, read_or_note
from toolkit.results.tables import plain
from utils import UserError

SCRIPTS = ("table", "charts", "details")  # in this order
LARGEST = 10_000_000  # bytes of the page; curves, reports and pictures that would make it larger are left out
MOST_POINTS = 100  # per learning curve
MOST_AXES = 12  # hyperparameters in the charts
LONGEST_VALUE = 2_000  # characters of a hyperparameter
MOST_PICTURES = 50  # pictures of mistakes
PICTURE_SIZE = 900  # pixels, the longer side of such a picture


def make_page(table, parent_dir):
    """Make the page that shows a ResultsTable of the experiments in `parent_dir`.

    Returns:
        (page, left_out): the bytes of an HTML file, and lines that say what is not in it because of its size.

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
    content = page_content(table, parent_dir, LARGEST - len(template.substitute(parts, data="").encode()))
    return template.substitute(parts, data=as_json(content)).encode(), content["left_out"]


def page_content(table, parent_dir, size):
    """Return what the page shows, a dict that has about `size` bytes at most as JSON.

    Its entry "left_out" is a list of lines that say what is missing because of the size.
    """
    names = dict.fromkeys([table.metric.removeprefix("test_"), "loss"] if table.metric else ["loss"])
    content = {
        "title": str(parent_dir),
        "written": now(),
        "metric": table.metric,
        "mode": table.mode,
        "best": next((i for i, row in enumerate(table.rows) if row is table.best), None),
        "below": table.below(longest=1000),
        "series": [f"{split}_{name}" for name in names for split in ("val", "train")],
        "left_out": [],
    }
    shown = [column for column in table.columns if column.kind != "detail"]
    shown.sort(key=lambda column: 0 if column.kind == "name" else 1 if column.name == table.metric else 2)
    content["columns"] = describe_columns(shown, table)
    cells = zip(*([short(value) for value in column.values] for column in shown), strict=True)
    content["params"], params = split_common([{k: short(v) for k, v in row.params.items()} for row in table.rows])
    content["facts"], facts = split_common([facts_of(row) for row in table.rows])
    entries = [{"cells": c, "params": p, "facts": f} for c, p, f in zip(cells, params, facts, strict=True)]
    reports = [read_report(row.folder) for row in table.rows]
    metrics = [column.name for column in shown if column.kind == "metric"]
    for entry, row, report in zip(entries, table.rows, reports, strict=True):
        more = {"folder": row.folder, "why": row.why, "spreads": spreads_of(row, report, metrics)}
        more["replicates"] = [[r.name, r.status, r.metrics.get(table.metric)] for r in row.replicates]
        entry |= {name: cleaned(value) for name, value in more.items() if value}
    content["rows"] = entries
    fill(content, table.rows, reports, size)
    return content


def fill(content, rows, reports, size):
    """Add curves, reports and pictures, best rows first, until the content takes `size` bytes as JSON."""
    bytes_left = size - len(as_json(content)) - 1000
    for place, (entry, row, report) in enumerate(zip(content["rows"], rows, reports, strict=True)):
        extras = {"curves": thinned_curves(row, content["series"]), "report": cleaned(report)}
        extras["mistakes"] = read_picture(row, report) if place < MOST_PICTURES else None
        bytes_left -= len(as_json(extras))
        if bytes_left < 0:
            content["left_out"].append(f"curves, reports and pictures: only those of the best {place:,} rows")
            break
        entry |= {name: value for name, value in extras.items() if value}


def describe_columns(columns, table):
    """Return one dict per column: "name", "kind", "numeric", "mode" of a metric, and "scale" if charts show it."""
    drawn = [i for i, row in enumerate(table.rows) if math.isfinite(row.metrics.get(table.metric, math.nan))]
    described, axes = [], 0
    for column in columns:
        about = {"name": column.name, "kind": column.kind, "numeric": column.is_numeric}
        values = [column.values[i] for i in drawn]
        if column.kind == "hyperparameter":
            if len(set(map(plain, values))) > 1 and axes < MOST_AXES:
                about["scale"], axes = scale_of(values), axes + 1
        elif column.name == table.metric:
            is_log = table.mode == "min" and is_wide(values)
            about |= {"mode": table.mode, "scale": "log" if is_log else "linear"}
        elif column.kind == "metric":
            about["mode"] = MODES.get(column.name.removeprefix("test_"), "max")
        described.append(about)
    return described


def spreads_of(row, report, metrics):
    """Return the 95% confidence intervals of metrics: a dict from name to "± 0.0123" or "(0.7500–0.8500)"."""
    spreads, prefix = {}, "test_" if report.get("split") == "test" else ""
    if report.get("checkpoint") == "best.pth.tar" and not row.replicates:  # the row has the metrics of that checkpoint
        for name, ends in of_type(report.get("intervals"), dict).items():
            with contextlib.suppress(TypeError, ValueError):
                spreads[prefix + name] = "({:.4f}–{:.4f})".format(*ends)
    spreads |= {name: f"± {width:.4f}" for name, width in row.half_widths.items()}
    return {name: spread for name, spread in spreads.items() if name in metrics}


def facts_of(row):
    """Return code, data, hardware and versions of a run, a dict of texts and numbers."""
    run = read_or_note(row.folder, "run.json", [])
    sessions = [of_type(session, dict) for session in of_type(run.get("sessions"), list)] or [{}]
    seconds = [session["seconds"] for session in sessions if isinstance(session.get("seconds"), int | float)]
    code, hardware = of_type(sessions[-1].get("code"), dict), of_type(sessions[-1].get("hardware"), dict)
    changes = code.get("uncommitted_diff")
    facts = {
        "commit": str(code.get("commit") or "")[:12],
        "uncommitted changes": hashlib.sha256(str(changes).encode()).hexdigest()[:12] if changes else None,
        "data": str(of_type(run.get("dataset"), dict).get("fingerprint") or "")[:12],
        "hardware": ", ".join(map(str, of_type(hardware.get("gpus"), list) or [hardware.get("processor", "")])),
        "parameters of the model": run.get("parameters_of_the_model"),
        "best epoch": of_type(run.get("best"), dict).get("epoch"),
        "command": " ".join(map(str, of_type(sessions[-1].get("command"), list))),
        "started": sessions[0].get("started"),
        "seconds": round(sum(seconds), 1) if seconds else None,
    } | of_type(sessions[-1].get("versions"), dict)
    return {name: short(value) for name, value in facts.items() if value not in (None, "")}


def thinned_curves(row, series):
    """Return learning curves with at most MOST_POINTS points each, or None if there are none.

    The dict has "epochs", their number, and "values", one list for each of `series`, empty if it is missing. The i-th
    of m values belongs to epoch i * (epochs - 1) // (m - 1), counted from 0.
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
    first, *others = dicts or [{}]
    common = {name: value for name, value in first.items() if all(name in d and d[name] == value for d in others)}
    return common, [{name: value for name, value in d.items() if name not in common} for d in dicts]


def short(value):
    """Return a value as the page's JSON holds it: a number, a text of at most LONGEST_VALUE characters, or None."""
    value = plain(value)
    if isinstance(value, int) and abs(value) > 2**53:  # too large for a number in JavaScript
        value = str(value)
    return cleaned(value[:LONGEST_VALUE] if isinstance(value, str) else value)


def cleaned(value):
    """Return a value in which "NaN", "Infinity" and "-Infinity" replace the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {name: cleaned(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_json(value):
    """Return JSON that is safe inside a script element: it contains no `</script>` and no `<!--`."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def sha256(script):
    """Return the hash of a script for the page's security policy, which allows only scripts with a known hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
