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
