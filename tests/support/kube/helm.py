"""The chart, rendered or installed with a real helm."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.kube.manifests import MANIFESTS

CHART = MANIFESTS / "chart"


class HelmFailure(AssertionError):
    """Helm ended with an error; the message is its output."""


def helm(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run helm; return its output.

    Raises:
        HelmFailure: it failed.
    """
    done = subprocess.run(
        ["helm", *words], capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if done.returncode:
        raise HelmFailure(done.stderr)
    return done.stdout


def render(*words: str, namespace: str = "sluice", chart: Path = CHART) -> list[dict[str, Any]]:
    """The objects that ``helm template`` renders."""
    return [one for one in yaml.safe_load_all(helm("template", "sluice", str(chart), "-n", namespace, *words)) if one]


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str | None, str], dict[str, Any]]:
    """Objects by kind, namespace and name."""
    found = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects), "an object is there twice"
    return found
