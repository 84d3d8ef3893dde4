"""The recording and alert rules: valid, tested by promtool, and based on existing metrics."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import services.actuator.metrics
import services.bus.bus
import services.sampler.metrics  # noqa: F401 - importing a module registers its metrics
from services.decision.metrics import LastDecisions
from services.exporter.metrics import LATENCY, LOST
from services.meter.page import PageBuilder
from services.meter.reading import Reading

RULES = Path(__file__).parents[2] / "manifests" / "prometheus-rules.yaml"
EXPECTED = Path(__file__).parents[1] / "golden" / "prometheus-rules.yaml"


def expressions() -> str:
    """All PromQL in the rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return "\n".join(rule["expr"] for group in groups for rule in group["rules"])


@pytest.mark.prometheus
def test_promtool_finds_the_rules_valid_and_the_alerts_right() -> None:
    """Input series give the expected alerts: blind, silent, absent, paused, violated; and none without a problem."""
    for command in (["check", "rules", RULES], ["test", "rules", EXPECTED]):
        ended = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_rules_use_existing_metrics() -> None:
    """Every metric in a rule exists: a renamed metric would silently disable its alert."""
    # A metric with labels has no sample before its first use, but its family always has a name.
    families = [*REGISTRY.collect(), *LastDecisions(lambda: iter(())).collect()]
    there = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    there |= set(re.findall(r"# TYPE (\w+)", PageBuilder("n1").build(Reading(), watching=True).decode()))
    used = set(re.findall(r"\bsluice_[a-z_]+", expressions()))
    assert used
    assert used <= there


def test_rules_read_the_histogram_that_the_exporter_writes() -> None:
    """The rules use the names of the exporter's histogram."""
    text = expressions()
    assert f"{LATENCY}_bucket" in text
    assert LOST in text


def test_every_alert_is_tested() -> None:
    """Every alert has a test that makes it fire."""
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r"alertname: (\w+)", EXPECTED.read_text()))


def test_every_alert_has_a_runbook() -> None:
    """Each alert links to a section of its own in the documentation."""
    page = (RULES.parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sections = {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.MULTILINE)}
    alerts = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert {one["annotations"]["runbook_url"] for one in alerts} == {
        f"docs/troubleshooting.md#{section}" for section in sections
    }
    assert {one["alert"].lower() for one in alerts} == sections
