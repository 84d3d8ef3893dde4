"""Records and limits that somebody else put on a target's objects: no target is lost, and no report is stuck."""

import asyncio
import json
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.domain import Critical, Domain
from schemas.messages import Action, InvalidMessage, decode, encode
from schemas.units import Duration
from services.actuator.outbox import publish_action
from services.actuator.ownership import KEY, find_record
from services.actuator.reconciler import Reconciler
from services.bus.bus import Bus as RealBus
from services.bus.bus import TooLarge
from services.bus.subjects import Subjects
from services.kube.objects import BANDWIDTH, Deployment, Pod
from tests.closed_loop.virtual import START, Actuator, Bus, Cluster, S, settle
from tests.support.kube.objects import TARGET
from tests.support.waiting import until

DOMAIN = Domain("line", (Critical("robot"),), (TARGET,), dead_man=Duration(2 * S))
SOUND: dict[str, Any] = {
    "action": "default/app:decision:-:x",
    "cause": "decision",
    "value": "5M",
    "limit": 10_000,
    "at": START,
    "was": 20_000,
    "decision": "line:1:p/1",
    "epoch": START,
    "seq": 1,
    "end": START,
    "decided": START,
    "expires": START,
    "found": "44M",
    "term": 1,
    "by": "other",
    "scope": "aggregate",
}
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 2**62 + 1, 2**63 - 1, 9_999_999_999_999_999_999, 2**70),
    *(0.5, "", "banana", "2E", [], {"a": 1}),
)
"""Beyond what a message may carry, beyond 64 bits with one more, and other types."""
HUGE = ("2E", "99E", "1e30", "9" * 100)
"""Limits that Kubernetes takes, and no message may carry."""


async def run_with(one: Deployment | Pod, annotations: dict[str, str]) -> tuple[Cluster, Bus, Actuator]:
    """An actuator that starts where an object carries these annotations, and runs for five seconds."""
    cluster, bus = Cluster("30M"), Bus(DOMAIN)
    cluster.objects[one.uid] = replace(one, metadata=replace(one.metadata, annotations=annotations))
    actuator = Actuator("a", DOMAIN, cluster, bus)
    actuator.start()
    for half in range(1, 11):
        await actuator.run_until(START + half * S // 2)
        await settle()
    actuator.kill()
    return cluster, bus, actuator


def find_unreadable(actions: list[Action]) -> list[str]:
    """Reports that the bus would not store."""
    wrong = []
    for action in actions:
        try:
            decode(Action, encode(action))
        except (InvalidMessage, OverflowError) as error:
            wrong.append(str(error))
    return wrong


@pytest.mark.parametrize("field", SOUND)
@pytest.mark.parametrize("place", ["d", "p1", "owed"])
async def test_no_record_ends_a_target_or_its_reports(field: str, place: str) -> None:
    """The fail-safe limit or less is in force, or the pause shows; each report can be stored."""
    for value, version in product(STRANGE, (1, 2)):
        tree = SOUND | {field: value}
        if place == "owed":
            tree = SOUND | {"owed": [{name: tree[name] for name in list(SOUND)[:12]}]}
        text = json.dumps(tree | {"v": version})
        one = Cluster("30M").objects["d" if place == "owed" else place]
        cluster, bus, actuator = await run_with(one, {BANDWIDTH: "5M", KEY: text})
        in_force = cluster.in_force
        is_safe = in_force is not None and in_force <= int(TARGET.fail_safe)
        assert is_safe or actuator.health.notes or actuator.health.problems, text
        assert find_unreadable(bus.actions) == [], text
        record = cluster.workload.annotations.get(KEY, "")
        assert '"by":"a1"' not in record or find_record(cluster.workload) is not None, "it cannot read its own record"


@pytest.mark.parametrize("place", ["d", "p1"])
@pytest.mark.parametrize("limit", HUGE)
async def test_a_limit_beyond_every_message_is_taken_over_and_reported(place: str, limit: str) -> None:
    """As on any object that somebody has limited before."""
    cluster, bus, _ = await run_with(Cluster("30M").objects[place], {BANDWIDTH: limit})
    assert cluster.in_force == int(TARGET.fail_safe)
    assert bus.actions
    assert find_unreadable(bus.actions) == []


class Refusing(RealBus):
    """A bus that stores no report."""

    def __init__(self, error: Exception) -> None:
        """Refuse so."""
        self.subjects, self._error, self.asked = Subjects(), error, 0

    async def publish(self, *_: object, **__: object) -> int:
        """Refuse."""
        self.asked += 1
        raise self._error


@pytest.mark.parametrize("error", [InvalidMessage("no number"), TooLarge("too large")])
async def test_a_report_that_can_never_be_stored_keeps_no_other_waiting(error: Exception) -> None:
    """It is tried whole and without its Pods, and dropped."""
    bus = Refusing(error)
    await publish_action(bus, Action("a", "line", "default/app", "decision", "applied", 1, ""), {})
    assert bus.asked == 2


async def test_an_error_in_one_targets_round_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows on /readyz, and the round is tried again."""
    monkeypatch.setattr("services.actuator.dependencies._BROKEN_S", 0.0)
    cluster = Cluster("30M")
    actuator = Actuator("a", DOMAIN, cluster, Bus(DOMAIN))
    failing = [True, True]

    async def fail_twice(_: Reconciler) -> float | None:
        if failing:
            failing.pop()
            raise ZeroDivisionError("division by zero")
        problems = actuator.health.problems["default/app round"]
        assert problems.endswith("ZeroDivisionError: division by zero")
        return 3.0

    monkeypatch.setattr(Reconciler, "_reconcile", fail_twice)
    actuator.start()
    running = asyncio.create_task(actuator.reconciler.run())
    await until(lambda: not failing and "default/app round" not in actuator.health.problems)
    actuator.reconciler.stop()
    await running
    actuator.kill()
    actuator.kill()
