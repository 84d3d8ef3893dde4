"""Adds to a validation error what would have been allowed at the place that it names."""

import re
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

_PATH = re.compile(r"`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>[^\]]*)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")


def explained(error: str, kind: type[Any]) -> str:
    """A message of msgspec's about a value of ``kind``, with what is allowed there.

    An unknown field gets the names of the fields there are, and the one that was probably meant; a
    value outside a choice gets the choices.
    """
    path = _PATH.search(error)
    there = _at(inspect.type_info(kind), path["path"] if path else "")
    unknown = _UNKNOWN.search(error)
    if unknown and isinstance(there, inspect.StructType):
        names = [field.encode_name for field in there.fields]
        close = get_close_matches(unknown["field"], names, n=1)
        meant = f"; did you mean `{close[0]}`?" if close else ""
        return f"{error}{meant} (allowed: {', '.join(names)})"
    if "Invalid enum value" in error and isinstance(there, inspect.LiteralType):
        return f"{error} (allowed: {', '.join(map(str, there.values))})"
    return error


def _at(info: inspect.Type, path: str) -> inspect.Type | None:
    for step in _STEP.finditer(path):
        found = _into(_plain(info), step["field"])
        if found is None:
            return None
        info = found
    return _plain(info)


def _into(info: inspect.Type, field: str | None) -> inspect.Type | None:
    if field is not None and isinstance(info, inspect.StructType):
        return next((one.type for one in info.fields if one.encode_name == field), None)
    if isinstance(info, inspect.DictType):
        return info.value_type
    if isinstance(info, inspect.VarTupleType | inspect.ListType):
        return info.item_type
    return None


def _plain(info: inspect.Type) -> inspect.Type:
    """The type without the None that a field may also be."""
    if isinstance(info, inspect.UnionType):
        return next(one for one in info.types if not isinstance(one, inspect.NoneType))
    return info
