"""The outbox, Events, the observed state and the records on objects."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from msgspec.structs import replace

from schemas.messages import Action, Cause, Outcome
from services.actuator.apply import apply_plan
from services.actuator.kube_events import EventRecorder
from services.actuator.observed import ObservedState
from services.actuator.outbox import ActionOutbox, PendingAck
from services.actuator.ownership import KEY, Extent, build_patch, find_record, why_unreadable
from services.actuator.plan import find_in_force
from services.kube.changes import Listed, T, Updated
from services.kube.objects import (
    BANDWIDTH,
    Deployment,
    KubeObject,
    Meta,
    Pod,
    StaleObject,
    Unavailable,
    WorkloadSpec,
)
from services.kube.selectors import Selector
from tests.support.kube.objects import TARGET, after, deployment, order, plan_of, pod, record


def action(number: int, outcome: Outcome = "applied", cause: Cause = "decision", target: str = "default/app") -> Action:
    """A report."""
    return Action(f"a{number}", "line", target, cause, outcome, 1_000, "")


class LateBus:
    """A bus that is away at first."""

    def __init__(self) -> None:
        """Start disconnected."""
        self.there = asyncio.Event()
        self.sent: list[str] = []

    async def publish(self, action: Action, headers: Mapping[str, str]) -> None:
        """Take a report once the bus is connected."""
        await self.there.wait()
        self.sent.append(f"{action.id}:{action.outcome}")


async def deliver(outbox: ActionOutbox, bus: LateBus) -> list[str]:
    """The messages that arrive when the bus reconnects."""
    running = asyncio.create_task(outbox.run(bus.publish))
    await asyncio.sleep(0)
    bus.there.set()
    end = asyncio.Event()

    async def ended() -> None:
        end.set()

    outbox.finish(PendingAck(ended, {}, 1))
    await end.wait()
    running.cancel()
    return bus.sent


async def test_reports_that_name_a_patch_are_all_kept() -> None:
    """All reports made while the bus is away arrive in order."""
    outbox = ActionOutbox()
    for number in range(500):
        outbox.put(action(number), {})
    assert "a0" in outbox.owed
    assert await deliver(outbox, LateBus()) == [f"a{number}:applied" for number in range(500)]
    assert "a0" not in outbox.owed


async def test_reports_without_a_patch_collapse() -> None:
    """For each target and kind only the newest is kept, and the first, which may be in flight."""
    outbox = ActionOutbox()
    for number in range(6):
        outbox.put(action(number, "skipped"), {})
    outbox.put(action(6, "skipped", "start"), {})
    outbox.put(action(7, "skipped", target="default/two"), {})
    assert await deliver(outbox, LateBus()) == ["a0:skipped", "a5:skipped", "a6:skipped", "a7:skipped"]


async def test_reports_on_one_target_in_several_places_do_not_collapse() -> None:
    """Each instance of a definition has a limit of its own on the same target."""
    outbox = ActionOutbox()
    for number in range(4):
        outbox.put(replace(action(number, "unchanged"), domain=f"line@node-{number}"), {})
    assert await deliver(outbox, LateBus()) == [f"a{number}:unchanged" for number in range(4)]


async def test_a_decision_is_acknowledged_after_its_reports() -> None:
    """Only when all of its targets are finished."""
    bus = LateBus()

    async def acknowledge() -> None:
        bus.sent.append("acknowledged")

    outbox = ActionOutbox()
    pending = PendingAck(acknowledge, {}, 2)
    outbox.put(action(1), {})
    outbox.finish(pending)
    outbox.put(action(2), {})
    outbox.finish(pending)
    outbox.put(action(3), {})
    assert await deliver(outbox, bus) == ["a1:applied", "a2:applied", "acknowledged", "a3:applied"]


async def test_a_repeated_id_is_owed_until_its_last_report() -> None:
    """An action that failed and was then applied is pending until both reports are on the bus."""
    outbox = ActionOutbox()
    outbox.put(action(1, "failed"), {})
    outbox.put(action(1), {})
    assert await deliver(outbox, LateBus()) == ["a1:failed", "a1:applied"]
    assert "a1" not in outbox.owed


class FakeEvents:
    """A cluster that accepts Events, or does not."""

    def __init__(self, *, broken: bool = False) -> None:
        """Start empty."""
        self.written: list[str] = []
        self._broken = broken

    async def create_event(self, about: KubeObject, reason: str, message: str, severity: str, at: str) -> None:
        """Store an Event."""
        if self._broken:
            raise Unavailable("gone")
        self.written.append(f"{severity} {reason}: {message}")


async def record_events(sink: FakeEvents, *messages: tuple[float, str, str]) -> list[str]:
    """The Events that are written for messages, each with a time and a reason."""
    now = 0.0
    events = EventRecorder(sink, lambda: now)
    running = asyncio.create_task(events.run())
    for at, reason, text in messages:
        now = at
        events.record(deployment(), reason, text)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    running.cancel()
    return sink.written


async def test_events_of_one_kind_are_counted_not_repeated() -> None:
    """At most one in thirty seconds; the next one counts those that were left out."""
    messages = [(0, "LimitCut", "1"), (1, "LimitCut", "2"), (2, "LimitRaised", "up"), (3, "LimitCut", "3")]
    written = await record_events(FakeEvents(), *messages, (40, "LimitCut", "4"))
    assert written == [
        "Normal LimitCut: 1",
        "Normal LimitRaised: up",
        "Normal LimitCut: 4 (and 2 more since 40 s)",
    ]


async def test_some_events_are_always_written() -> None:
    """Every pause is reported."""
    assert len(await record_events(FakeEvents(), (0, "LimitPaused", "a"), (1, "LimitPaused", "b"))) == 2


async def test_an_event_that_cannot_be_written_stops_nothing() -> None:
    """The next Event is still written."""
    assert await record_events(FakeEvents(broken=True), (0, "LimitCut", "a"), (1, "LimitPaused", "b")) == []


def test_an_older_state_is_ignored() -> None:
    """A watch that lags behind the answer to a patch does not revert it, nor does a late answer."""
    changes: list[int] = []
    observed = ObservedState(lambda: changes.append(1))
    main, one = deployment("10M", version=4), pod(1, "10M", version=6)
    observed.observe(Deployment, Listed((main,)))
    observed.observe(Pod, Listed((one,)))
    observed.update(deployment("20M", version=5), since=main)
    observed.update(pod(1, "20M", version=7), since=one)
    observed.observe(Deployment, Updated(main))
    observed.observe(Pod, Updated(one))
    observed.update(deployment("10M", version=4), since=main)
    assert observed.workload is not None
    assert (observed.workload.bandwidth, observed.pods[0].bandwidth) == ("20M", "20M")
    assert changes


def test_a_server_restored_from_a_backup_is_believed() -> None:
    """After a restore the same objects have lower resource versions: a new list, and what follows, is the truth."""
    observed = ObservedState(lambda: None)
    main, one = deployment("10M", version=900), pod(1, "10M", version=901)
    observed.observe(Deployment, Listed((main,)))
    observed.observe(Pod, Listed((one,)))
    observed.update(deployment("20M", version=950), since=main)
    observed.update(pod(1, "20M", version=951), since=one)
    asked = time.monotonic()
    observed.observe(Deployment, Listed((deployment("60M", version=5),)), asked)
    observed.observe(Pod, Listed((pod(1, "60M", version=6),)), asked)
    assert observed.workload is not None
    assert (observed.workload.bandwidth, observed.pods[0].bandwidth) == ("60M", "60M")
    observed.observe(Pod, Updated(pod(1, "8M", version=7)))
    answer = deployment("8M", version=8)
    observed.update(answer, since=observed.workload)
    assert (observed.workload, observed.pods[0].bandwidth) == (answer, "8M")


class LateApi:
    """An API server whose answer arrives after another observation."""

    def __init__(self, meanwhile: Callable[[], None], *, stale: bool) -> None:
        """Patches succeed, or find the object changed and it is read again."""
        self._meanwhile = meanwhile
        self._stale = stale

    room = 12

    async def wait_for_room(self, delay_s: float = 0.0) -> None:
        """There always is."""

    async def patch_in_turn(
        self, obj: T, build: Callable[[], list[dict[str, Any]] | None], *, is_cut: bool = False
    ) -> T:
        """Apply the patch, and then cause the other event; or refuse it as stale."""
        if self._stale:
            raise StaleObject("422")
        operations = build()
        assert operations is not None
        changed: T = after(obj, operations)
        self._meanwhile()
        return changed

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Return the state before the event."""
        found: Any = deployment() if name == "app" else pod(1)
        self._meanwhile()
        return cast("T", found)


