"""Leases of shards: each gets to the actuator that it belongs to, and to another while that one is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from msgspec import convert

from schemas.config import Kubernetes
from schemas.domain import Critical, Domain, Target
from schemas.units import Duration, Rate
from services.actuator.shards.lease import Charge, Lease, LeaseKeeper
from services.actuator.target_set import TargetSet
from services.kube.client import KubeClient
from services.kube.objects import StaleObject
from services.runtime.health import Health
from tests.support.actuators import build_dependencies
from tests.support.waiting import until

CONFIG = Kubernetes(lease="sluice/actuator", lease_duration=Duration(10**9 // 2), shards=3)


class Leases:
    """The API server's Leases, in memory: a write needs the version that was read."""

    def __init__(self) -> None:
        """Three that nobody holds."""
        self._trees: dict[str, dict[str, Any]] = {f"actuator-{shard}": {} for shard in range(3)}
        self._versions = dict.fromkeys(self._trees, 1)

    def _build(self, name: str) -> Lease:
        metadata = {"name": name, "namespace": "sluice", "uid": name, "resourceVersion": str(self._versions[name])}
        return convert({"metadata": metadata, "spec": self._trees[name]}, Lease)

    async def read(self, kind: type[Lease], namespace: str, name: str) -> Lease:
        """Read one."""
        assert (kind, namespace) == (Lease, "sluice")
        return self._build(name)

    async def patch(self, obj: Lease, operations: list[dict[str, Any]], *, is_urgent: bool) -> Lease:
        """Write one, unless it has changed.

        Raises:
            StaleObject: it has.
        """
        assert is_urgent
        name = obj.metadata.name
        test, write = operations
        if test["value"] != str(self._versions[name]):
            raise StaleObject(name)
        self._versions[name] += 1
        self._trees[name] = write["value"]
        return self._build(name)


@asynccontextmanager
async def actuator(leases: Leases, replica: int) -> AsyncIterator[list[LeaseKeeper]]:
    """The Leases of one numbered actuator."""
    keepers = [
        LeaseKeeper(leases, CONFIG, f"p{replica}", lambda: None, lambda *_: None, shard=shard, replica=replica)
        for shard in range(3)
    ]
    tasks = [asyncio.create_task(one.run()) for one in keepers]
    try:
        yield keepers
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def held(keepers: list[LeaseKeeper]) -> list[int]:
    """The shards that an actuator is in charge of."""
    now = asyncio.get_running_loop().time()
    return [shard for shard, one in enumerate(keepers) if one.charge(now) is Charge.MINE]


async def test_each_shard_gets_to_its_actuator() -> None:
    """The first takes all; those that join take theirs; what one gives up goes to another."""
    leases = Leases()
    async with actuator(leases, 1) as first:
        await until(lambda: held(first) == [0, 1, 2])
        async with actuator(leases, 0) as second, actuator(leases, 2) as third:
            await until(lambda: (held(second), held(first), held(third)) == ([0], [1], [2]))
        await until(lambda: held(first) == [0, 1, 2])


def test_shards_need_a_lease() -> None:
    """Nobody could tell whose a shard is."""
    with pytest.raises(ValueError, match="shards: several need a lease"):
        Kubernetes(shards=2)


@pytest.mark.parametrize("charge", list(Charge))
async def test_the_sum_of_all_places_is_written_by_whoever_has_the_templates_lease(charge: Charge) -> None:
    """Others that limit some of its parts leave it alone."""
    client, health = cast("KubeClient", None), Health()
    target = Target(deployment="app", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000))
    template = Domain("line", (Critical("robot"),), (target,), per="node")

    def find_charge(domain: str) -> Callable[[float], Charge]:
        return lambda _: charge if domain == "line" else Charge.MINE

    targets = TargetSet(client, health, build_dependencies(client, health, charge_of=find_charge))
    targets.define({"line": template})
    targets.define({"line@node-1": template.build_instance("node-1", ())})
    assert len(targets.reconcilers) == 1
    assert targets.is_summing(target.key) is (charge is Charge.MINE)
