"""Reads the configuration file, and says precisely what is wrong with it."""

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
from services.control import Controller
from services.runtime.config_errors import explained


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the file, the path in it, and what is allowed."""


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's reads the file of a thousand domains in a quarter of the time, and with less memory."""


class _Loader(_Safe):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> Any:
        """A mapping, without a key that stands there twice: YAML's loaders take the last, and say nothing."""
        seen: set[str] = set()
        # Whatever else is tagged as a mapping, the parent refuses.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                # As in {{ .Values.address }}, a template that nobody has filled in.
                raise yaml.MarkedYAMLError(None, None, "a key has to be a name", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key.value!r} stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; one that looks like a date or is tagged as a number, and is none, is an error with its place."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, ValueError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(None, None, f"{node.value!r} is no {kind}", node.start_mark) from error


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


_OVERRIDES: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "SLUICE_NATS_URL": (("bus", "servers"), _words),
    "SLUICE_NATS_USER": (("bus", "user"), str),
    "SLUICE_NATS_CA": (("bus", "ca"), str),
    "SLUICE_NATS_CERTIFICATE": (("bus", "certificate"), str),
    "SLUICE_NATS_KEY": (("bus", "key"), str),
    "SLUICE_BUS_PREFIX": (("bus", "prefix"), str),
    "SLUICE_SCRAPE_URLS": (("signal", "scrape", "urls"), _words),
    "SLUICE_PROMETHEUS_URL": (("signal", "prometheus", "url"), str),
    "SLUICE_RELAY_ADDRESS": (("exporter", "relay", "address"), str),
    "SLUICE_KUBERNETES_URL": (("kubernetes", "server"), str),
    "KUBECONFIG": (("kubernetes", "kubeconfig"), str),
    "SLUICE_LOG": (("log",), str),
}
"""Addresses and credentials differ between places where the rest of the file is the same."""


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, or says something that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return _moved(parse(text, str(path), environment))


def _moved(config: Config) -> Config:
    """The same configuration, in memory of its own.

    Its texts lie between those of the file's tree, and would keep the memory of the whole from being given
    back: with two thousand domains 38 MiB.
    """
    compact = msgspec.msgpack.encode(config, enc_hook=encode_unit)
    return msgspec.msgpack.decode(compact, type=Config, dec_hook=decode_unit)


def with_default_kubeconfig(config: Config, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration for a command that a person runs: where it names no cluster, kubectl's own is meant.

    A service never guesses: outside of a Pod it must be told.
    """
    settings, usual = config.kubernetes, Path.home() / ".kube" / "config"
    told = settings.kubeconfig or settings.server or environment.get("KUBERNETES_SERVICE_HOST")
    if told or not usual.exists():
        return config
    return replace(config, kubernetes=replace(settings, kubeconfig=str(usual)))


def parse(text: str, name: str, environment: Mapping[str, str]) -> Config:
    """Check a configuration given as YAML text; ``name`` stands in for the file in errors.

    Raises:
        ConfigError: it says something that is not allowed.
    """
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 - safe, as both of its parents are
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {_yaml_error(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: expected a mapping with 'domains', got {type(tree).__name__}")
    _override(tree, environment)
    try:
        config = msgspec.convert(tree, Config, dec_hook=decode_unit)
        Subjects(config.bus.prefix)
        for domain in config.domains:
            Controller(domain)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{name}: {explained(str(error), Config)}") from None
    return config


def _yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        at = error.problem_mark
        return f"line {at.line + 1}, column {at.column + 1}: {error.problem}"
    return f"not YAML: {error}"


def _override(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, (path, read) in _OVERRIDES.items():
        if not environment.get(variable):
            continue
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                break  # of a wrong type: checking it says so
        else:
            place[path[-1]] = read(environment[variable])