@pytest.mark.parametrize("stale", [False, True])
async def test_what_went_while_its_patch_was_under_way_does_not_come_back(*, stale: bool) -> None:
    """The late answer must not restore a deleted Pod or a replaced Deployment."""
    observed = ObservedState(lambda: None)
    observed.observe(Deployment, Listed((deployment(replicas=1),)))
    observed.observe(Pod, Listed((pod(1),)))
    other = Deployment(Meta("app", "default", "d2", "9"), WorkloadSpec(Selector({"app": "app"}), 1))

    def replaced() -> None:
        observed.remove(pod(1))
        observed.observe(Deployment, Listed((other,)))

    plan = plan_of(order(20_000), deployment(replicas=1), pod(1))
    done = await apply_plan(LateApi(replaced, stale=stale), observed, plan, lambda _: True, tolerate_stale=True)
    assert done.is_stale is stale
    assert observed.workload is other
    observed.observe(Pod, Updated(pod(2)))
    assert [one.uid for one in observed.pods] == ["p2"]


async def test_a_deployment_that_was_replaced_unseen_is_not_taken_for_its_successor() -> None:
    """Another Deployment has its name: nothing is patched until the watch has shown it and its Pods."""
    observed = ObservedState(lambda: None)
    old = Deployment(Meta("app", "default", "d0", "1"), WorkloadSpec(Selector({"app": "app"}), 0))
    observed.observe(Deployment, Listed((old,)))
    done = await apply_plan(
        LateApi(lambda: None, stale=True), observed, plan_of(order(20_000), old), lambda _: True, tolerate_stale=True
    )
    assert done.is_stale
    assert observed.workload is None


