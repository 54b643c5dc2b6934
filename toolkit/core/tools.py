"""Tools that the core uses when they are there; a clone may have deleted them."""

import importlib


def find_tool(name):
    """Return the module `toolkit.<name>`, or None if this clone does not have that tool."""
    try:
        return importlib.import_module(f"toolkit.{name}")
    except ModuleNotFoundError as error:
        if error.name and f"toolkit.{name}".startswith(error.name):  # the tool itself, not one of its dependencies
            return None
        raise


def find_classic_helper(module, name):
    """Return a helper that `module` had in CS230's template; called by the `__getattr__` of that module (PEP 562)."""
    helpers = None if name.startswith("__") else find_tool("cs230.classic_helpers")
    if helpers is not None and name in helpers.CLASSIC.get(module, ()):
        return getattr(helpers, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name)
