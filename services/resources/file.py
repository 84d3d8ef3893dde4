"""Reads domains' resources from a file, and reports every mistake in them with its line."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from schemas.domain import Domain
from schemas.resource import API_VERSION, KIND
from services.resources.manifest import TRUSTED, InvalidResource, read_domain, write_manifest
from services.runtime.config_errors import Mistake, locate
from services.runtime.config_loader import ConfigError, Loader, describe_mark


def has_resources(text: str) -> bool:
    """Whether a text may hold resources of domains, and is therefore no configuration file."""
    return f"kind: {KIND}" in text or f'kind: "{KIND}"' in text or f'"kind": "{KIND}"' in text


def load_resources(path: Path) -> tuple[Domain, ...]:
    """Read the domains of all resources in a file; other documents in it are left out.

    Raises:
        ConfigError: it cannot be read, or has mistakes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = Loader(text)
        nodes, trees = list(yaml.compose_all(text, yaml.SafeLoader)), list[Any]()
        while loader.check_data():
            trees.append(loader.get_data())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(describe_mark(str(path), error.problem_mark, str(error.problem))) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    found: list[Domain] = []
    places = [*loader.mistakes]
    for node, tree in zip(nodes, trees, strict=True):
        if isinstance(tree, dict) and tree.get("kind") == KIND:
            domain, mistakes = _read(tree)
            found += [domain] if domain is not None else []
            places += [(locate(node, one.path) or node.start_mark, str(one)) for one in mistakes]
    if places:
        places.sort(key=lambda one: (one[0].line, one[0].column))
        lines = dict.fromkeys(describe_mark(str(path), *place) for place in places)
        raise ConfigError("\n".join(lines))
    return tuple(found)


def _read(tree: dict[str, Any]) -> tuple[Domain | None, list[Mistake]]:
    """One resource's domain, or its mistakes."""
    mistakes = []
    if tree.get("apiVersion") != API_VERSION:
        mistakes.append(Mistake(("apiVersion",), f"expected {API_VERSION}, got {tree.get('apiVersion')!r}"))
    meta = tree.get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(name, str) or not name:
        return None, [*mistakes, Mistake(("metadata",), "the key 'name' is missing")]
    try:
        return read_domain(str(meta.get("namespace") or "default"), name, tree.get("spec")), mistakes
    except InvalidResource as error:
        return None, mistakes + error.mistakes


def write_resources(domains: Iterable[Domain]) -> str:
    """Domains of a configuration file as resources, in YAML: each in its targets' namespace, if that is one."""
    trees = []
    for domain in domains:
        namespaces = {target.namespace for target in domain.targets}
        namespace = namespaces.pop() if len(namespaces) == 1 else TRUSTED[0]
        trees.append(write_manifest(domain, namespace, domain.name.rpartition("/")[2]))
    return yaml.safe_dump_all(trees, sort_keys=False)
