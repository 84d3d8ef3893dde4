"""Writes the JSON Schema of every message and of the configuration file: ``python -m schemas.generate``.

The types are the truth; the files beside this module are what clients in other languages and editors
read.  A test compares the two.  Version 1 of a message keeps its file for good: what is added to it has a
default, and anything else is a version 2 with a file of its own.
"""

import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from schemas import messages
from schemas.config import Config
from schemas.reference import Field, describe
from schemas.settings import Settings

HOME = Path(__file__).parent
CONFIG_FILE = "config.schema.json"
"""The file that holds the schema of the configuration."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: dict[str, dict[str, Any]] = {
    "true or false": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "text": {"type": "string"},
    "rate": {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?([kMGT]i?)?$"},
    "duration": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|ms|s|m|h))+$"},
    "anything": {},
}


def file_name(kind: str) -> str:
    """The file that holds a message's schema: ``sample.v1.json``."""
    return f"{kind}.v1.json"


@cache
def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of message: ``sample``, ``definition``, ``decision``, ``action`` or ``dead``."""
    root = messages.KINDS[kind]
    structs = {one.__name__: one for one in _structs(root)}
    sections = {name: _section(one) for name, one in structs.items() if issubclass(one, Settings)}
    generated = msgspec.json.schema(_refer_to_sections(root), ref_template="#/$defs/{name}")
    for name, one in structs.items():
        if name in sections:
            continue
        properties = generated["$defs"][name]["properties"]
        for field in describe(one):
            if field.meaning:
                properties[field.name]["description"] = field.meaning
    generated["$defs"] |= sections
    generated["$defs"][root.__name__]["properties"]["v"]["const"] = 1
    return {"$schema": _DIALECT, "$id": f"urn:sluice:{kind}:v1"} | generated


def _refer_to_sections(root: type[Struct]) -> type[Struct]:
    """The same struct with references in place of the file's sections, whose types only ``_section`` can describe."""
    fields = [
        (field.name, Annotated[Any, Meta(extra_json_schema={"$ref": f"#/$defs/{field.type.__name__}"})])
        if isinstance(field.type, type) and issubclass(field.type, Settings)
        else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(root)
    ]
    if all(len(field) == 3 for field in fields):
        return root
    return msgspec.defstruct(root.__name__, fields, namespace={"__doc__": root.__doc__})


def config_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file."""
    sections = {kind.__name__: _section(kind) for kind in _structs(Config)}
    return {"$schema": _DIALECT, "$id": "urn:sluice:config", "$ref": "#/$defs/Config", "$defs": sections}


def _section(kind: type[Struct]) -> dict[str, Any]:
    """What a section of the file may hold."""
    fields = describe(kind)
    return {
        "description": inspect.cleandoc(kind.__doc__ or "").replace("``", ""),
        "type": "object",
        "properties": {field.name: _property(field) for field in fields},
        "required": [field.name for field in fields if field.default is None],
        "additionalProperties": False,
    }


def _property(field: Field) -> dict[str, Any]:
    """What a field of the file may hold."""
    word = field.kind.removeprefix("list of ").removeprefix("mapping to ")
    if field.section is not None:
        allowed: dict[str, Any] = {"$ref": f"#/$defs/{field.section.__name__}"}
    else:
        allowed = {"enum": list(field.choices)} if field.choices else dict(_TYPES[word])
    if word in ("integer", "number"):
        bounds = {"minimum": field.minimum, "maximum": field.maximum}
        allowed |= {name: json.loads(bound) for name, bound in bounds.items() if bound is not None}
    if field.kind.startswith("list"):
        allowed = {"type": "array", "items": allowed}
    elif field.kind.startswith("mapping"):
        allowed = {"type": "object", "additionalProperties": allowed}
    if field.default == "none":
        allowed = {"anyOf": [allowed, {"type": "null"}]}
    return {"description": field.meaning, **allowed}


def text(document: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _structs(root: type[Struct]) -> Iterator[type[Struct]]:
    """A struct and all that its fields hold."""
    yield root
    for field in describe(root):
        if field.section is not None:
            yield from _structs(field.section)


if __name__ == "__main__":
    for one in messages.KINDS:
        (HOME / file_name(one)).write_text(text(schema(one)), encoding="utf-8")
    (HOME / CONFIG_FILE).write_text(text(config_schema()), encoding="utf-8")
