"""Reads the configuration file, and reports every mistake in it with its line."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec.structs import replace

from schemas.config import Config
from schemas.units import decode_unit, encode_unit
from services.bus.subjects import Subjects
from services.common.redaction import hide_passwords
from services.control import Controller
from services.runtime import config_errors
from services.runtime.config_errors import UNREADABLE, Mistake


class ConfigError(ValueError):
    """The configuration cannot be used.

    The text has a line for each mistake: ``FILE:LINE:COLUMN: KEY: what is there, and what is allowed``.
    """

    def __init__(self, text: str) -> None:
        """Keep the text, but for passwords in addresses that it quotes."""
        super().__init__(hide_passwords(text))


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader reads the file of a thousand domains four times as fast, and with less memory."""


class Loader(_SafeLoader):  # type: ignore[misc]
    """Collects the mistakes that do not keep the rest of the file from being read."""

    def __init__(self, text: str) -> None:
        """Read this text."""
        super().__init__(text)
        self.mistakes: list[tuple[yaml.Mark, str]] = []

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a mapping, and report a key that occurs twice: YAML's own loaders silently take the last."""
        seen: set[str] = set()
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    # As in {{ .Values.address }}, a template that was never rendered.
                    self.mistakes.append((key.start_mark, "a key has to be a name"))
                elif key.value in seen:
                    self.mistakes.append((key.start_mark, f"the key {key.value!r} occurs twice"))
                else:
                    seen.add(key.value)
            node.value = [pair for pair in node.value if isinstance(pair[0], yaml.ScalarNode)]
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value, and report one that looks like a date, or is tagged as a number, but is none."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, ValueError):
            kind = node.tag.rpartition(":")[2]
            self.mistakes.append((node.start_mark, f"{node.value!r} is not a valid {kind}"))
            return UNREADABLE


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _number(text: str) -> int | str:
    """An integer; other text stays, and is reported with the variable's name."""
    return int(text) if text.isascii() and text.isdigit() else text


def _ordinal(text: str) -> int | str:
    """The number that a text is, or that the name of a StatefulSet's Pod ends with."""
    return _number(text.rpartition("-")[2])


_OVERRIDES: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "SLUICE_NATS_URL": (("bus", "servers"), _split),
    "SLUICE_NATS_USER": (("bus", "user"), str),
    "SLUICE_NATS_CA": (("bus", "ca"), str),
    "SLUICE_NATS_CERTIFICATE": (("bus", "certificate"), str),
    "SLUICE_NATS_KEY": (("bus", "key"), str),
    "SLUICE_BUS_PREFIX": (("bus", "prefix"), str),
    "SLUICE_BUS_REPLICAS": (("bus", "replicas"), _number),
    "SLUICE_SCRAPE_URLS": (("signal", "scrape", "urls"), _split),
    "SLUICE_SCRAPE_METERS": (("signal", "scrape", "meters"), _split),
    "SLUICE_PROMETHEUS_URL": (("signal", "prometheus", "url"), str),
    "SLUICE_RELAY_ADDRESS": (("exporter", "relay", "address"), str),
    "SLUICE_KUBERNETES_URL": (("kubernetes", "server"), str),
    "SLUICE_LEASE": (("kubernetes", "lease"), str),
    "SLUICE_SHARDS": (("kubernetes", "shards"), _number),
    "SLUICE_REPLICA": (("sharding", "replica"), _ordinal),
    "KUBECONFIG": (("kubernetes", "kubeconfig"), str),
    "SLUICE_METER_ENDPOINTS": (("meter", "endpoints"), lambda text: text.lower() == "true"),
    "SLUICE_METER_KUBELET": (("meter", "kubelet"), str),
    "SLUICE_LOG": (("log",), str),
}
"""Addresses and credentials differ between installations that share the rest of the file."""


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, or has mistakes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot be read: not text in UTF-8") from None
    # Copied into memory of its own: the strings lie between those of the file's tree, and would keep the
    # memory of the whole tree from being freed (38 MiB with two thousand domains).
    compact = msgspec.msgpack.encode(parse(text, str(path), environment), enc_hook=encode_unit)
    return msgspec.msgpack.decode(compact, type=Config, dec_hook=decode_unit)


def with_default_kubeconfig(config: Config, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration for a command that a person runs: without a cluster in it, kubectl's own is used.

    A service never guesses: outside of a Pod its cluster must be configured.
    """
    settings, default = config.kubernetes, Path.home() / ".kube" / "config"
    configured = settings.kubeconfig or settings.server or environment.get("KUBERNETES_SERVICE_HOST")
    if configured or not default.exists():
        return config
    return replace(config, kubernetes=replace(settings, kubeconfig=str(default)))


def parse(text: str, name: str, environment: Mapping[str, str]) -> Config:
    """Check a configuration given as YAML text; ``name`` stands for the file in errors.

    Raises:
        ConfigError: it has mistakes.
    """
    try:
        loader = Loader(text)
        tree = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(describe_mark(name, error.problem_mark, str(error.problem))) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: expected a mapping with the key 'domains'")
    _override(tree, environment)
    unexplained = ""
    if not loader.mistakes:
        try:
            config = msgspec.convert(tree, Config, dec_hook=decode_unit)
            Subjects(config.bus.prefix)
            for domain in config.domains:
                Controller(domain)
        except ValueError as error:
            unexplained = str(error)
        else:
            if any(domain.of for domain in config.domains):
                raise ConfigError(f"{name}: domains: of, on and nodes are Sluice's own: set per alone")
            return config
    found = config_errors.find_mistakes(tree)
    if not found and unexplained:
        found = [Mistake((), unexplained)]
    raise ConfigError(_list_mistakes(name, yaml.compose(text, _SafeLoader), found, loader.mistakes, environment))


def _list_mistakes(
    name: str,
    root: yaml.Node | None,
    found: list[Mistake],
    marked: list[tuple[yaml.Mark, str]],
    environment: Mapping[str, str],
) -> str:
    """One line for each mistake: first those in the environment, then those of the file in its order."""
    lines = []
    for mistake in found:
        mark = config_errors.locate(root, mistake.path)
        variable = next(
            (one for one in _OVERRIDES if environment.get(one) and mistake.is_below(_OVERRIDES[one][0])), ""
        )
        if variable or mark is None:
            lines.append(": ".join([name, *filter(None, [variable]), str(mistake)]))
        else:
            marked.append((mark, str(mistake)))
    marked.sort(key=lambda one: (one[0].line, one[0].column))
    return "\n".join(dict.fromkeys([*lines, *(describe_mark(name, *one) for one in marked)]))


def describe_mark(name: str, mark: yaml.Mark | None, text: str) -> str:
    """A mistake with its place: ``FILE:LINE:COLUMN: text``."""
    return f"{name}: {text}" if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}: {text}"


def _override(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, (path, read) in _OVERRIDES.items():
        if not environment.get(variable):
            continue
        section = tree
        for key in path[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                break  # of a wrong type, which the check reports
        else:
            section[path[-1]] = read(environment[variable])
