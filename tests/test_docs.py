"""docs/your_own_task.md: its project trains, and with each of its hooks added to it."""

import json
import re

import pytest
from conftest import ROOT, snapshot

import evaluate
import train

PAGE = (ROOT / "docs" / "your_own_task.md").read_text(encoding="utf-8")
BASE, *HOOKS = re.split(r"^## ", PAGE.partition("## The least that trains")[2], flags=re.MULTILINE)
HOOKS = {title: text for title, _, text in (hook.partition("\n") for hook in HOOKS)}
RESULTS = {  # what history.csv has then
    "Several losses": ["val_loss", "val_classes", "val_size"],
    "Several labels at once": ["val_exact"],
    "Metrics of the whole split": ["val_auroc", "val_recall/0", "val_recall/2"],
    "The metric that selects the best checkpoint": ["val_error_rate"],
}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def write_project(folder, *texts):
    """Write the project of the page, the code blocks of `texts` one after the other, to a folder."""
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
        (folder / "model" / name).write_text(content)
    (folder / "experiments" / "base_model" / "params.json").write_text(json.dumps(params))


@pytest.mark.parametrize("title", [None, *[title for title, text in HOOKS.items() if "```python" in text]])
def test_the_project_trains_with_each_hook(call, tmp_path, title):
    write_project(tmp_path / "my_task", BASE, HOOKS.get(title, ""))
    experiment = tmp_path / "my_task" / "experiments" / "base_model"
    code, out, err = call(train.main, "--model_dir", "my_task/experiments/base_model", "--max_steps", 9)
    assert (code, err) == (0, ""), out
    code, out, err = call(train.main, "--model_dir", "my_task/experiments/base_model")
    assert (code, err) == (0, ""), out
    assert "Going on in epoch 2 after batch" in out
    assert "no effect" not in out
    header, *rows = (experiment / "history.csv").read_text().splitlines()
    assert len(rows) == 5
    assert set(RESULTS.get(title, ["val_accuracy"])) <= set(header.split(","))
    code, out, err = call(evaluate.main, "--model_dir", "my_task/experiments/base_model")
    assert (code, err) == (0, "")
    assert "data" not in snapshot(tmp_path / "my_task")


def test_its_commands_are_those_that_were_tried():
    commands = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert "python train.py --model_dir my_task/experiments/base_model" in commands
    for link in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert (ROOT / link).exists(), link
