"""A limit that is not enforced is reported to people once, and so is its end; what is not the agent's fault is not."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from schemas.domain import Critical, Domain, Target
from schemas.messages import Decision, Overrun, State, TargetDecision
from schemas.units import Rate
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox
from services.actuator.reporter import ENFORCED, NOT_ENFORCED, Reporter
from services.kube.objects import KubeObject, Pod, PodNetwork
from services.runtime.health import Health
from tests.support.kube.objects import deployment, pod

S = 10**9
END = 1_800_000_000 * S
TARGET = Target(deployment="app", min=Rate(1_000), max=Rate(90_000), fail_safe=Rate(20_000))
LINE = Domain(name="line", critical=(Critical(workload="robot"),), targets=(TARGET,))
OVER = Overrun(target=TARGET.key, sent=60_000, limit=20_000, since=END - 5 * S)


class Sink:
    """Keeps the Events that are written."""

    def __init__(self) -> None:
        """None yet."""
        self.events: list[tuple[str, str, str]] = []

    async def create_event(self, about: KubeObject, reason: str, message: str, severity: str, at: str) -> None:
        """Keep one."""
        self.events.append((reason, severity, message))


def decision(*overruns: Overrun, at: int = 0, over: bool = False) -> Decision:
    """A decision with these overruns, ``at`` seconds later; ``over``: it is not known whether they go on."""
    part = TargetDecision(TARGET.key, 20_000, 20_000, "none", 20_000)
    end = END + at * S
    state = State(END, 1, end, {}, "static/1", over={TARGET.key: OVER.since} if overruns or over else {})
    return Decision("line", f"line:{end}", end, end + S, (part,), "", state, "static/1", overruns=overruns)


def limited(limit: str | None, **spec: Any) -> Pod:
    """A Pod with that annotation."""
    return replace(pod(1, limit), spec=PodNetwork(**spec))


async def follow(*steps: tuple[Decision, Any, list[Pod]]) -> tuple[list[tuple[str, str, str]], Health]:
    """Report on some decisions; gives the Events, and what /readyz shows."""
    sink, health = Sink(), Health()
    events = EventRecorder(sink)
    reporter = Reporter(LINE, TARGET, ActionOutbox(), events, health.set_note, lambda: END)
    for step in steps:
        reporter.report_enforcement(*step)
    writing = asyncio.create_task(events.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    return sink.events, health


def metric() -> float:
    """What the page shows."""
    value = REGISTRY.get_sample_value("sluice_limit_not_enforced", {"target": TARGET.key})
    assert value is not None
    return value


async def test_it_is_reported_once_as_event_note_and_metric() -> None:
    """However many decisions name it."""
    steps = [(decision(OVER), deployment(), [limited("20M")])] * 3
    events, health = await follow(*steps)
    ((reason, severity, message),) = events
    assert (reason, severity) == (NOT_ENFORCED, "Warning")
    assert "for 5 s, now 60M of 20M" in message
    assert "sluice check CONFIG --cluster" in message
    assert "UDP" in message
    assert "60M of 20M" in health.notes[f"{TARGET.key} enforcement"]
    assert not health.problems
    assert metric() == 1


async def test_its_end_is_reported() -> None:
    """Once the limit has held for half a minute the note goes, and an Event follows."""
    pods = [limited("20M")]
    held = [(decision(at=at), deployment(), pods) for at in (1, 15, 30)]
    events, health = await follow((decision(OVER), deployment(), pods), *held)
    assert [reason for reason, _, _ in events] == [NOT_ENFORCED]
    assert health.notes
    events, health = await follow((decision(OVER), deployment(), pods), *held, (decision(at=31), deployment(), pods))
    assert [reason for reason, _, _ in events] == [NOT_ENFORCED, ENFORCED]
    assert health.notes == {}
    assert metric() == 0


async def test_one_that_comes_and_goes_makes_one_event() -> None:
    """Three minutes in which the limit holds for ten seconds at a time."""
    steps = [decision(*([OVER] if at % 20 < 10 else []), at=at) for at in range(180)]
    events, _ = await follow(*((one, deployment(), [limited("20M")]) for one in steps))
    assert [reason for reason, _, _ in events] == [NOT_ENFORCED]


@pytest.mark.parametrize(
    ("later", "pods"),
    [
        ([decision(at=at, over=True) for at in range(1, 100)], [limited("20M")]),
        ([decision(OVER, at=at) for at in range(1, 100)], [limited("20M"), limited(None)]),
    ],
    ids=["throughput is missing", "a new Pod has no annotation"],
)
async def test_what_is_not_known_is_no_all_clear(later: list[Decision], pods: list[Pod]) -> None:
    """People keep knowing that the limit is not enforced, however long it takes."""
    events, health = await follow(
        (decision(OVER), deployment(), [limited("20M")]), *((one, deployment(), pods) for one in later)
    )
    assert [reason for reason, _, _ in events] == [NOT_ENFORCED]
    assert health.notes
    assert metric() == 1


async def test_a_workload_without_pods_sends_nothing() -> None:
    """The finding ends at once."""
    events, _ = await follow((decision(OVER), deployment(), [limited("20M")]), (decision(over=True), deployment(), []))
    assert [(reason, text) for reason, _, text in events][1:] == [(ENFORCED, "Has no Pods any more")]
    assert metric() == 0


@pytest.mark.parametrize("pods", [[limited(None)], [limited("70M")], []])
async def test_a_limit_that_is_not_on_the_pods_is_not_the_agents_fault(pods: list[Pod]) -> None:
    """No annotation, one that allows what was sent, or no Pod that is known."""
    assert (await follow((decision(OVER), deployment(), pods)))[0] == []
    assert metric() == 0


async def test_a_target_that_is_left_alone_is_not_reported() -> None:
    """Paused, dry run, or another actuator's: this one does not set its limit."""
    assert (await follow((decision(OVER), None, [limited("20M")])))[0] == []


async def test_the_hosts_network_is_named() -> None:
    """The one cause that the Pods themselves show."""
    events, _ = await follow((decision(OVER), deployment(), [limited("20M", host_network=True)]))
    assert "use the host's network" in events[0][2]
