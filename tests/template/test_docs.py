"""The pages of docs/: what they say is done, in order, in a fresh copy of the repository; what they quote is there."""

import ast
import csv
import functools
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, fresh_copy, run_process, snapshot
from pages import anchors, blocks, check_command, follow, links, photos, read_page
from project_kinds import photos as signs

import evaluate
import train
from utils import read_json

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
RUN_ELSEWHERE = {"docs/many_gpus.md"}  # by test_many_gpus.py, in several processes
LANGUAGES = {"bash", "sh", "python", "json", ""}  # sh: a script for Slurm, which a test submits; "": what is printed
PAGE = read_page("docs/your_own_task.md")
BASE, *HOOKS = re.split(r"^## ", PAGE.partition("## The least that trains")[2], flags=re.MULTILINE)
HOOKS = {title: text for title, _, text in (hook.partition("\n") for hook in HOOKS)}
RESULTS = {  # what history.csv has then
    "Several losses": ["val_loss", "val_classes", "val_size"],
    "Several labels at once": ["val_exact"],
    "Metrics of the whole split": ["val_auroc", "val_recall/0", "val_recall/2"],
    "The metric that selects the best checkpoint": ["val_error_rate"],
}


def write_project(folder, *texts):
    """Write the project of docs/your_own_task.md, the code blocks of `texts` one after the other, to a folder."""
    (folder / "model").mkdir(parents=True)
    (folder / "experiments" / "base_model").mkdir(parents=True)
    files, params = {}, {}
    for text in texts:
        for block in blocks(text, "python"):
            name = re.match(r"# (\w+\.py)\n", block)[1]
            files[name] = files.get(name, "") + "\n\n" + block
        for block in blocks(text, "json"):
            params |= json.loads(block)
    for name, content in files.items():
        (folder / "model" / name).write_text(content, encoding="utf-8")
    (folder / "experiments" / "base_model" / "params.json").write_text(json.dumps(params))


@pytest.mark.parametrize("title", [None, *[title for title, text in HOOKS.items() if "```python" in text]])
def test_the_project_trains_with_each_hook(call, tmp_path, title):
    write_project(tmp_path / "my_task", BASE, HOOKS.get(title, ""))
    experiment = tmp_path / "my_task" / "experiments" / "base_model"
    code, out, err = call(train.main, "--model_dir", "my_task/experiments/base_model", "--max_steps", 9)
    assert (code, err) == (0, ""), out
    code, out, err = call(train.main, "--model_dir", "my_task/experiments/base_model")
    assert (code, err) == (0, ""), out
    assert "Resuming in epoch 2 after batch" in out
    assert "no effect" not in out
    header, *rows = (experiment / "history.csv").read_text().splitlines()
    assert len(rows) == 5
    assert set(RESULTS.get(title, ["val_accuracy"])) <= set(header.split(","))
    code, out, err = call(evaluate.main, "--model_dir", "my_task/experiments/base_model")
    assert (code, err) == (0, "")
    assert "data" not in snapshot(tmp_path / "my_task")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the pages' commands are those of a POSIX shell")
@pytest.mark.parametrize("page", [page for page in PAGES if page not in RUN_ELSEWHERE])
def test_what_a_page_says_can_be_done(tmp_path, page):
    """Its files are written and its commands run as they stand, with photos and an old project where it names some."""
    clone = fresh_copy(tmp_path / "clone")
    photos(clone / "path" / "to" / "photos")
    old = Path(shutil.copytree(ROOT / "tests" / "projects" / "classic", clone / "path" / "to" / "old_project"))
    signs(old / "data" / "64x64_SIGNS")
    write_project(clone / "my_task", BASE)
    (clone / "new_wines.csv").write_text("14.2,1.71,2.43,15.6,127,2.8,3.06,0.28,2.29,5.64,1.04,3.92,1065\n")
    printed = follow(read_page(page), clone)
    assert printed
    check = RESULTS_OF.get(page)
    if check is not None:
        check(clone, printed)


def check_reading(clone, printed):
    first, second, *_ = printed.values()
    assert "saved in epoch 2 after batch 7." in first and "Resuming in epoch 2 after batch 7" in second
    folder = clone / "experiments" / "reading"
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), int(row["epoch"])))
    evaluated = read_json(folder / "metrics_val_best.json")
    assert evaluated == {name: float(best[f"val_{name}"]) for name in evaluated}


def check_images(clone, printed):
    assert read_json(clone / "experiments/photos/metrics_test_best.json")["accuracy"] > 0.7
    assert (clone / "predictions.csv").exists() and (clone / "experiments/photos/model.onnx").exists()


