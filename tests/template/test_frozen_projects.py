"""The frozen projects of tests/projects equal what the template ships and what its page shows."""

import re

from conftest import IMAGES, PROJECTS, ROOT
from pages import blocks, read_page

SHOWN = {"nested": "Outputs, inputs and labels that are not one tensor", "new_files": "Predictions for new files"}


def committed(folder):
    """Return the text of each file of a model/ folder or experiments/ that a person wrote, a dict."""
    files = [*folder.glob("model/*.py"), *folder.glob("experiments/*/*.json")]
    written = [file for file in files if file.name in ("net.py", "data_loader.py", "params.json", "search_space.json")]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in written}


def test_the_images_project_is_a_copy_of_model_and_experiments():
    """If not: cp -r model experiments tests/projects/images/"""
    frozen = committed(IMAGES)
    here = {name: text for name, text in committed(ROOT).items() if name in frozen or name.startswith("model/")}
    assert here == frozen


def test_the_wine_project_is_that_of_the_page_about_your_own_task():
    page = read_page("docs/your_own_task.md")
    base, *sections = re.split(r"^## ", page.partition("## The least that trains")[2], flags=re.MULTILINE)
    for block in blocks(base, "python"):
        assert_shown(block, PROJECTS / "wine" / "model")
    for name, title in SHOWN.items():
        (section,) = [text for text in sections if text.startswith(title)]
        for block in blocks(section, "python"):
            assert_shown(block, PROJECTS / "wine" / "hooks" / name)


def assert_shown(block, folder):
    """Compare a block that begins with the name of its file to that file, apart from its imports of what it uses."""
    name, _, code = block.partition("\n")
    frozen = (folder / name.removeprefix("# ")).read_text(encoding="utf-8")
    imports = re.compile(r"^import torch\n+", re.MULTILINE)
    assert imports.sub("", code).strip() == imports.sub("", frozen).strip(), folder
