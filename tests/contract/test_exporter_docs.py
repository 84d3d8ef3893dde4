"""docs/exporter.md agrees with the code: it lists every metric and reason, and its settings load."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.common.histogram import BOUNDS
from services.exporter.metrics import FlowStatus, LatencyMetrics
from services.exporter.pairing import PairingTable
from services.exporter.probe_manager import probe_counter
from services.exporter.prober import Outcome
from services.exporter.replay_filter import ReplayFilter
from services.runtime.config_loader import parse

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "exporter.md").read_text(encoding="utf-8")
DOMAIN = {
    "name": "floor",
    "critical": [{"workload": "robot-control", "namespace": "factory"}],
    "targets": [{"deployment": "upload", "min": "1M", "max": "9M", "fail_safe": "2M"}],
}
REASON = re.compile(
    r'(?:UnusableFlow|_count_unusable|_drop_oldest|counts)[\[(]"([a-z-]+)"|"([a-z-]+)" if fresh else "([a-z-]+)"'
)


def test_every_metric_is_there() -> None:
    """Every metric is listed by its full name, counters as they are queried."""
    registry = CollectorRegistry()
    LatencyMetrics(["factory/robot-control"], BOUNDS, 1, registry)
    probe_counter(registry)
    registry.register(FlowStatus(PairingTable(1000, 1000, 16, 16_384), ReplayFilter()))
    names = [f"{one.name}_total" if one.type == "counter" else one.name for one in registry.collect()]
    assert len(names) >= 13
    assert [name for name in names if name not in PAGE] == []


def test_every_reason_and_outcome_is_there() -> None:
    """Every reason for a flow without latency, and every outcome of a probe, is listed."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "services" / "exporter").glob("*.py"))
    reasons = {name for names in REASON.findall(sources) for name in names if name}
    assert len(reasons) >= 20
    documented = set(re.findall(r"`([a-z-]+)`", PAGE))
    assert reasons - documented == set()
    assert set(get_args(Outcome)) - documented == set()


@pytest.mark.parametrize("section", ["exporter", "signal"])
def test_settings_load(section: str) -> None:
    """Each block of settings is a valid configuration."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"\n\n((?:    .*\n)+)", PAGE) if f"    {section}:" in block]
    assert blocks
    for block in blocks:
        domains = [{**DOMAIN, **one} for one in block.pop("domains", [DOMAIN])]
        parse(yaml.safe_dump({**block, "domains": domains}), "docs/exporter.md", {})
