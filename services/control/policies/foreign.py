"""Policies of other packages, by the name of an entry point or as ``module:Class``.

A package announces a policy in its ``pyproject.toml``:

    [project.entry-points."sluice.policies"]
    half = "my_package:Half"

What is loaded here runs in the process that asks for it, with its rights.  Its answers pass through the same checks and
the same shield as those of any policy.
"""

from importlib import import_module
from typing import Any

from msgspec import Struct

from schemas.settings import Settings
from services.control.policy import PolicyType

GROUP = "sluice.policies"
"""The group of entry points."""


class UnknownPolicy(ValueError):
    """No package has a policy of this name."""


def foreign_names() -> list[str]:
    """The names of all entry points."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - costs memory that a pod without such a policy saves

    return sorted({one.name for one in entry_points(group=GROUP)})


def load_foreign(name: str) -> PolicyType:
    """Import a policy's class.

    Raises:
        UnknownPolicy: there is no such entry point.
        ValueError: it cannot be imported, or is not a policy's class.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
    else:
        from importlib.metadata import entry_points  # noqa: PLC0415 - see above

        found = tuple(entry_points(group=GROUP, name=name))
        if not found:
            raise UnknownPolicy(f"no policy {name!r}")
        if len({one.value for one in found}) > 1:
            raise ValueError(f"policy {name!r}: several packages have one: {', '.join(one.value for one in found)}")
        module, attribute = found[0].module, found[0].attr
    try:
        imported = import_module(module)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        why = f"importing {module} failed: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            needed = "" if f"{module}.".startswith(f"{error.name}.") else f", which {module} needs"
            why = f"no module {error.name!r} is installed here{needed}"
        raise ValueError(f"policy {name!r} cannot be loaded: {why}") from None
    if not hasattr(imported, attribute):
        raise ValueError(f"policy {name!r} cannot be loaded: the module {module!r} has no {attribute!r}")
    kind = getattr(imported, attribute)
    _check(name, kind)
    return kind  # type: ignore[no-any-return]  # checked


def _check(name: str, kind: Any) -> None:
    """Whether a class has what a policy's class needs.

    Raises:
        ValueError: something is missing.
    """
    version, memory, parameters = (getattr(kind, one, None) for one in ("version", "memory_type", "parameters_type"))
    wrong = None
    if not isinstance(kind, type):
        wrong = "it is no class"
    elif not isinstance(version, str) or "/" not in version:
        wrong = "its version is not a text such as 'name/1'"
    elif not (isinstance(memory, type) and issubclass(memory, Struct)):
        wrong = "its memory_type is no msgspec.Struct"
    elif not (isinstance(parameters, type) and issubclass(parameters, Settings)):
        wrong = "its parameters_type is no schemas.settings.Settings"
    elif not callable(getattr(kind, "propose", None)):
        wrong = "it has no method 'propose'"
    if wrong:
        raise ValueError(f"policy {name!r}: {wrong}")
