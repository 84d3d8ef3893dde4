"""The base of everything that a user may set.

A field declares its range and unit once, beside its type; the text below the field is its meaning:

    cut: Annotated[float, between(0.05, 0.95)] = 0.5
    \"\"\"Share of its limit that a target keeps after a violation.\"\"\"

``Settings`` checks the ranges whenever a value is built, from a file or in code.  ``schemas.reference`` lists
the fields for documentation.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct


def between(low: float, high: float | None = None, unit: str = "") -> Meta:
    """The range of a field, both ends included; without ``high`` it is open above.  None always passes."""
    return Meta(extra={"minimum": low, "maximum": high, "unit": unit})


def find_repeated(keys: Iterable[str]) -> list[str]:
    """The keys that occur more than once, in order."""
    return sorted(key for key, count in Counter(keys).items() if count > 1)


Share = Annotated[float, between(0, 1, unit="share")]
Seconds = Annotated[float, between(0, 86_400, unit="s")]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """A section of settings.  A subclass with checks of its own calls ``super().__post_init__()``."""

    def __post_init__(self) -> None:
        """Check the declared ranges.

        Raises:
            ValueError: a value is outside its range.
        """
        for name, low, high in _ranges(type(self)):
            value = getattr(self, name)
            if value is None or (low <= value and (high is None or value <= high)):
                continue
            if high is None:
                raise ValueError(f"{name} {value} is below {low}")
            raise ValueError(f"{name} {value} is outside {low} to {high}")


@cache
def _ranges(kind: type[Settings]) -> tuple[tuple[str, Any, Any], ...]:
    found = []
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        extra = metadata(annotation)
        if extra:
            found.append((name, extra["minimum"], extra["maximum"]))
    return tuple(found)


def metadata(annotation: Any) -> dict[str, Any]:
    """What ``between`` declared of a field: minimum, maximum and unit; empty without."""
    if get_origin(annotation) is not Annotated:
        return {}
    return next((one.extra or {} for one in get_args(annotation)[1:] if isinstance(one, Meta)), {})
