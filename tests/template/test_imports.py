"""Imports point in one direction, also those within functions, and nothing runs at import time."""

import ast

import pytest
from conftest import ROOT

from toolkit.mine.__main__ import TOOLS

STARTER = {  # what each part of the starter may import, besides itself
    "utils": set(),
    "toolkit.core": {"utils"},
    "model": {"utils", "toolkit.core"},
    "evaluate": {"utils", "toolkit.core", "model"},
    "train": {"utils", "toolkit.core", "model", "evaluate"},
}
SCRIPTS = {path.removesuffix(".py"): tool for tool, paths in TOOLS.items() for path in paths if path.endswith(".py")}
RUNS_AT_IMPORT = {
    "toolkit/core/__init__.py",  # sets how threads wait, before torch is imported
    "toolkit/core/task.py",  # a spawned worker process imports the model/ of its experiment before it unpickles its data
}


def sources():
    """Return the syntax tree of each of the template's own modules, a dict from its name to (path, tree)."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("toolkit/**/*.py"), *ROOT.glob("model/*.py")]
    relative = {file: file.relative_to(ROOT) for file in sorted(files)}
    return {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): (path.as_posix(), ast.parse(file.read_text()))
        for file, path in relative.items()
    }


MODULES = sources()


def part_of(module):
    """Return the part of the repository that a module belongs to: "utils", "toolkit.core", "toolkit.<tool>", ..."""
    return ".".join(module.split(".")[:2]) if module.startswith("toolkit.") else module.split(".")[0]


def imports_of(module):
    """Return the names of the template's own modules that a module imports anywhere in its code."""
    _, tree = MODULES[module]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys() or {node.module}
    return {name for name in found & MODULES.keys() if part_of(name) != part_of(module)}


def is_allowed(module, imported):
    """Return True if the rules of DESIGN.md allow one module to import another, of another part."""
    part, other = part_of(module), part_of(imported)
    if part in STARTER:
        return other in STARTER[part]
    if part in SCRIPTS:
        return other in STARTER or other == f"toolkit.{SCRIPTS[part]}" or says_why(module, other)
    return other in ("utils", "toolkit.core") or says_why(module, other)  # a tool, which may also train


def says_why(module, other):
    """Return True if a module's docstring names the other tool, or train.py, that it uses."""
    name = "train.py" if other == "train" else other.removeprefix("toolkit.")
    return name in (ast.get_docstring(MODULES[module][1]) or "")


def test_imports_point_in_one_direction():
    assert imports_of("train") >= {"utils", "evaluate"}
    wrong = [
        f"{MODULES[module][0]} imports {other}"
        for module in MODULES
        for other in sorted(imports_of(module))
        if not is_allowed(module, other)
    ]
    assert wrong == []


def is_harmless(node):
    """Return True for a statement that only imports, defines, assigns or documents."""
    if isinstance(node, ast.If):
        only_imports = all(isinstance(line, ast.Import | ast.ImportFrom) for line in node.body + node.orelse)
        return ast.unparse(node.test) == "__name__ == '__main__'" or only_imports
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    kinds = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign
    return isinstance(node, kinds)


def test_nothing_runs_at_import_time():
    running = [
        f"{path}:{node.lineno}: {ast.unparse(node)[:60]}"
        for path, tree in MODULES.values()
        if path not in RUNS_AT_IMPORT
        for node in tree.body
        if not is_harmless(node)
    ]
    assert running == []


@pytest.mark.parametrize("script", ["train", "evaluate", *SCRIPTS])
def test_no_import_of_a_script_exists_for_its_side_effects(script):
    assert "noqa: F401" not in (ROOT / f"{script}.py").read_text(encoding="utf-8")
