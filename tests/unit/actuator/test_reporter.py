"""Reports on their way to the bus, Events on their way to people, and what is seen of the cluster."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from schemas.messages import Action, Cause, Outcome
from services.actuator.apply import carry_out
from services.actuator.informer import Seen
from services.actuator.kube_events import Events
from services.actuator.outbox import Duty, Reports
from services.actuator.ownership import UnreadableRecord, newest, operations, readable_record, record_of
from services.kube.client import T
from services.kube.objects import BANDWIDTH, Deployment, DeploymentSpec, Meta, Selector, Stale, Thing, Unavailable
from tests.support.kube.objects import after, deployment, order, plan_of, pod, record


def action(number: int, outcome: Outcome = "applied", cause: Cause = "decision", target: str = "default/app") -> Action:
    """A report."""
    return Action(f"a{number}", "line", target, cause, outcome, 1_000, "")


class Outlet:
    """A bus that is away until it is let go."""

    def __init__(self) -> None:
        """Begin away."""
        self.there = asyncio.Event()
        self.sent: list[str] = []

    async def send(self, action: Action, headers: Mapping[str, str]) -> None:
        """Take a report once the bus is there."""
        await self.there.wait()
        self.sent.append(f"{action.id}:{action.outcome}")


async def delivered(reports: Reports, outlet: Outlet) -> list[str]:
    """What arrives when the bus comes back."""
    running = asyncio.create_task(reports.run(outlet))
    await asyncio.sleep(0)
    outlet.there.set()
    end = asyncio.Event()

    async def ended() -> None:
        end.set()

    reports.finish(Duty(ended, {}, 1))
    await end.wait()
    running.cancel()
    return outlet.sent


async def test_reports_that_name_a_patch_are_all_kept() -> None:
    """However many there are while the bus is away, they arrive in order."""
    reports = Reports()
    for number in range(500):
        reports.put(action(number), {})
    assert reports.owes("a0")
    assert await delivered(reports, Outlet()) == [f"a{number}:applied" for number in range(500)]
    assert not reports.owes("a0")


async def test_reports_that_name_none_collapse() -> None:
    """Of those alike on one target the newest is enough; the one that may be on its way stays."""
    reports = Reports()
    for number in range(6):
        reports.put(action(number, "skipped"), {})
    reports.put(action(6, "skipped", "start"), {})
    reports.put(action(7, "skipped", target="default/two"), {})
    assert await delivered(reports, Outlet()) == ["a0:skipped", "a5:skipped", "a6:skipped", "a7:skipped"]


async def test_a_decision_is_acknowledged_after_its_reports() -> None:
    """And only when all of its targets are done with it."""
    outlet = Outlet()

    async def acknowledge() -> None:
        outlet.sent.append("acknowledged")

    reports = Reports()
    duty = Duty(acknowledge, {}, 2)
    reports.put(action(1), {})
    reports.finish(duty)
    reports.put(action(2), {})
    reports.finish(duty)
    reports.put(action(3), {})
    assert await delivered(reports, outlet) == ["a1:applied", "a2:applied", "acknowledged", "a3:applied"]


async def test_a_repeated_id_is_owed_until_its_last_report() -> None:
    """An action that failed and then was applied is owed until both reports are on the bus."""
    reports = Reports()
    reports.put(action(1, "failed"), {})
    reports.put(action(1), {})
    assert await delivered(reports, Outlet()) == ["a1:failed", "a1:applied"]
    assert not reports.owes("a1")


class Board:
    """A cluster that takes Events, or does not."""

    def __init__(self, *, broken: bool = False) -> None:
        """Begin empty."""
        self.written: list[str] = []
        self._broken = broken

    async def tell(self, about: Thing, reason: str, message: str, kind: str, at: str) -> None:
        """Keep an Event."""
        if self._broken:
            raise Unavailable("gone")
        self.written.append(f"{kind} {reason}: {message}")


async def told(board: Board, *messages: tuple[float, str, str]) -> list[str]:
    """What is written of messages that come at some time, with a reason."""
    now = 0.0
    events = Events(board, lambda _, __: None, lambda: now)
    running = asyncio.create_task(events.run())
    for at, reason, text in messages:
        now = at
        events.tell(deployment(), reason, text)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    running.cancel()
    return board.written


async def test_events_of_one_kind_are_counted_not_repeated() -> None:
    """At most one in thirty seconds, and the next says how many were left out."""
    messages = [(0, "LimitCut", "1"), (1, "LimitCut", "2"), (2, "LimitRaised", "up"), (3, "LimitCut", "3")]
    written = await told(Board(), *messages, (40, "LimitCut", "4"))
    assert written == [
        "Normal LimitCut: 1",
        "Normal LimitRaised: up",
        "Normal LimitCut: 4 (and 2 more since 40 s)",
    ]


async def test_some_events_are_always_written() -> None:
    """A pause is news each time."""
    assert len(await told(Board(), (0, "LimitPaused", "a"), (1, "LimitPaused", "b"))) == 2


async def test_an_event_that_cannot_be_written_stops_nothing() -> None:
    """The next one is tried."""
    assert await told(Board(broken=True), (0, "LimitCut", "a"), (1, "LimitPaused", "b")) == []


def test_what_is_older_is_not_seen_again() -> None:
    """A watch that lags behind the answer to a patch does not take the object back."""
    changes: list[int] = []
    seen = Seen(lambda: changes.append(1))
    seen.deployments([deployment("20M", version=5)])
    seen.all_pods([pod(1, "20M", version=7)])
    seen.put(deployment("10M", version=4))
    seen.put(pod(1, "10M", version=6))
    assert seen.deployment is not None
    assert (seen.deployment.bandwidth, seen.pods[0].bandwidth) == ("20M", "20M")
    assert changes


class Behind:
    """A cluster whose answer comes after something else was seen."""

    def __init__(self, meanwhile: Callable[[], None], *, stale: bool) -> None:
        """Patches succeed, or find the object changed and it is read anew."""
        self._meanwhile = meanwhile
        self._stale = stale

    async def patch(self, thing: T, operations: list[dict[str, Any]], wanted: Callable[[], bool]) -> T:
        """Done, and then something happens; or not done."""
        if self._stale:
            raise Stale("422")
        changed: T = after(thing, operations)
        self._meanwhile()
        return changed

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """As it was before something happened."""
        found: Any = deployment() if name == "app" else pod(1)
        self._meanwhile()
        return cast("T", found)


@pytest.mark.parametrize("stale", [False, True])
async def test_what_went_while_its_patch_was_under_way_does_not_come_back(*, stale: bool) -> None:
    """A Pod, and a Deployment that another took the place of: the late answer is about nothing that is there."""
    seen = Seen(lambda: None)
    seen.deployments([deployment(replicas=1)])
    seen.all_pods([pod(1)])
    other = Deployment(Meta("app", "default", "d2", "9"), DeploymentSpec(Selector({"app": "app"}), 1))

    def replaced() -> None:
        seen.remove(pod(1))
        seen.deployments([other])

    plan = plan_of(order(20_000), deployment(replicas=1), pod(1))
    done = await carry_out(Behind(replaced, stale=stale), seen, plan, lambda _: True, patient=True)
    assert done.stale is stale
    assert seen.deployment is other
    seen.put(pod(2))
    assert [one.uid for one in seen.pods] == ["p2"]


async def test_a_deployment_that_was_replaced_unseen_is_not_taken_for_its_successor() -> None:
    """Read anew, there is another under its name: nothing is patched until the watch tells of that one's Pods."""
    seen = Seen(lambda: None)
    old = Deployment(Meta("app", "default", "d0", "1"), DeploymentSpec(Selector({"app": "app"}), 0))
    seen.deployments([old])
    done = await carry_out(
        Behind(lambda: None, stale=True), seen, plan_of(order(20_000), old), lambda _: True, patient=True
    )
    assert done.stale
    assert seen.deployment is None


