"""Finds every mistake in a configuration that could not be decoded: the place, what is there, and what is allowed.

Decoding stops at the first mistake, and names types of Python.  This walk over the same types goes on,
and speaks the language of the file.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
import yaml

from schemas.config import BusConfig, Config
from schemas.domain import Domain
from schemas.units import Duration, Rate, decode_unit
from services.bus.subjects import Subjects
from services.control import Controller
from services.control.policies import find_policy, policy_names
from services.control.policies.foreign import UnknownPolicy

Path = tuple[str | int, ...]
"""Keys and indices that lead from the top of the file to a value."""

UNREADABLE: Any = object()
"""Stands for a value whose own mistake the YAML loader has reported."""
_WRONG: Any = object()
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Mistake(NamedTuple):
    """One required change."""

    path: Path
    text: str

    def __str__(self) -> str:
        """The path as people write it, and the text: ``bus.servers[0]: ...``."""
        keys = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return f"{keys.removeprefix('.')}: {self.text}" if keys else self.text

    def is_below(self, path: Path) -> bool:
        """Whether it is at ``path`` or in the value there."""
        return self.path[: len(path)] == path


def find_mistakes(tree: Any, kind: type[msgspec.Struct] = Config) -> list[Mistake]:
    """Every mistake in what a file holds of a type; empty where it can be decoded and all checks pass."""
    walk = _Walk()
    walk.check(tree, kind, ())
    return walk.mistakes


def locate(root: yaml.Node | None, path: Path) -> yaml.Mark | None:
    """Where in the file a path leads: to a key, or an item of a list; to the nearest one above where it is absent."""
    mark = None if root is None else root.start_mark
    for step in path:
        if isinstance(root, yaml.MappingNode):
            # Of a key that occurs twice the last is read.
            pair = next((pair for pair in reversed(root.value) if pair[0].value == str(step)), None)
            if pair is None:
                break
            mark, root = pair[0].start_mark, pair[1]
        elif isinstance(root, yaml.SequenceNode) and isinstance(step, int) and step < len(root.value):
            root = root.value[step]
            mark = root.start_mark
        else:
            break
    return mark


class _Walk:
    """Decodes part by part, and collects what cannot be decoded."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._known: set[Mistake] = set()

    def check(self, value: Any, annotation: Any, path: Path) -> Any:
        """Decode a value; gives ``_WRONG`` after a mistake in it, and a list without its wrong items."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if value is UNREADABLE:
            return _WRONG
        if origin is Annotated:
            return self.check(value, arguments[0], path)
        if origin in (Union, UnionType):
            kind = next(kind for kind in arguments if kind not in (NoneType, msgspec.UnsetType))
            return None if value is None and NoneType in arguments else self.check(value, kind, path)
        if origin in (tuple, dict):
            check = self._check_list if origin is tuple else self._check_mapping
            return check(value, arguments, path)
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            return self._check_section(value, annotation, path)
        return self._check_scalar(value, annotation, path)

    def _check_section(self, value: Any, kind: type[msgspec.Struct], path: Path) -> Any:
        if not isinstance(value, dict):
            return self._reject(path, f"expected a mapping, got {_describe(value)}")
        before = len(self.mistakes)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in value.keys() - fields.keys():
            close = get_close_matches(str(key), fields, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            self._reject((*path, key), f"unknown key{meant} (allowed: {', '.join(fields)})")
        right = {}
        for name, field in fields.items():
            if name in value:
                found = self.check(value[name], field.type, (*path, name))
                if found is not _WRONG:
                    right[field.name] = found
            elif field.required:
                self._reject(path, f"the key {name!r} is missing")
        if len(self.mistakes) == before and (section := self._build(kind, right, path)) is not _WRONG:
            return section
        if kind is not Config:
            self._check_each(kind, right, path)
        elif (right.get("domains") or value.get("domains") == []) and ("signal" in right or "signal" not in value):
            # What concerns several domains is checked among those that are right.
            self._build(kind, {name: right[name] for name in ("domains", "signal") if name in right}, path)
        return _WRONG

    def _build(self, kind: type[msgspec.Struct], fields: Mapping[str, Any], path: Path) -> Any:
        """Run the checks that concern a section as a whole."""
        before, section = len(self.mistakes), None
        try:
            section = kind(**fields)
            if isinstance(section, BusConfig):
                Subjects(section.prefix)
            elif isinstance(section, Domain):
                self._check_policies(section, path)
        except ValueError as error:
            for text in str(error).split("\n"):
                name = text.partition(" ")[0].rstrip(":")
                at = (*path, name) if name in fields else path
                self._reject(at, text.removeprefix(f"{name}: ") if name in fields else text)
        return section if len(self.mistakes) == before else _WRONG

    def _check_each(self, kind: type[msgspec.Struct], right: Mapping[str, Any], path: Path) -> None:
        """Check fields one by one, with defaults for the others: a section's own check stops at the first."""
        required = [field.name for field in msgspec.structs.fields(kind) if field.required]
        if not right.keys() >= set(required):
            return
        for name, value in right.items():
            try:
                kind(**{**{one: right[one] for one in required}, name: value})
            except ValueError as error:
                if str(error).startswith((f"{name} ", f"{name}: ")):
                    self._reject((*path, name), str(error).removeprefix(f"{name}: "))

    def _check_policies(self, domain: Domain, path: Path) -> None:
        before = len(self.mistakes)
        shadow = ((("shadow", index), name) for index, name in enumerate(domain.shadow))
        for at, name in ((("policy",), domain.policy), *shadow):
            try:
                kind = find_policy(name)
            except UnknownPolicy:
                self._reject((*path, *at), f"there is no policy {name!r} (allowed: {', '.join(policy_names())})")
            except ValueError as error:
                self._reject((*path, *at), str(error))
            else:
                if at == ("policy",):
                    self.check(domain.parameters, kind.parameters_type, (*path, "parameters"))
        if len(self.mistakes) == before:
            Controller(domain)

    def _check_list(self, value: Any, kinds: tuple[Any, ...], path: Path) -> Any:
        if not isinstance(value, list | tuple):
            return self._reject(path, f"expected a list, got {_describe(value)}")
        found = [self.check(item, kinds[0], (*path, index)) for index, item in enumerate(value)]
        return tuple(item for item in found if item is not _WRONG)

    def _check_mapping(self, value: Any, kinds: tuple[Any, ...], path: Path) -> Any:
        if not isinstance(value, dict):
            return self._reject(path, f"expected a mapping, got {_describe(value)}")
        for key, item in value.items():
            for part, kind in zip((key, item), kinds, strict=True):
                self.check(part, kind, (*path, key))
        return value

    def _check_scalar(self, value: Any, kind: Any, path: Path) -> Any:
        try:
            return decode_unit(kind, value) if kind in (Rate, Duration) else msgspec.convert(value, kind)
        except msgspec.ValidationError:
            choices = f"one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is Literal else ""
            return self._reject(path, f"expected {choices or _WORDS.get(kind, kind)}, got {_describe(value)}")
        except ValueError as error:
            return self._reject(path, str(error))

    def _reject(self, path: Path, text: str) -> Any:
        if (mistake := Mistake(path, text)) not in self._known:
            self._known.add(mistake)
            self.mistakes.append(mistake)
        return _WRONG


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return repr(value)
    names = {NoneType: "nothing", dict: "a mapping", list: "a list"}
    return names.get(type(value), f"the date {value}")
