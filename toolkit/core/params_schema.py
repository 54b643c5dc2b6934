"""The declared hyperparameters, as a table to read and as a JSON schema for editors.

`python -m toolkit.core.params_schema` writes experiments/params.schema.json anew.
"""

import json
from pathlib import Path

from tabulate import tabulate

from utils import write_whole

SCHEMA = Path(__file__).resolve().parents[2] / "experiments" / "params.schema.json"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def params_table(declared):
    """The keys of `declared`, a pydantic model, with type, bounds, default and meaning, as a table in text."""
    rows = []
    for name, prop in declared.model_json_schema()["properties"].items():
        bounds = ", ".join(f"{sign} {prop[bound]}" for bound, sign in BOUNDS.items() if bound in prop)
        rows.append([name, kind(prop), bounds, json.dumps(prop.get("default")), prop.get("description", "")])
    headers = ["key", "type", "bounds", "default", "meaning"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def kind(prop):
    """The type of a property of a JSON schema, in words."""
    if "enum" in prop:
        return " or ".join(map(json.dumps, prop["enum"]))
    if "anyOf" in prop:
        return " or ".join(kind(option) for option in prop["anyOf"])
    if prop.get("type") == "array":
        return f"list of {kind(prop['items'])}s"
    return prop.get("type", "any")


def json_schema(declared):
    """The JSON schema of params.json, as text. Editors complete and check the file by it ("$schema" names it there)."""
    schema = declared.model_json_schema()
    schema["title"] = "params.json"
    schema["description"] = "The hyperparameters of an experiment. Further keys may be added, and read as params.<key>."
    for prop in schema["properties"].values():
        prop.pop("title", None)
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    from toolkit.core.task import find_task

    write_whole(SCHEMA, json_schema(find_task(SCHEMA.parent).hyperparameters))