def test_a_new_list_forgets_what_is_gone() -> None:
    """Pods that a list does not have any more, and a Deployment that is not found."""
    seen = Seen(lambda: None)
    seen.deployments([deployment()])
    seen.all_pods([pod(1), pod(2)])
    seen.all_pods([pod(2)])
    assert [one.uid for one in seen.pods] == ["p2"]
    seen.deployments([])
    assert seen.deployment is None
    assert seen.pods == []


def test_operations_guard_what_they_change() -> None:
    """A patch says what it expects; on another state it fails, and on the same it does what it should."""
    wanted: dict[str, str | None] = {BANDWIDTH: "5M", "sluice.dev/limit": None}
    for one in (pod(1, "10M", "x"), pod(1, None), pod(1, annotations={}), pod(1, annotations={"other": "y"})):
        changed = after(one, operations(one, wanted))
        expected = {key: value for key, value in one.annotations.items() if key == "other"} | {BANDWIDTH: "5M"}
        assert changed.annotations == expected


def test_records_that_cannot_be_read() -> None:
    """Another's text, another version, or what lacks a field: said, and never taken for one of ours."""
    complete = '"action": "a", "cause": "decision", "value": "1M", "limit": 1, "at": 1'
    for text in ("x", "[]", '{"v": 1}', f'{{"v": 9, {complete}}}'):
        one = deployment("1M", text)
        assert readable_record(one) is None
        with pytest.raises(UnreadableRecord, match=r"sluice\.dev/limit"):
            record_of(one)
    assert readable_record(deployment("1M", f"{{{complete}}}")) is not None


def test_the_newest_record() -> None:
    """By the decision's sample, then by when it was written; one from the future does not count."""
    old, new, again, ahead = (record("1M", 1_000, end=end, at=at) for end, at in ((1, 9), (5, 2), (5, 3), (99, 1)))
    none: Any = record("1M", 1_000, end=None)
    assert newest([old, new, None, again, ahead, none], 50) is again
    assert newest([None, none], 50) is none
    assert newest([], 50) is None
