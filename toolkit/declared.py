"""The declared hyperparameters, as a table to read and as a JSON schema for editors.

    python -m toolkit.declared                # writes experiments/params.schema.json anew
"""

import json
from pathlib import Path

from tabulate import tabulate

from utils import write_whole

SCHEMA = Path(__file__).resolve().parent.parent / "experiments" / "params.schema.json"
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}


def params_table(declared):
    """The keys of `declared`, a pydantic model, with type, bounds, default and meaning, as a table in text."""
    rows = []
    for name, field in declared.model_fields.items():
        kind = getattr(field.annotation, "__name__", "") if isinstance(field.annotation, type) else ""
        kind = kind if kind and "[" not in str(field.annotation) else str(field.annotation).replace("typing.", "")
        bounds = [f"{sign} {getattr(m, bound)}" for m in field.metadata for bound, sign in SIGNS.items() if hasattr(m, bound)]
        rows.append([name, kind, ", ".join(bounds), json.dumps(field.get_default()), field.description])
    headers = ["key", "type", "bounds", "default", "meaning"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def json_schema(declared):
    """The JSON schema of params.json, as text. Editors complete and check the file by it ("$schema" names it there)."""
    schema = declared.model_json_schema()
    schema.pop("description", None)
    schema["title"] = "params.json: the hyperparameters of an experiment"
    for name, prop in schema["properties"].items():
        prop.pop("title", None)
        prop["description"] = declared.model_fields[name].description
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    from toolkit.task import find_task

    write_whole(SCHEMA, json_schema(find_task(SCHEMA.parent).hyperparameters))
