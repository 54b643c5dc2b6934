"""The declared hyperparameters, as a table to read and as a JSON schema for editors.

`python -m toolkit.core.params_schema` writes experiments/params.schema.json.
"""

import json
from pathlib import Path

from tabulate import tabulate

SCHEMA = Path(__file__).resolve().parents[2] / "experiments" / "params.schema.json"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def params_table(declared):
    """Return a text table of the keys of `declared`, a pydantic model: type, bounds, default and meaning."""
    rows = []
    for name, prop in declared.model_json_schema()["properties"].items():
        bounds = ", ".join(f"{sign} {prop[bound]}" for bound, sign in BOUNDS.items() if bound in prop)
        rows.append([name, type_name(prop), bounds, json.dumps(prop.get("default")), prop.get("description", "")])
    return tabulate(rows, ["key", "type", "bounds", "default", "meaning"], tablefmt="pipe", disable_numparse=True)


def type_name(prop):
    """Return the type of a property of a JSON schema in words."""
    if "enum" in prop or "anyOf" in prop:
        return " or ".join(map(json.dumps, prop["enum"]) if "enum" in prop else map(type_name, prop["anyOf"]))
    return f"list of {type_name(prop['items'])}s" if prop.get("type") == "array" else prop.get("type", "any")


def json_schema(declared):
    """Return the JSON schema of params.json as text; editors complete and check the file by it ("$schema" names it)."""
    schema = declared.model_json_schema()
    schema["title"] = "params.json"
    schema["description"] = "The hyperparameters of an experiment. Add your own keys, and read them as params.<key>."
    for prop in schema["properties"].values():
        prop.pop("title", None)
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    from toolkit.core.task import find_task

    SCHEMA.write_text(json_schema(find_task(SCHEMA.parent).hyperparameters), encoding="utf-8")
