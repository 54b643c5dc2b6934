"""Imports run one way, those within functions too: utils, toolkit, model, evaluate, train, search_hyperparams."""

import ast
from graphlib import TopologicalSorter

from conftest import ROOT

ORDER = ["utils", "toolkit", "model", "evaluate", "train", "search_hyperparams"]
# what trains many experiments
ELSEWHERE = {
    "toolkit": "utils",
    "toolkit.sweep": "search_hyperparams",
}


def imports():
    """What each of the template's own modules imports of the others, a dict from name to set of names."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("toolkit/**/*.py"), *ROOT.glob("model/*.py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    graph = {}
    for name, file in zip(names, files, strict=True):
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} & set(names) or {node.module}
        graph[name] = found & set(names)
    return graph


def place(name):
    """The number of a module in ORDER; of a script that is not there, the last."""
    room = ".".join(name.split(".")[:2])
    first = ELSEWHERE.get(room, name.partition(".")[0])
    return ORDER.index(first) if first in ORDER else len(ORDER)


def test_there_is_no_circle():
    graph = imports()
    assert "toolkit.core.optimizer_steps" in graph["train"] and "evaluate" in graph["train"]
    TopologicalSorter(graph).prepare()  # else a CycleError, which names the circle


def test_imports_run_one_way():
    assert (
        place("toolkit.sweep.pool")
        > place("train")
        > place("toolkit.core.optimizer_steps")
        > place("utils")
    )
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if place(other) > place(name)
    ]
    assert upwards == []
