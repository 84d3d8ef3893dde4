"""The memory limits of the containers in the manifests."""

import re
from pathlib import Path
from typing import Any

import yaml

from services.runtime.exit_codes import CommandFailure, ExitCode

MANIFESTS = Path(__file__).parents[3] / "manifests"
FILES = ("ml_controller_deployment.yaml", "exporter.yaml", "meter.yaml", "components/ui/ui.yaml")
_APPLICATION = "robot-factory-application.yaml"
"""Its sidecars are named ``echo``."""


def read_limits(home: Path = MANIFESTS) -> dict[str, float]:
    """The memory limit of each service's container, MiB, by its name.

    Raises:
        CommandFailure: the manifests are not there: they are no part of an installed package.
    """
    limits: dict[str, float] = {}
    for file in (*FILES, _APPLICATION):
        try:
            trees = yaml.safe_load_all((home / file).read_text(encoding="utf-8"))
        except OSError as error:
            raise CommandFailure(error, ExitCode.UNREADABLE) from None
        for container in (one for tree in trees for one in _containers(tree)):
            if file != _APPLICATION or container["name"] == "echo":
                limits[container["name"]] = _parse_mib(container["resources"]["limits"]["memory"])
    return limits


def _containers(tree: Any) -> list[dict[str, Any]]:
    """The containers of a workload; none of any other object."""
    spec = (tree or {}).get("spec") or {}
    template = (spec.get("template") or {}) if isinstance(spec, dict) else {}
    found: list[dict[str, Any]] = (template.get("spec") or {}).get("containers") or []
    return found


def _parse_mib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "Gi" else 1)
