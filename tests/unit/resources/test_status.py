"""How a domain stands, as its resource's status says it."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from schemas.messages import Action, CriticalMeasure, Decision, Overrun, Sample, State, TargetDecision, TargetMeasure
from schemas.resource import build_definition
from schemas.resource_status import ResourceStatus
from services.definitions.enrolment import MOST_TARGETS
from services.resources.manifest import read_domain
from services.resources.status import Facts, build_status, encode_status, read_status
from tests.support.kube.custom_resources import admit

S = 10**9
NOW = 1_790_000_000 * S
SPEC: dict[str, Any] = {
    "critical": [{"workload": "robot"}, {"workload": "scanner", "p95": "10ms"}],
    "targets": [
        {"deployment": "upload", "min": "5M", "max": "900M", "failSafe": "20M"},
        {"deployment": "backup", "min": "5M", "max": "90M", "failSafe": "5M"},
    ],
}
DOMAIN = read_domain("factory", "line", SPEC)
SAMPLE = Sample(
    domain=DOMAIN.name,
    start=NOW - 3 * S,
    end=NOW - S,
    period=S // 2,
    source="scrape",
    critical=(
        CriticalMeasure("factory/robot", jitter=0.00041, p95=0.00184, observations=500),
        CriticalMeasure("factory/scanner", jitter=0.0002, p95=0.00312, observations=500),
    ),
    targets=(TargetMeasure("factory/upload", 123_456), TargetMeasure("factory/backup", 4_321)),
)
DECISION = Decision(
    domain=DOMAIN.name,
    sample=SAMPLE.id,
    end=SAMPLE.end,
    expires=NOW + 4 * S,
    targets=(
        TargetDecision("factory/upload", 200_000, 200_000, "none", 190_000),
        TargetDecision("factory/backup", 10_000, 10_000, "clamp", 10_000),
    ),
    reason="steady",
    state=State(epoch=1, seq=1, end=SAMPLE.end, shield={}, policy="learned/7"),
    policy="learned/7",
    stress=0.92,
)


def report(target: str, limit: int, **more: Any) -> Action:
    """What the actuator did to a target."""
    fields: dict[str, Any] = {"cause": "decision", "outcome": "applied", "reason": "as decided"}
    return Action(id="a", domain=DOMAIN.name, target=target, limit=limit, **(fields | more))


ACTIONS = {"factory/upload": report("factory/upload", 200_000), "factory/backup": report("factory/backup", 10_000)}


def facts(**changed: Any) -> Facts:
    """A domain of which all is well, and what differs."""
    fields = {"domain": DOMAIN, "sample": SAMPLE, "decision": DECISION, "actions": ACTIONS, "now": NOW, "generation": 3}
    return Facts(**{**fields, **changed})


def conditions(status: ResourceStatus) -> dict[str, tuple[str, str]]:
    """Status and reason, by type."""
    return {one.type: (one.status, one.reason) for one in status.conditions}


def test_the_columns_of_a_domain_that_holds() -> None:
    """Figures of the worst critical workload, in two digits, and of all targets together."""
    status = build_status(facts(), None)
    assert (status.state, status.policy, status.reason) == ("Holds", "learned/7", "steady")
    assert (status.p95, status.objective, status.jitter) == ("1.8ms", "2ms", "410us")
    assert (status.limit, status.use) == ("210M", "130M")
    assert [(one.target, one.limit, one.use, one.rule) for one in status.targets] == [
        ("factory/upload", "200M", "120M", "none"),
        ("factory/backup", "10M", "4300k", "clamp"),
    ]
    assert conditions(status) == {
        "Ready": ("True", "Accepted"),
        "Blind": ("False", "Measured"),
        "Violated": ("False", "WithinObjectives"),
        "Paused": ("False", "Active"),
        "Enforced": ("True", "InForce"),
    }
    assert status.observed_generation == 3


def after(message: Any, **changed: Any) -> Any:
    """A message with changes."""
    return msgspec.structs.replace(message, **changed)


@pytest.mark.parametrize(
    ("changed", "state", "kind", "expected"),
    [
        ({"domain": None, "refusal": "no"}, "Refused", "Ready", ("False", "Refused")),
        ({"refusal": "no"}, "Holds", "Ready", ("False", "Refused")),
        ({"domain": None}, "Waiting", "Ready", ("Unknown", "Waiting")),
        ({"pause": "by hand"}, "Paused", "Paused", ("True", "Annotation")),
        ({"sample": None}, "Waiting", "Blind", ("Unknown", "NoSample")),
        ({"sample": after(SAMPLE, no_data="scrape failed")}, "Blind", "Blind", ("True", "NoData")),
        ({"now": NOW + 60 * S}, "Blind", "Blind", ("True", "NoSample")),
        (
            {"sample": after(SAMPLE, critical=(after(SAMPLE.critical[0], observations=3),))},
            "Blind",
            "Blind",
            ("True", "NoData"),
        ),
        ({"bus_trouble": "away", "sample": None}, "Waiting", "Blind", ("Unknown", "BusUnavailable")),
        ({"decision": after(DECISION, violated=True)}, "Violated", "Violated", ("True", "ObjectiveExceeded")),
        ({"sample": None, "decision": after(DECISION, violated=True)}, "Waiting", "Violated", ("Unknown", "Blind")),
        ({"actions": {}}, "Waiting", "Enforced", ("Unknown", "Waiting")),
        (
            {"decision": after(DECISION, overruns=(Overrun("factory/upload", 300_000, 200_000, NOW),))},
            "NotEnforced",
            "Enforced",
            ("False", "NotEnforced"),
        ),
        (
            {"actions": {**ACTIONS, "factory/backup": report("factory/backup", 10_000, outcome="failed")}},
            "NotEnforced",
            "Enforced",
            ("False", "PatchFailed"),
        ),
        (
            {"actions": {**ACTIONS, "factory/backup": report("factory/backup", 10_000, partial=True)}},
            "NotEnforced",
            "Enforced",
            ("False", "PatchFailed"),
        ),
        (
            {"actions": {**ACTIONS, "factory/backup": report("factory/backup", 1, outcome="skipped", paused=True)}},
            "Paused",
            "Paused",
            ("True", "TargetPaused"),
        ),
    ],
)
def test_what_is_wrong_shows(changed: dict[str, Any], state: str, kind: str, expected: tuple[str, str]) -> None:
    """In the state's word, and in the condition with its reason."""
    status = build_status(facts(**changed), None)
    assert (status.state, conditions(status)[kind]) == (state, expected)