def check_from_cs230(clone, printed):
    for folder in ("path/to/old_project/experiments/base_model", "experiments/signs_old"):
        assert (clone / folder / "metrics_test_best.json").exists()
    assert len(list((clone / "experiments/signs_old").glob("learning_rate=*/best.pth.tar"))) == 3
    for folder in ("model", "experiments"):  # the project is used as it is
        before, after = (
            snapshot(place / folder) for place in (ROOT / "tests/projects/classic", clone / "path/to/old_project")
        )
        assert before.items() <= after.items()
    shutil.copy(clone / "path/to/old_project/own_train.py", clone)  # its own loop runs with these helpers
    experiment = clone / "experiments" / "own_loop"
    shutil.copytree(ROOT / "tests/projects/classic/experiments/base_model", experiment)
    done = run_process(sys.executable, "own_train.py", "--model_dir", experiment, cwd=clone)
    assert done.returncode == 0, done.stderr
    results = read_json(experiment / "metrics_val_best_weights.json")
    assert results["accuracy"] >= read_json(experiment / "metrics_val_last_weights.json")["accuracy"]


RESULTS_OF = {
    "docs/reading_train_py.md": check_reading,
    "docs/your_own_images.md": check_images,
    "docs/from_cs230.md": check_from_cs230,
}


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_is_left_out(page):
    """The tests that run pages find each block; what else looks like a command is understood."""
    text = read_page(page)
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert 2 * len(fences) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
    for language, content in fences:
        assert language in LANGUAGES, page
        assert language or not re.search(r"^(python|pip|torchrun|cp|make|optuna\S*) ", content, re.MULTILINE), content
    for command in re.findall(r"`(python [^`]+)`", text):
        check_command(command)


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_the_links_of_a_page_lead_somewhere(page):
    for file, anchor in links(page):
        assert file.exists(), f"{page}: {file}"
        assert not anchor or anchor in anchors(file), f"{page}: {file}#{anchor}"


def test_the_page_about_train_py_quotes_its_loop_word_by_word():
    quotes = blocks(read_page("docs/reading_train_py.md"), "python")
    code = read_page("train.py")
    for quote in quotes:
        assert quote in code or quote in read_page("evaluate.py"), quote
    quoted = {line for quote in quotes for line in quote.splitlines()}
    for function in ast.parse(code).body:
        if isinstance(function, ast.FunctionDef) and function.name == "train":
            first, last = function.body[1].lineno, function.end_lineno  # without the docstring
            missing = [line for line in code.splitlines()[first - 1 : last] if line and line not in quoted]
            assert not missing, function.name


def test_the_names_that_stay_from_cs230_are_here():
    (block,) = blocks(read_page("docs/from_cs230.md"), "python")
    for call in (statement.value for statement in ast.parse(block).body):
        module, *names = ast.unparse(call.func).split(".")
        found = functools.reduce(getattr, names, importlib.import_module(module))
        wanted = [argument.id for argument in call.args] + [keyword.arg for keyword in call.keywords]
        there = list(inspect.signature(found).parameters.values())
        assert [parameter.name for parameter in there[: len(wanted)]] == wanted, module
        for more in there[len(wanted) :]:  # nothing further has to be given
            assert more.default is not more.empty or more.kind is more.VAR_KEYWORD, more


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Slurm and its signals are POSIX's")
def test_the_space_and_the_slurm_script_of_sweeps(tmp_path):
    """The script, as bash runs it: when the time is nearly over it saves, and submitted again it goes on."""
    page = read_page("docs/sweeps.md")
    _, space = blocks(page, "json")
    (script,) = blocks(page, "sh")
    clone = fresh_copy(tmp_path / "clone")
    (clone / "sweep.sh").write_text(script)
    sweep = clone / "experiments" / "my_sweep"
    sweep.mkdir()
    (sweep / "search_space.json").write_text(space)
    (sweep / "params.json").write_text(json.dumps({"dataset": "digits", "num_epochs": 4}))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = []
    for _ in range(2):
        job = subprocess.Popen(["bash", "sweep.sh"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(list(sweep.glob("*/best.pth.tar"))) < len(ended) + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=120)
        assert job.returncode == 143
        ended = [json.loads(path.read_text())["sessions"][-1] for path in sweep.glob("*/run.json")]
        assert all({"finished", "pruned", "stopped"} & session.keys() for session in ended), out
        assert "Run the same command to resume." in out
