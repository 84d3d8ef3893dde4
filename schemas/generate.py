"""Writes the JSON Schema of every message: ``python -m schemas.generate``.

The message types are the truth; the files beside this module are what clients in other languages
read.  A test compares the two.  Version 1 of a message keeps its file for good: what is added to it
has a default, and anything else is a version 2 with a file of its own.
"""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from schemas import messages

HOME = Path(__file__).parent


def file_name(kind: str) -> str:
    """The file that holds a kind's schema: ``sample.v1.json``."""
    return f"{kind}.v1.json"


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of message: ``sample``, ``decision``, ``action`` or ``dead``."""
    described = _descriptions()
    generated = msgspec.json.schema(messages.KINDS[kind], ref_template="#/$defs/{name}")
    for name, definition in generated["$defs"].items():
        for field, text in described.get(name, {}).items():
            definition["properties"][field]["description"] = text
    generated["$defs"][messages.KINDS[kind].__name__]["properties"]["v"]["const"] = 1
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:sluice:{kind}:v1"}
    return head | generated


def text(kind: str) -> str:
    """A kind's schema as its file holds it."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def _descriptions() -> dict[str, dict[str, str]]:
    """What the types say of their fields, by class and field: the string that follows a field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(messages)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found[node.name] = {}
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    fields[name] = inspect.cleandoc(said).replace("``", "")
    return found


if __name__ == "__main__":
    for one in messages.KINDS:
        (HOME / file_name(one)).write_text(text(one), encoding="utf-8")
