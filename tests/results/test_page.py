"""results.html: what is in the file, and what it does in a real Chromium."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_synthesize_results import leave

import toolkit.results.page
from synthesize_results import main

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
EVIL = [
    '<img src=x onerror="pwned=1">',
    "</script><script>pwned=1</script>",
    "<!--<script>",
    "\"'`&lt;b&gt;${x}%{y}",
    "🦊é中",
]
NAMES = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names of files")
EVIL += ["__proto__", "constructor", "x" * 300]


@pytest.fixture
def parent(tmp_path):
    """A sweep of nine experiments, one failed, one without a hyperparameter; the best have been evaluated."""
    parent = tmp_path / "sweep"
    for i in range(8):
        folder = parent / f"lr={10.0 ** -(i % 4 + 1):g},width={16 * (1 + i // 4)}"
        params = {"learning_rate": 10.0 ** -(i % 4 + 1), "width": 16 * (1 + i // 4), "batch_size": 32}
        code = {"commit": "abc" if i else "def", "uncommitted_diff": "" if i else "+ a changed line"}
        leave(folder, params, 0.9 - 0.01 * i, code=code, seconds=i, versions={"torch": "2.6.0"})
        if i < 2:
            evaluated(folder)
    leave(parent / "odd", {"learning_rate": "auto", "batch_size": 32}, how="failed", error="no memory")
    return parent


def evaluated(folder, names=("cat", "dog")):
    """Add what evaluate.py leaves."""
    mistakes = [{"item": f"{name}.png", "label": name, "prediction": names[0], "probability": 0.9} for name in names]
    classes = [{"class": name, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 5} for name in names]
    report = {"split": "test", "checkpoint": "best.pth.tar", "epoch": 2, "samples": 10, "kind": "classification"}
    report |= {"metrics": {"accuracy": 0.8}, "intervals": {"accuracy": [0.75, 0.85]}, "classes": classes}
    confusion = [[4 if row == column else 1 for column in names] for row in names]
    report |= {"confusion": confusion, "calibration_error": 0.1, "mistakes": mistakes}
    (folder / "report_test.json").write_text(json.dumps(report))
    (folder / "metrics_test_best.json").write_text(json.dumps({"accuracy": 0.8}))
    (folder / "test_looks.json").write_text(json.dumps({"looks": [{"time": "t"}] * 3}))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "mistakes_test.png")


def write_page(call, parent, *arguments):
    """Run the script: gives (the text of results.html, its data, what was printed)."""
    code, out, err = call(main, "--parent_dir", parent, "--html", "--no_plots", *arguments)
    assert (code, err) == (0, "")
    text = (parent / "results.html").read_text(encoding="utf-8")
    return text, json.loads(text.split('id="data">')[1].split("</script>")[0]), out


def test_page_holds_the_table_and_its_reports_and_loads_nothing(call, parent):
    text, data, out = write_page(call, parent)
    assert len(text.encode()) < 3_000_000 and f"results.html has {len(text.encode()) / 1e6:.1f} MB\n" in out
    assert [column["name"] for column in data["columns"]] == [
        *("name", "accuracy", "status", "epochs", "learning_rate", "width", "loss", "test_accuracy", "test_looks"),
    ]
    assert data["rows"][0]["cells"] == ["lr=0.1,width=16", 0.9, "finished", 2, 0.1, 16, pytest.approx(0.1), 0.8, 3]
    assert data["rows"][0]["spreads"] == {"test_accuracy": "(0.7500–0.8500)"}
    assert data["rows"][0]["curves"] == {"epochs": [1, 2], "values": [[0.1, 0.9], [], [0.9, 0.1], []]}
    assert data["rows"][0]["report"]["confusion"] == [[4, 1], [1, 4]] and data["params"]["batch_size"] == 32
    assert data["rows"][0]["mistakes"].startswith("data:image/webp;base64,")
    assert data["rows"][-1]["cells"][:6] == ["odd", None, "failed", None, "auto", None]
    scales = {column["name"]: column["scale"] for column in data["columns"] if "scale" in column}
    assert scales == {"accuracy": "linear", "learning_rate": "log", "width": "category"}
    policy = text.split('Content-Security-Policy"')[1].split(">")[0]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe-eval" not in policy
    for attribute in ("src=", "href=", "@import", "url("):
        assert attribute not in text.split('id="data"')[0]


def test_an_interval_is_of_the_value_that_it_stands_beside(call, parent):
    report = parent / "lr=0.1,width=16" / "report_test.json"
    report.write_text(report.read_text().replace("best.pth.tar", "last.pth.tar"))
    for seed in (1, 2):
        leave(parent / f"seed={seed}", {"learning_rate": 7, "seed": seed}, 0.1)
    evaluated(parent / "seed=1")
    rows = {row["cells"][0]: row for row in write_page(call, parent)[1]["rows"]}
    assert "spreads" not in rows["lr=0.1,width=16"] and "report" in rows["lr=0.1,width=16"]
    assert rows["lr=0.01,width=16"]["spreads"] == {"test_accuracy": "(0.7500–0.8500)"}
    folded = next(row for row in rows.values() if "replicates" in row)
    assert folded["cells"][-2:] == [0.8, 3] and "test_accuracy" not in folded.get("spreads", {})


@NAMES
def test_names_and_values_of_experiments_are_text(call, parent):
    for number, evil in enumerate(EVIL):
        leave(parent / f"evil{number}", {evil: evil, "width": number, "note": EVIL[number - 1]}, 0.5)
    leave(parent / "<b>bold<", {"width": -1}, float("nan"))
    evaluated(parent / "evil0", EVIL)
    text, data, _ = write_page(call, parent)

    class Tags(HTMLParser):
        tags = ()

        def handle_starttag(self, tag, attributes):
            self.tags += (tag,)

    parser = Tags()
    parser.feed(text)
    assert parser.tags.count("script") == 3 and "img" not in parser.tags and parser.tags.count("b") == 0
    params = {name for row in data["rows"] for name in row["params"]}  # those that begin with _ are comments
    assert set(EVIL) - params == {"__proto__"} and "<b>bold<" in [row["cells"][0] for row in data["rows"]]


def test_page_stays_below_its_size_and_says_what_is_missing(call, parent, monkeypatch):
    text, data, _ = write_page(call, parent)
    less = len(text.encode()) - 10_000
    monkeypatch.setattr(toolkit.results.page, "LARGEST", less)
    smaller, data, out = write_page(call, parent)
    assert len(smaller.encode()) <= less and len(data["rows"]) == 9
    expected = "curves, reports and pictures: only those of the best 1 rows"
    assert expected in out and expected in data["left_out"]


def test_page_is_written_whatever_state_folders_are_in(call, parent):
    first, second, third = sorted(parent.glob("lr=*"))[:3]
    (first / "report_test.json").write_text("[1")
    (first / "history.csv").write_text("epoch,val_accuracy\n1,\n")
    (first / "test_looks.json").write_text('{"looks": 3}')
    run = json.loads((second / "run.json").read_text())
    session = {"finished": "t", "seconds": "x", "code": [], "hardware": {"gpus": 3}, "versions": {"torch": [1]}}
    (second / "run.json").write_text(json.dumps(run | {"dataset": 1, "best": None, "sessions": [session]}))
    (third / "report_val.json").write_text('{"intervals": {"accuracy": "x"}, "confusion": 3, "mistakes": {}}')
    (third / "mistakes_val.png").write_bytes(b"no picture")
    assert len(write_page(call, parent)[1]["rows"]) == 9
    shutil.rmtree(parent)
    leave(parent / "failed", {}, how="failed", error="x")
    assert write_page(call, parent)[1]["metric"] is None


# What follows needs a browser.


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, installed now if it is not there and that can be done."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    place = shutil.which("chromium") or shutil.which("google-chrome")
    if place is None and shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-yq", "chromium"]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, env=environment, capture_output=True, timeout=600)
        place = shutil.which("chromium")
    if place is None:
        command = [sys.executable, "-m", "playwright", "install", "chromium"]
        if subprocess.run(command, capture_output=True, timeout=600).returncode:
            pytest.skip("Chromium is not there, and cannot be installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=place, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, call, parent):
    """A function that writes the page and opens it; at the end there must have been no error and no request."""
    contexts, wrong = [], []

    def open_page(*arguments, **options):
        write_page(call, parent, *arguments)
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = ((parent / "results.html").as_uri(), "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(allowed) or wrong.append(request.url))
        page.goto((parent / "results.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, number):
    return page.locator(f"#table tbody tr[id] td:nth-child({number})").all_inner_texts()


def drawn(page, chart):
    """The traces of a chart, once it has been drawn."""
    page.locator(f"#{chart}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{chart} .main-svg")
    page.wait_for_timeout(500)  # it is drawn a moment after what it depends on has changed
    return page.evaluate(f"document.getElementById('{chart}').data")


@pytest.mark.slow
def test_table_sorts_and_filters_by_mouse_and_keys(open_page):
    page = open_page()
    header = page.locator("#table thead th").nth(5)  # learning_rate
    for direction, first in (("ascending", "1e-4"), ("descending", "0.1")):
        header.locator("button").click()
        rates = column(page, 6)
        assert header.get_attribute("aria-sort") == direction and rates[0] == ("0.0001" if first == "1e-4" else first)
        assert rates[-1] == "auto"  # texts after the numbers, whatever the direction
    page.locator("#table thead button").nth(1).focus()
    page.keyboard.press("Enter")
    assert column(page, 3)[0] == "0.9000" and column(page, 3)[-1] == "–"
    for text, names in {
        "learning_rate>0.005 width=16": ["★ lr=0.1,width=16", "lr=0.01,width=16"],
        "NO MEM": [],
        "width=-": ["odd"],
        "status!=finished": ["odd"],
        '"lr=0.001,"': ["lr=0.001,width=16", "lr=0.001,width=32"],
    }.items():
        page.locator("#filter").fill(text)
        assert column(page, 2) == names
    for text, problem in {"widht>3": "no column “widht”", "width>x": "width>: give a number"}.items():
        page.locator("#filter").fill(text)
        assert problem in page.locator("#count").inner_text()
    page.locator("#filter").fill("")
    assert page.locator("#count").inner_text() == "9 rows"


@pytest.mark.slow
def test_rows_are_selected_drawn_shown_and_compared_by_mouse_and_keys(open_page):
    page = open_page()
    names = {trace["text"].split(", ")[0] for trace in drawn(page, "curves")}
    assert names == {"lr=0.1,width=16", "lr=0.01,width=16", "lr=0.001,width=16"}
    page.locator("#clear").click()
    assert page.locator("#compare-button").is_disabled() and page.locator("#selection").inner_text() == "0 selected"
    for number in (0, 7):
        page.locator(f"#row-{number} input").focus()
        page.keyboard.press(" ")
    assert page.locator("#selection").inner_text() == "2 selected"
    assert [trace["y"] for trace in drawn(page, "curves") if trace["y"]] == [[0.1, 0.9], [0.1, 0.83]]
    assert page.locator("#curves .legendtext").all_text_contents() == ["lr=0.1,width=16", "lr=0.0001,width=32"]
    page.locator("#compare-button").click()
    text = page.locator("#compare").inner_text()
    for expected in (
        "learning_rate\t0.1\t0.0001",
        "width\t16\t32",
        "accuracy\t0.9000\t0.8300\t−0.0700",
        "commit\tdef\tabc",
    ):
        assert expected in text
    assert re.search(r"uncommitted changes\t[0-9a-f]{12}\t–", text) and "torch" not in text
    page.locator("#row-0 button").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "details-title"
    assert drawn(page, "confusion")[0]["text"] == [[4, 1], [1, 4]]
    assert "0.7500–0.8500" in page.locator("#details").inner_text()
    assert page.evaluate("document.querySelector('#details img').naturalWidth") == 400
    assert [trace["marker"]["symbol"] for trace in drawn(page, "panels")] == [
        ["circle"] * 6 + ["star", "circle"]
    ] * 2  # marked ones on top
    assert sum(len(trace["x"]) for trace in drawn(page, "parallel")) == 8 * (3 + 1)


@pytest.mark.slow
def test_a_mean_over_replicates_says_whose_evaluation_is_shown(open_page, parent):
    for seed in (1, 2):
        leave(parent / f"seed={seed}", {"learning_rate": 7, "seed": seed}, 0.95)
    evaluated(parent / "seed=1")
    page = open_page()
    page.locator("#row-0 .name").click()
    text = page.locator("#details").inner_text()
    assert "Evaluation on test of the first replicate" in text
    assert "command of the first replicate" in text


@pytest.mark.slow
def test_page_is_dark_or_light_and_fits_a_phone(open_page):
    page = open_page(color_scheme="dark", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(18, 22, 28)"
    for chart in ("curves", "panels", "parallel"):
        drawn(page, chart)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.locator("#row-0 .name").tap()
    drawn(page, "confusion")
    page.locator("#compare-button").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.getElementById('box').scrollWidth") > 390  # the table scrolls in its box


@NAMES
@pytest.mark.slow
def test_nothing_in_a_name_is_run_or_becomes_markup(open_page, parent):
    for number, evil in enumerate(EVIL):
        name = evil.replace("/", "_")[:200]
        leave(parent / name, {evil: evil, "width": evil, "learning_rate": number + 1}, 0.99 - number / 100)
        evaluated(parent / name, EVIL)
        (parent / name / "metrics_test_best.json").write_text(json.dumps(dict.fromkeys(EVIL, number)))
    page = open_page()
    for i in range(len(EVIL)):
        page.locator(f"#row-{i} .pick input").check()
        page.locator(f"#row-{i} .name").click()
        drawn(page, "confusion")
        page.locator("#compare-button").click()
    for chart in ("curves", "panels", "parallel"):
        drawn(page, chart)
    assert page.evaluate("typeof pwned") == "undefined"
    tags = page.evaluate("document.querySelectorAll('img, b, script').length")
    assert tags == 5  # the page's three scripts, the library, and a picture
    assert [name.removeprefix("★ ") for name in column(page, 2)][:2] == [EVIL[0], EVIL[1].replace("/", "_")]
    assert EVIL[0] in page.locator("#panels").text_content() and "&lt;" in page.locator("#panels").text_content()


@pytest.mark.slow
def test_a_thousand_experiments(open_page, parent):
    for number in range(1000):
        leave(
            parent / f"many{number}", {"learning_rate": 10 ** -(1 + number % 97 / 20), "width": number}, number / 2000
        )
    page = open_page("--no_fold")
    assert page.locator("#count").inner_text() == "1,009 rows, of which the first 500 are shown"
    assert len(column(page, 2)) == 500
    page.locator("#filter").fill("status=failed")
    assert column(page, 2) == ["odd"]
    page.locator("#filter").fill("")
    assert sum(len(trace["x"]) for trace in drawn(page, "panels")) >= 1000 * 2
    drawn(page, "parallel")
    assert "Drawn are the best 1000 of 1,008." in page.locator("#parallel-count").inner_text()