def test_a_new_list_forgets_what_is_gone() -> None:
    """Pods that are no longer listed, and a Deployment that is not found, are dropped."""
    observed = ObservedState(lambda: None)
    observed.observe(Deployment, Listed((deployment(),)))
    observed.observe(
        Pod,
        Listed(
            (
                pod(1),
                pod(2),
            )
        ),
    )
    observed.observe(Pod, Listed((pod(2),)))
    assert [one.uid for one in observed.pods] == ["p2"]
    observed.observe(Deployment, Listed(()))
    assert observed.workload is None
    assert observed.pods == []


def test_operations_guard_what_they_change() -> None:
    """A patch tests every value that it changes, and works if the values are unchanged."""
    desired: dict[str, str | None] = {BANDWIDTH: "5M", "sluice.dev/limit": None}
    for one in (pod(1, "10M", "x"), pod(1, None), pod(1, annotations={}), pod(1, annotations={"other": "y"})):
        changed = after(one, build_patch(one, desired))
        expected = {key: value for key, value in one.annotations.items() if key == "other"} | {BANDWIDTH: "5M"}
        assert changed.annotations == expected


def test_records_that_cannot_be_read() -> None:
    """Foreign text, another version and missing fields are errors, never records."""
    complete = '"action": "a", "cause": "decision", "value": "1M", "limit": 1, "at": 1'
    for text in ("x", "[]", '{"v": 1}', '{"v": "2"}', f"{{{complete.replace(': 1', ': ' + '9' * 20)}}}"):
        one = deployment("1M", text)
        assert find_record(one) is None
        assert (why_unreadable(one) or "").startswith(f"{KEY} cannot be read: ")
    sound = deployment("1M", f"{{{complete}}}")
    assert find_record(sound) is not None
    assert why_unreadable(sound) is None


def test_the_newest_record() -> None:
    """The latest sample counts, then the time of writing; records from the future are ignored."""
    old, new, again, ahead = (record("1M", 1_000, end=end, at=at) for end, at in ((1, 9), (5, 2), (5, 3), (99, 1)))
    none = record("1M", 1_000, end=None)
    pods = [pod(0, "1M", "unreadable"), *(pod(n, "1M", one) for n, one in enumerate((old, new, again, ahead, none), 1))]
    for main, those, newest in ((deployment(), pods, again), (deployment("1M", none), [pod(1)], none)):
        observed = ObservedState()
        assert find_in_force(TARGET, Extent(TARGET.key), observed, 50) == (None, None)
        observed.observe(Deployment, Listed((main,)))
        observed.observe(Pod, Listed(tuple(those)))
        assert find_in_force(TARGET, Extent(TARGET.key), observed, 50)[0] == newest
