"""Actuators that share the domains: what one knows of its shards while they come and go."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import Any, cast

import pytest
from msgspec.structs import replace

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain
from schemas.units import Duration
from services.actuator.service import Actuator
from services.actuator.shards.lease import Charge, LeaseKeeper
from services.actuator.target_set import TargetSet
from services.bus.partitions import find_partition
from services.bus.sharing import SharedSubjects
from services.bus.subjects import Subjects
from services.kube.changes import Deleted, Listed
from services.kube.client import KubeClient
from services.kube.objects import Deployment, Pod, Rejected
from services.runtime.health import Health
from tests.support.actuators import build_dependencies
from tests.support.kube.objects import TARGET, deployment, pod
from tests.support.waiting import PATIENCE_S

SHARDS = 3
LEASED = Kubernetes(server="http://127.0.0.1:9", lease="sluice/actuator", shards=SHARDS)
NAMES = [next(name for n in range(99) if find_partition(name := f"hall-{n}", SHARDS) == shard) for shard in (0, 1)]
"""A domain of the first shard, and one of the second."""
DOMAINS = tuple(
    Domain(name, (Critical("robot"),), (replace(TARGET, deployment=f"app-{name}"),), dead_man=Duration(600 * 10**9))
    for name in NAMES
)


class Refused:
    """An API server that refuses the Lease."""

    def __init__(self) -> None:
        """Nobody asked yet."""
        self.reads = 0

    async def read(self, *_: object) -> Any:
        """Refuse."""
        self.reads += 1
        raise Rejected("no right to get leases")


async def test_a_refused_lease_is_nobodys_as_soon_as_it_has_lapsed() -> None:
    """Not only with the next attempt, which waits for seconds: until then nobody would apply the fail-safe limit."""
    client, noticed, at = Refused(), asyncio.Event(), list[int]()

    def notice() -> None:
        at.append(client.reads)
        if keeper.charge(asyncio.get_running_loop().time()) is Charge.UNKNOWN:
            noticed.set()

    config = Kubernetes(lease="sluice/actuator", lease_duration=Duration(10**9 // 2))
    keeper = LeaseKeeper(cast("Any", client), config, "one", notice, lambda *_: None)
    running = asyncio.create_task(keeper.run())
    async with asyncio.timeout(PATIENCE_S):
        await noticed.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert at == [1, 1]


async def test_the_shards_of_others_are_noted_from_the_start() -> None:
    """Also those that this actuator never had."""
    health = Health()
    async with KubeClient.connect(LEASED) as client:
        actuator = Actuator(Config(domains=DOMAINS, kubernetes=LEASED), client, health)
        actuator._leases[0]._held_until = inf
        actuator._notice_charge()
    assert {name for name in health.notes if name.startswith("shard")} == {"shard 1", "shard 2"}


class SlowBus:
    """A bus that holds nothing, and on whose first answer something else happens."""

    def __init__(self, answers: Iterator[Any]) -> None:
        """Take a step of ``answers`` with each look-up."""
        self.subjects = Subjects("sluice")
        self.asked: list[str] = []
        self._answers = answers

    async def get_last(self, _kind: Any, subject: str) -> None:
        """There is no such message."""
        self.asked.append(subject)
        next(self._answers, None)


async def test_a_shard_that_comes_while_the_bus_is_asked_waits_for_its_own_answer() -> None:
    """Otherwise its targets would get the fail-safe limit, although the bus holds a decision."""
    async with KubeClient.connect(LEASED) as client:
        actuator = Actuator(Config(domains=DOMAINS, kubernetes=LEASED), client, Health())
        actuator._leases[0]._held_until = inf
        actuator._notice_charge()

        def take_the_second() -> Iterator[None]:
            actuator._leases[1]._held_until = inf
            actuator._notice_charge()
            yield

        bus: Any = SlowBus(take_the_second())
        await actuator._offer_last(bus, [name for name in NAMES if actuator._shards.is_ours(name)])
        first, second = (actuator._targets.reconcilers[one.name, one.targets[0].key] for one in DOMAINS)
        assert not second.is_resting
        assert (first._desired.bus_answered, second._desired.bus_answered) == (True, False)
        assert actuator._joined == set(NAMES)


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_rests_keeps_no_pod_that_is_gone(is_ours: bool) -> None:
    """The actuator in charge puts them back as they were found; here they would stay in memory for good."""
    client, health = cast("KubeClient", None), Health()
    targets = TargetSet(client, health, build_dependencies(client, health), is_ours=lambda _: is_ours)
    targets.define({"line": Domain("line", (Critical("robot"),), (TARGET,))})
    (one,) = targets.reconcilers.values()
    one.observed.observe(Deployment, Listed((deployment(),)))
    one.observed.observe(Pod, Listed((pod(1), pod(2))))
    one.observed.observe(Pod, Deleted(pod(1)))
    assert set(one.observed.given_up) == ({"p1"} if is_ours else set())


async def test_subjects_that_come_meanwhile_keep_nobody_waiting() -> None:
    """Where nodes come and go all the time, the server never knows all subjects at once."""
    subjects = SharedSubjects(["a"])
    waiting, version = asyncio.create_task(subjects.wait_until_read()), subjects.version
    await asyncio.sleep(0)
    subjects.add("b")
    subjects.note_read(version - 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    subjects.note_read(version)
    async with asyncio.timeout(PATIENCE_S):
        await waiting
    assert subjects.merge(["a"]) == ["a", "b"]


def test_subjects_that_the_server_no_longer_has_are_forgotten() -> None:
    """Instances come with their nodes, for ever, and many never come again."""
    subjects = SharedSubjects(["kept"])
    for number in range(100):
        subjects.add(f"node-{number}")
        subjects.remove(f"node-{number}")
        assert subjects.merge(["kept", f"node-{number}", "of another"]) == ["kept", "of another"]
    assert subjects.merge(["kept", "of another"]) == ["kept", "of another"]
    assert not subjects._unwanted