def test_every_reason_is_documented() -> None:
    """People script against reasons: docs/resources.md names each that the status may have."""
    root = Path(__file__).parents[3]
    source = (root / "services" / "resources" / "status.py").read_text(encoding="utf-8")
    reasons = set(re.findall(r'"(?:True|False|Unknown)", "(\w+)"', source)) | {"DryRun", "PatchFailed"}
    assert len(reasons) >= 20
    page = (root / "docs" / "resources.md").read_text(encoding="utf-8")
    assert {one for one in reasons if f"`{one}`" not in page} == set()


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    """As Kubernetes' users expect of ``lastTransitionTime``; a message alone changes nothing."""
    first = build_status(facts(), None)
    later = build_status(facts(now=NOW + 2 * S, decision=after(DECISION, violated=True)), first)
    times = {one.type: one.last_transition_time for one in later.conditions}
    begun = {one.type: one.last_transition_time for one in first.conditions}
    assert {kind for kind in times if times[kind] != begun[kind]} == {"Violated"}
    again = build_status(facts(now=NOW + 3 * S, decision=after(DECISION, violated=True)), later)
    assert again.conditions == later.conditions


def test_every_status_fits_the_schema() -> None:
    """The API server would store it unchanged, and it reads back."""
    (version,) = build_definition()["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    (first, *_), numbers = DOMAIN.targets, range(MOST_TARGETS)
    many = structs.replace(DOMAIN, targets=tuple(structs.replace(first, deployment=f"t-{i}") for i in numbers))
    changes: tuple[dict[str, Any], ...] = ({"domain": None, "refusal": "no"}, {"sample": None}, {"pause": "x" * 5000})
    for changed in ({}, {"domain": many}, *changes):
        status = build_status(facts(**changed), None)
        tree = {key: value for key, value in encode_status(status).items() if value is not None}
        stored, reasons = admit(schema, tree)
        assert (stored, reasons) == (tree, [])
        assert read_status(tree) == status


def test_what_is_absent_is_removed() -> None:
    """A merge patch leaves what it does not name: figures of an hour ago must not stay."""
    assert encode_status(build_status(facts(sample=None), None))["p95"] is None
    assert read_status({"conditions": 3}) is None
    # Also where something is absent, a condition keeps its time.
    first = build_status(facts(sample=None), None)
    again = build_status(facts(sample=None, now=NOW + 2 * S), read_status(encode_status(first)))
    assert again.conditions == first.conditions


def test_workloads_that_do_not_join_are_named() -> None:
    """In a list of their own, and in the message of Ready; a domain that nobody has joined waits."""
    why = {"factory/b": "its weight", "factory/a": "x" * 5000}
    status = build_status(facts(turned_away=why), None)
    assert [(one.workload, len(one.reason)) for one in status.refused] == [("factory/a", 1024), ("factory/b", 10)]
    ready = next(one for one in status.conditions if one.type == "Ready")
    assert ready.message == "the definition is in use; 2 workloads do not join: see status.refused"
    empty = build_status(facts(domain=None, is_open=True), None)
    assert (empty.state, conditions(empty)["Ready"]) == ("Waiting", ("False", "NoTarget"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decision": structs.replace(DECISION, definition=3)}, "decides under revision 3, and not 4"),
        (
            {"sample": structs.replace(SAMPLE, critical=SAMPLE.critical[:1])},
            "the sampler does not measure factory/scanner of revision 4",
        ),
    ],
)
def test_a_definition_that_another_service_refuses_is_not_ready(changed: dict[str, Any], message: str) -> None:
    """Once the services have had 15 s; who follows it, or has nothing to show, is not accused."""
    good = {"revision": 4, "revised": SAMPLE.end - 16 * S, "decision": structs.replace(DECISION, definition=4)}
    assert conditions(build_status(facts(**good), None))["Ready"] == ("True", "Accepted")
    status = build_status(facts(**good | changed), None)
    assert conditions(status)["Ready"] == ("False", "NotFollowed")
    assert message in next(one.message for one in status.conditions if one.type == "Ready")
    early = good | changed | {"revised": SAMPLE.end - 14 * S}
    assert conditions(build_status(facts(**early), None))["Ready"] == ("True", "Accepted")
    silent = good | {"sample": None, "decision": None}
    assert conditions(build_status(facts(**silent), None))["Ready"] == ("True", "Accepted")
