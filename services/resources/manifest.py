"""A domain's custom resource as a domain, and a domain as a resource.  No I/O.

A resource has the file's fields in Kubernetes' notation.  Its mistakes are found as those of the file are, and named as
the resource has them: ``spec.targets[0].failSafe: ...``.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from types import NoneType
from typing import Any, get_args

import msgspec
from msgspec import Struct, structs

from schemas.domain import Domain, Enrolment
from schemas.reference import describe
from schemas.resource import API_VERSION, KIND, OWN_NAMESPACE, camel, fields_of
from schemas.settings import Settings
from schemas.units import Duration, Rate, decode_unit
from services.control import Controller
from services.runtime.config_errors import Mistake, Path, find_mistakes

TRUSTED = ("sluice",)
"""The namespaces whose resources may limit workloads of every namespace, unless others are configured."""
_SHOWN = 10


class InvalidResource(ValueError):
    """A resource that describes no domain; the text has its first mistakes."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        """Keep the mistakes."""
        more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        super().__init__("; ".join(map(str, mistakes[:_SHOWN])) + more)
        self.mistakes = mistakes


def domain_name(namespace: str, name: str) -> str:
    """The name on the bus of the domain that a resource describes; names of a file hold no slash."""
    return f"{namespace}/{name}"


def read_domain(namespace: str, name: str, spec: Any, trusted: Collection[str] = TRUSTED) -> Domain:
    """Read the domain that a resource describes.

    Args:
        namespace: of the resource.
        name: of the resource.
        spec: its ``spec``, as JSON.
        trusted: the namespaces whose resources may limit workloads of other namespaces.

    Raises:
        InvalidResource: it describes none.
    """
    reader = _Converter(namespace)
    tree = reader.convert(spec, Domain, ("spec",))
    if isinstance(tree, dict):
        tree["name"] = domain_name(namespace, name)
        # Before anything is imported by such a name: writers of resources choose among installed policies only.
        shadow = tree.get("shadow")
        for one in (tree.get("policy"), *(shadow if isinstance(shadow, list | tuple) else ())):
            if isinstance(one, str) and ":" in one:
                why = f"{one!r}: a resource names a policy, not a module and a class"
                raise InvalidResource([*reader.mistakes, Mistake(("spec", "policy"), why)])
    unexplained, domain = "", None
    try:
        domain = msgspec.convert(tree, Domain, dec_hook=decode_unit)
        Controller(domain)
    except Exception as error:  # noqa: BLE001 - a policy of another package may raise anything
        unexplained = str(error) or type(error).__name__
    mistakes = [*reader.mistakes]
    if unexplained:
        found: list[Mistake] = []
        with suppress(Exception):  # what could not be used may not be looked at either
            found = find_mistakes(tree, Domain)
        mistakes += map(_translate, found or [Mistake((), unexplained)])
    elif domain is not None and namespace not in trusted:
        mistakes += _find_foreign(domain, namespace, trusted)
    if mistakes or domain is None:
        raise InvalidResource(mistakes)
    return domain


def _find_foreign(domain: Domain, namespace: str, trusted: Collection[str]) -> list[Mistake]:
    """A resource must not limit what its writers have no rights on."""
    others = f"; resources in {' or '.join(trusted)} may" if trusted else ""
    why = f"a resource in namespace {namespace} may not limit workloads of another namespace{others}"
    found = [
        Mistake(("spec", "targets", number, "namespace"), why)
        for number, target in enumerate(domain.targets)
        if {target.namespace, *target.namespaces} != {namespace}
    ]
    if domain.enrol is not None and {*domain.enrol.namespaces} != {namespace}:
        found.append(Mistake(("spec", "enrol", "namespaces"), why))
    return found


def write_manifest(domain: Domain, namespace: str, name: str) -> dict[str, Any]:
    """The resource that describes a domain, without what is a default."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": _write_section(domain, namespace),
    }


def _write_section(section: Struct, namespace: str) -> dict[str, Any]:
    kind, kept = type(section), {field.name for field in fields_of(type(section))}
    found = {}
    for field in structs.fields(kind):
        value = getattr(section, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        own = default
        if (kind, field.encode_name) in OWN_NAMESPACE:
            own = (namespace,) if isinstance(value, tuple) else namespace
        if field.encode_name in kept and value != own:
            found[camel(field.encode_name)] = _write_value(value, namespace)
    return found


def _write_value(value: Any, namespace: str) -> Any:
    if isinstance(value, Struct):
        return _write_section(value, namespace)
    if isinstance(value, tuple):
        return [_write_value(item, namespace) for item in value]
    return str(value) if isinstance(value, Rate | Duration) else value


class _Converter:
    """Turns a resource's fields into the file's, and collects the keys that only the file has."""

    def __init__(self, namespace: str) -> None:
        self.mistakes: list[Mistake] = []
        self._namespace = namespace

    def convert(self, value: Any, annotation: Any, path: Path) -> Any:
        """A value of a resource as the file would have it; what is of a wrong type stays, and is found later."""
        arguments = [one for one in get_args(annotation) if one not in (NoneType, Ellipsis)]
        kind = next(
            (one for one in (annotation, *arguments) if isinstance(one, type) and issubclass(one, Settings)), None
        )
        if kind is None:
            return value
        if isinstance(value, list):
            return [self.convert(item, kind, (*path, number)) for number, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        kept = {field.name for field in fields_of(kind)}
        known = {camel(field.encode_name): field for field in structs.fields(kind) if field.encode_name in kept}
        in_file = {field.encode_name: key for key, field in known.items()}
        found: dict[str, Any] = {}
        for key, item in value.items():
            if key not in known and key in in_file:
                self.mistakes.append(Mistake((*path, key), f"unknown key; did you mean {in_file[key]!r}?"))
            elif kind is Domain and key == "name":
                self.mistakes.append(Mistake((*path, key), "unknown key; a resource is named by metadata.name"))
            field = known.get(key) or known.get(in_file.get(key, ""))
            name = key if field is None else field.encode_name
            found[name] = item if field is None else self.convert(item, field.type, (*path, key))
        for owner, name in OWN_NAMESPACE:
            if owner is kind:
                found.setdefault(name, [self._namespace] if kind is Enrolment else self._namespace)
        return found


def _translate(mistake: Mistake) -> Mistake:
    """A mistake in the file's words in those of the resource."""
    text = _file_words().sub(lambda match: camel(match[1]), mistake.text)
    text = text.replace("(allowed: name, critical", "(allowed: critical")
    if mistake.path[:1] == ("name",):
        return Mistake(("metadata", *mistake.path), text)
    inside = mistake.path[:1] == ("parameters",)  # whose names are the policy's
    steps = (step if isinstance(step, int) or inside else camel(step) for step in mistake.path)
    return Mistake(("spec", *steps), text)


@cache
def _file_words() -> re.Pattern[str]:
    """The fields' names that a resource writes in another way."""

    def words(kind: type[Struct]) -> set[str]:
        found = set()
        for field in describe(kind):
            found |= {field.name} | (words(field.section) if field.section is not None else set())
        return found

    differing = sorted(word for word in words(Domain) if camel(word) != word)
    return re.compile(rf"\b({'|'.join(differing)})\b")
