"""Pages of documentation as the tests take them: what stands in them, and where it is run."""

import re
import shlex
from pathlib import Path

import numpy as np
from conftest import ROOT, run_process
from PIL import Image
from sklearn.datasets import load_sample_images

import build_dataset
import evaluate
import export
import predict
import preflight
import search_hyperparams
import synthesize_results
import train
import verify

SCRIPTS = {
    f"{script.__name__}.py": script
    for script in (
        build_dataset,
        evaluate,
        export,
        predict,
        preflight,
        search_hyperparams,
        synthesize_results,
        train,
        verify,
    )
}

THE_SUITE_ITSELF = ("make test", "pytest")
JSON_FILE = r"`([\w./]+\.json)`[^`]*\n\n```json\n(.*?)^```"  # a text that names a file, and its content
STEP = re.compile(rf"{JSON_FILE}|^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def read_page(path):
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text, language):
    """The code blocks of a page in one language, a list of str."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(block):
    return [line for line in block.splitlines() if line and line not in THE_SUITE_ITSELF]


def commands(text):
    """The lines of its bash blocks, in order."""
    return [line for block in blocks(text, "bash") for line in lines_of(block)]


def follow(text, clone):
    """Do what a page says, in order, in `clone`: write the json files it names, run its bash blocks line by line.

    Returns:
        What each command printed, a dict.
    """
    printed = {}
    for file, content, block in STEP.findall(text):
        if file:
            (clone / file).parent.mkdir(parents=True, exist_ok=True)
            (clone / file).write_text(content, encoding="utf-8")
        for command in lines_of(block):
            done = run_process("bash", "-c", command, cwd=clone)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[command] = done.stdout
    return printed


def check_command(command):
    """Of a command that is named in passing, or takes too long: it is understood."""
    script, *arguments = shlex.split(command)[1:]
    if script == "-m":
        script = f"{arguments[0].replace('.', '/')}.py"
    assert (ROOT / script).is_file(), command
    if script in SCRIPTS and "--help" not in arguments:
        SCRIPTS[script].parse_arguments(arguments)


def photos(folder):
    """Pieces of two real photographs, a class each."""
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i, (top, left) in enumerate(np.ndindex(5, 8)):
            piece = photo[80 * top : 80 * top + 80, 80 * left : 80 * left + 80]
            Image.fromarray(piece).save(folder / name / f"{i}.jpg")


def links(path):
    """The relative links of a page, a list of (file that is meant, anchor in it)."""
    found = re.findall(r"\]\(([^)\s]+)\)", read_page(path))
    inner = [link.partition("#") for link in found if "://" not in link]
    here = (ROOT / path).parent
    return [((here / file).resolve() if file else ROOT / path, anchor) for file, _, anchor in inner]


def anchors(path):
    """The names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
