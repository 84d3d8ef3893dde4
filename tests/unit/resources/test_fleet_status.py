"""How a definition with ``per`` stands, as its resource's status says it: its instances by state, the worst by name."""

import msgspec
import pytest
from msgspec import structs

from schemas.messages import Action, Decision, Overrun
from schemas.resource_status import ResourceStatus
from services.resources.fleet_status import InstanceFacts, judge_instance
from services.resources.manifest import read_domain
from services.resources.status import build_status, encode_status
from tests.unit.resources.test_status import ACTIONS, DECISION, NOW, SPEC, S, conditions, facts

TEMPLATE = read_domain("factory", "line", SPEC | {"per": "node"})
FAILED = structs.replace(ACTIONS["factory/upload"], outcome="failed", reason="the API server refused it")


def judge(decision: Decision | None = DECISION, actions: dict[str, Action] = ACTIONS) -> InstanceFacts:
    """How an instance stands."""
    return judge_instance(TEMPLATE, "node-1", decision, actions, NOW)


def fleet(count: int, *others: InstanceFacts) -> ResourceStatus:
    """The status of a definition with so many instances that hold, and others."""
    good = [structs.replace(judge(), on=f"node-{number}") for number in range(count)]
    known = facts(domain=TEMPLATE, sample=None, decision=None, instances=(*good, *others))
    return build_status(known, None)


@pytest.mark.parametrize(
    ("decision", "actions", "standing", "reason"),
    [
        (DECISION, ACTIONS, "Holds", "steady"),
        (None, {}, "Waiting", "nothing was decided yet"),
        (DECISION, {}, "Waiting", "steady"),
        (structs.replace(DECISION, violated=True), ACTIONS, "Violated", "steady"),
        (structs.replace(DECISION, stress=None, reason="no flow"), ACTIONS, "Blind", "no flow"),
        (structs.replace(DECISION, end=NOW - 60 * S), ACTIONS, "Blind", "no decision for more than 5s"),
        (DECISION, {**ACTIONS, "factory/upload": FAILED}, "NotEnforced", "factory/upload: the API server refused it"),
        (
            structs.replace(DECISION, overruns=(Overrun("factory/upload", 300_000, 200_000, NOW),)),
            ACTIONS,
            "NotEnforced",
            "factory/upload sends more than its limit: 200M",
        ),
    ],
)
def test_an_instance_stands_as_its_messages_say(
    decision: Decision | None, actions: dict[str, Action], standing: str, reason: str
) -> None:
    """Each standing has its reason; where two apply, the worse one counts."""
    found = judge(decision, actions)
    assert (found.standing, found.reason) == (standing, reason)


def test_a_thousand_instances_are_counted_and_the_worst_named() -> None:
    """A status of 1,000 instances is small, and begins with those whose objectives are exceeded most."""
    bad = [
        structs.replace(judge(structs.replace(DECISION, violated=True, stress=1.1 + i / 10)), on=f"bad-{i}")
        for i in range(3)
    ]
    status = fleet(996, *bad, structs.replace(judge(structs.replace(DECISION, stress=None)), on="dark"))
    assert status.state == "Violated"
    assert [(one.state, one.count) for one in status.instances] == [("Violated", 3), ("Blind", 1), ("Holds", 996)]
    assert [one.on for one in status.worst[:4]] == ["bad-2", "bad-1", "bad-0", "dark"]
    assert (status.worst[0].stress, status.worst[0].limit, status.worst[0].reason) == ("130%", "210M", "steady")
    assert status.reason == "3 Violated, 1 Blind, 996 Holds"
    assert status.limit == "210M", "the workload's own annotation carries the sum"
    found = conditions(status)
    assert (found["Violated"], found["Blind"]) == (("True", "ObjectiveExceeded"), ("True", "NoData"))
    (message,) = [one.message for one in status.conditions if one.type == "Violated"]
    assert message == "3 of 1,000 instances; bad-2: steady"
    assert len(status.worst) == 10
    assert len(msgspec.json.encode(encode_status(status))) < 8_000


def test_an_instance_without_a_critical_pod_hides_none_that_is_blind() -> None:
    """Nothing can be measured there: it is counted apart and last, unless something else is wrong with it."""

    def stand(decision: Decision | None, actions: dict[str, Action] = ACTIONS) -> InstanceFacts:
        return judge_instance(TEMPLATE, "node-x", decision, actions, NOW, without_critical=True)

    dark = structs.replace(DECISION, stress=None, reason="no series of it on this node")
    idle = stand(dark)
    assert (idle.standing, idle.stress) == ("NoCriticalPod", None)
    assert stand(structs.replace(dark, end=NOW - 60 * S)).standing == "Blind", "nobody decides"
    assert stand(dark, {"factory/upload": FAILED}).standing == "NotEnforced"
    assert stand(None, {}).standing == "Waiting"
    assert stand(DECISION).standing == "Holds", "its latency is still in the window"
    blind = structs.replace(judge(dark), on="dark")
    status = fleet(3, *[idle] * 400, blind)
    assert [(one.state, one.count) for one in status.instances] == [("Blind", 1), ("Holds", 3), ("NoCriticalPod", 400)]
    assert (status.state, status.worst[0].on) == ("Blind", "dark")
    (message,) = [one.message for one in status.conditions if one.type == "Blind"]
    assert message == "1 of 404 instances; dark: no series of it on this node"
    status = fleet(3, *[idle] * 400)
    assert (status.state, conditions(status)["Blind"]) == ("Holds", ("False", "Measured"))
    (message,) = [one.message for one in status.conditions if one.type == "Blind"]
    assert message == "every instance with a critical Pod is measured; 400 of 403 have none"
    status = fleet(0, idle)
    assert (status.state, conditions(status)["Blind"]) == ("NoCriticalPod", ("Unknown", "NoCriticalPod"))


def test_without_trouble_all_conditions_are_good() -> None:
    """Where every instance holds, so does the definition; where there is none, it waits and says for what."""
    status = fleet(50)
    assert status.state == "Holds"
    assert set(conditions(status).values()) == {
        ("True", "Accepted"),
        ("False", "Measured"),
        ("False", "WithinObjectives"),
        ("False", "Active"),
        ("True", "InForce"),
    }
    status = fleet(0)
    assert (status.state, conditions(status)["Blind"]) == ("Waiting", ("Unknown", "NoInstance"))


def test_what_stops_all_of_them_is_reported_for_the_definition() -> None:
    """A pause by a person, and a bus that does not answer, are of the whole definition."""
    known = facts(domain=TEMPLATE, sample=None, decision=None, instances=(judge(),))
    assert build_status(structs.replace(known, pause="by hand"), None).state == "Paused"
    dark = build_status(structs.replace(known, bus_trouble="it is away"), None)
    assert conditions(dark)["Violated"] == ("Unknown", "BusUnavailable")
