"""What settings there are, read from the types: the references in ``docs/`` are generated from this."""

import ast
import inspect
from functools import cache
from textwrap import dedent
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.settings import metadata
from schemas.units import Duration, Rate


class Field(Struct, frozen=True):
    """One field as a reference documents it; ranges and defaults are in the notation of the file."""

    name: str
    kind: str
    """A word for the type: ``rate``, ``duration``, ``number``, ``list of text``."""
    unit: str
    """Empty if the type or the meaning has it."""
    default: str | None
    """None where the field is required."""
    minimum: str | None
    maximum: str | None
    choices: tuple[str, ...]
    """The only values, where there are few; else empty."""
    meaning: str
    section: type[Struct] | None
    """The struct that the field holds, or holds a list or mapping of: its fields are documented in turn."""


@cache
def describe(kind: type[Struct]) -> tuple[Field, ...]:
    """Every field of a struct, in order."""
    hints, meanings = get_type_hints(kind, include_extras=True), docstrings(kind)
    found = []
    for field in msgspec.structs.fields(kind):
        extra, bare = metadata(hints[field.name]), _bare(hints[field.name])
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        # Of a list the items, of a mapping the values.
        item = _bare(get_args(bare)[get_origin(bare) is dict]) if get_origin(bare) in (tuple, dict) else bare
        found.append(
            Field(
                name=field.encode_name,
                kind=_word(bare),
                unit=extra.get("unit", ""),
                default=None if default is msgspec.NODEFAULT else _text(default),
                minimum=_text(extra["minimum"]) if extra else None,
                maximum=_text(extra["maximum"]) if extra.get("maximum") is not None else None,
                choices=tuple(map(str, get_args(bare))) if get_origin(bare) is Literal else (),
                meaning=meanings.get(field.name, ""),
                section=item if isinstance(item, type) and issubclass(item, Struct) else None,
            )
        )
    return tuple(found)


def docstrings(kind: type[Struct]) -> dict[str, str]:
    """The text below each field of a class, by the field's name, without backticks; inherited fields included."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[: kind.__mro__.index(Struct)]):
        (node,) = ast.parse(dedent(inspect.getsource(one))).body
        assert isinstance(node, ast.ClassDef)
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text).replace("``", "")
    return found


def _bare(annotation: Any) -> Any:
    """The type without its metadata, and without what says that there is none."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    # ``X | None`` has another origin than ``Optional[X]``: by its arguments both look the same.
    parts = get_args(annotation)
    none = (type(None), UnsetType)
    if any(one in parts for one in none) and get_origin(annotation) in (Union, type(int | None)):
        return _bare(next(one for one in parts if one not in none))
    return annotation


def _word(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"list of {_word(_bare(get_args(kind)[0]))}"
    if get_origin(kind) is dict:
        return f"mapping to {_word(_bare(get_args(kind)[1]))}"
    if get_origin(kind) is Literal:
        return "choice"
    words = {bool: "true or false", int: "integer", float: "number", str: "text", Rate: "rate", Duration: "duration"}
    return words.get(kind, "section" if isinstance(kind, type) and issubclass(kind, Struct) else "anything")


def _text(value: Any) -> str:
    if value is None or value is UNSET:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Struct):
        return "its defaults"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
