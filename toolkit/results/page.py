"""Write results.html, one self-contained file made from page.html and page_*.js.

Everything that comes from experiments is in the page as JSON, which the scripts turn into text, never into markup.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
from pathlib import Path
from string import Template

from toolkit.core.monitor import MODES
from toolkit.core.provenance import now
from toolkit.results.pictures import axis_of, is_wide
from toolkit.results.rows import of_type, read_curves, read_or_note, read_run
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
    """Return (page, left_out) for a ResultsTable: the bytes of an HTML file, and what its size made it leave out."""
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
    """Return what the page shows: a dict that has at most about `size` bytes as JSON; "left_out" says what it lacks."""
    names = dict.fromkeys([table.metric.removeprefix("test_"), "loss"] if table.metric else ["loss"])
    shown = [column for column in table.columns if column.kind != "detail"]
    shown.sort(key=lambda column: (column.kind != "name", column.name != table.metric))  # name, then the metric, first
    params, own_params = split_common([{k: short(v) for k, v in row.params.items()} for row in table.rows])
    facts, own_facts = split_common([facts_of(row) for row in table.rows])
    content = {
        "title": str(parent_dir),
        "written": now(),
        "metric": table.metric,
        "mode": table.mode,
        "best": next((i for i, row in enumerate(table.rows) if row is table.best), None),
        "below": table.below(longest=1000),
        "series": [f"{split}_{name}" for name in names for split in ("val", "train")],
        "left_out": [],
        "columns": describe_columns(shown, table),
        "params": params,
        "facts": facts,
        "rows": [],
    }
    reports = [read_report(row.folder) for row in table.rows]
    for i, row in enumerate(table.rows):
        entry = {"cells": [short(column.values[i]) for column in shown], "params": own_params[i], "facts": own_facts[i]}
        more = {"folder": row.folder, "why": row.why, "spreads": spreads_of(row, reports[i])}
        more["replicates"] = [[r.name, r.status, r.metrics.get(table.metric)] for r in row.replicates]
        content["rows"].append(entry | {name: value for name, value in more.items() if value})
    bytes_left = size - len(as_json(content)) - 1000
    for i, row in enumerate(table.rows):  # best rows first
        extras = {"curves": thinned_curves(row, content["series"]), "report": reports[i]}
        extras["mistakes"] = read_picture(row, reports[i]) if i < MOST_PICTURES else None
        bytes_left -= len(as_json(extras))
        if bytes_left < 0:
            content["left_out"].append(f"curves, reports and pictures: only those of the best {i:,} rows")
            break
        content["rows"][i] |= {name: value for name, value in extras.items() if value}
    return content


def describe_columns(columns, table):
    """Return one dict per column: "name", "kind", "numeric", "mode" of a metric, and the axis of one in the charts."""
    drawn = [i for i, row in enumerate(table.rows) if row.has(table.metric)]
    described, axes = [], 0
    for column in columns:
        about = {"name": column.name, "kind": column.kind, "numeric": column.is_numeric}
        values = [column.values[i] for i in drawn]
        if column.kind == "hyperparameter" and len(set(map(plain, values))) > 1 and axes < MOST_AXES:
            about |= axis_of(values)
            axes += 1
        elif column.name == table.metric:
            scale = "log" if table.mode == "min" and is_wide(values) else "linear"
            about |= {"mode": table.mode, "scale": scale, "places": values, "labels": []}
        elif column.kind == "metric":
            about["mode"] = MODES.get(column.name.removeprefix("test_"), "max")
        described.append(about)
    return described


def spreads_of(row, report):
    """Return the 95% confidence intervals of metrics: a dict from name to "± 0.0123" or "(0.7500–0.8500)"."""
    spreads, prefix = {}, "test_" if report.get("split") == "test" else ""
    if report.get("checkpoint") == "best.pth.tar" and not row.replicates:  # the row has the metrics of that checkpoint
        for name, ends in of_type(report.get("intervals"), dict).items():
            with contextlib.suppress(LookupError, TypeError, ValueError):
                spreads[prefix + name] = "({:.4f}–{:.4f})".format(*ends)
    return spreads | {name: f"± {width:.4f}" for name, width in row.half_widths.items()}


def facts_of(row):
    """Return code, data, hardware and versions of a run, a dict of texts and numbers."""
    run = read_run(row.folder, [])
    sessions = run["sessions"] or [{}]
    seconds = [session["seconds"] for session in sessions if isinstance(session.get("seconds"), int | float)]
    code, hardware = of_type(sessions[-1].get("code"), dict), of_type(sessions[-1].get("hardware"), dict)
    changes = code.get("uncommitted_diff")
    facts = {
        "commit": str(code.get("commit") or "")[:12],
        "uncommitted changes": hashlib.sha256(str(changes).encode()).hexdigest()[:12] if changes else None,
        "data": str(run["dataset"].get("fingerprint") or "")[:12],
        "hardware": ", ".join(map(str, of_type(hardware.get("gpus"), list) or [hardware.get("processor", "")])),
        "parameters of the model": run.get("parameters_of_the_model"),
        "best epoch": run["best"].get("epoch"),
        "command": " ".join(map(str, of_type(sessions[-1].get("command"), list))),
        "started": sessions[0].get("started"),
        "seconds": round(sum(seconds), 1) if seconds else None,
    } | of_type(sessions[-1].get("versions"), dict)
    return {name: short(value) for name, value in facts.items() if value not in (None, "")}


def thinned_curves(row, series):
    """Return learning curves with at most MOST_POINTS points each, or None if there are none.

    The dict has "epochs", a list, and "values", one list for each of `series`, empty if it is missing.
    """
    curves = read_curves(row, series)
    number = max(map(len, curves), default=0)
    if not number:
        return None
    points = min(MOST_POINTS, number)
    places = [i * (number - 1) // max(points - 1, 1) for i in range(points)]
    values = [[float(f"{curve[i]:.4g}") for i in places if i < len(curve)] for curve in curves]
    return {"epochs": [place + 1 for place in places], "values": values}


def read_report(folder):
    """Return the report of evaluate.py on the test split, else on the validation split, else an empty dict."""
    for split in ("test", "val"):
        if report := read_or_note(folder, f"report_{split}.json", []):
            return report | {"split": split}
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
    return value[:LONGEST_VALUE] if isinstance(value, str) else value


def as_json(value):
    """Return JSON that is safe inside a script element: it has no `</script>` and no `<!--`.

    As in the table, NaN and infinity, for which JSON has no numbers, are the texts "nan", "inf" and "-inf".
    """
    value = json.loads(json.dumps(value), parse_constant=lambda name: str(float(name)))
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def sha256(script):
    """Return the hash of a script for the page's security policy, which allows only scripts with a known hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
