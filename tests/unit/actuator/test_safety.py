"""Not knowing raises no limit; one thing that goes wrong stops no other."""

import asyncio
from typing import Any

import pytest

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain
from schemas.messages import Decision
from schemas.units import Duration
from services.actuator.desired_limit import Intent, Moment
from services.actuator.drift_backoff import Drift
from services.actuator.order import in_force
from services.actuator.plan import Plan
from services.actuator.restore import restore
from services.actuator.service import Actuator
from services.bus.connection import Denied
from services.bus.session import ApiError
from services.bus.subjects import Subjects
from services.kube.client import Cluster, ClusterError
from services.kube.objects import Gone, Refused, Stale, Unavailable
from services.runtime.health import Health
from tests.support.kube.objects import NOW, TARGET, after, deployment, order, plan_of, pod, record
from tests.support.waiting import PATIENCE_S

S = 10**9
CONFIG = Config(domains=(Domain("line", (Critical("robot-control"),), (TARGET,)),))


def test_the_dead_man_raises_no_pod_that_a_failed_cut_reached() -> None:
    """The order cut to 6M, the Deployment still says 50M: the fail-safe limit of 10M would be a raise."""
    intent = Intent(TARGET, Duration(5 * S), 0.0)
    intent.order, intent.deadline = order(6_000), 5.0
    assert intent.lapse(50_000, Moment(NOW, 6.0), seen=True) is not None
    assert intent.order.limit == 6_000


@pytest.mark.parametrize("limit", [50_000, None])
def test_a_start_raises_no_pod_that_a_failed_cut_reached(limit: int | None) -> None:
    """The newest record counts, also where the Deployment's annotation says more or was removed."""
    intent = Intent(TARGET, Duration(5 * S), 0.0)
    intent.begin(record("3M", 6_000, expires=NOW), limit, Moment(NOW + S, 6.0), bus_said=True)
    assert intent.order is not None
    assert (intent.order.cause, intent.order.limit) == ("start", 6_000)


@pytest.mark.parametrize("value", ["6e6", "6E6", "0.006G", "6000000000m", "+6M"])
def test_a_start_raises_no_limit_in_any_notation(value: str) -> None:
    """Whatever Kubernetes takes for a quantity, Cilium enforces."""
    intent = Intent(TARGET, Duration(5 * S), 0.0)
    intent.begin(None, in_force(deployment(value)), Moment(NOW, 6.0), bus_said=True)
    assert intent.order is not None
    assert intent.order.limit == 6_000


def drift_of(value: str) -> Plan:
    """What corrects a Pod that somebody set to a value."""
    main = deployment("60M", record("60M", 60_000), replicas=1)
    return plan_of(order(60_000), main, pod(1, value, record("60M", 60_000)))


def test_only_raises_wait_long_in_a_fight_over_drift() -> None:
    """After many corrections a raise waits for ten seconds, a cut for half a second; a decision never."""
    drift, now = Drift(), 0.0
    assert drift.wait_s(drift_of("99M").writes, now) is None
    for _ in range(10):
        drift.corrected(now)
    assert drift.wait_s(drift_of("20M").writes, now) == pytest.approx(10.0)
    assert drift.wait_s(drift_of("99M").writes, now) == pytest.approx(0.5)
    assert drift.wait_s(plan_of(order(20_000), deployment("60M", record("60M", 60_000))).writes, now) is None


class Faulty:
    """A cluster that fails on one Pod."""

    def __init__(self, error: Exception) -> None:
        """Fail with that."""
        self.error = error

    async def read(self, kind: Any, namespace: str, name: str) -> Any:
        """A Pod that was seen is gone."""
        if name != "app":
            raise Gone("404")
        return deployment("60M", record("60M", 60_000, found="44M"))

    async def all(self, kind: Any, namespace: str, *, labels: str) -> Any:
        """Two Pods."""
        return tuple(pod(number, "30M", record("30M", 60_000)) for number in (1, 2))

    async def patch(self, thing: Any, operations: list[dict[str, Any]]) -> Any:
        """The first Pod fails."""
        if thing.metadata.name == "app-1-1":
            raise self.error
        return after(thing, operations)


@pytest.mark.parametrize(
    ("error", "outcomes"),
    [
        (Stale("409"), ["applied", "applied"]),
        (Gone("404"), ["applied", "applied"]),
        (Refused("403"), ["applied", "failed", "applied"]),
        (Unavailable("503"), ["applied", "failed", "applied"]),
    ],
)
async def test_restore_says_what_became_of_each_object(error: Exception, outcomes: list[str]) -> None:
    """A Pod that vanishes is passed over; one that fails is a failed outcome beside the others."""
    assert [back.outcome for back in await restore(Faulty(error), TARGET, dry_run=False)] == outcomes


async def test_without_a_cluster_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a Pod and without settings there is nothing to connect to."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match=r"set kubernetes\.kubeconfig or kubernetes\.server"):
        async with Cluster.connected(Kubernetes()):
            pass


class Refusing:
    """A bus that refuses look-ups a few times."""

    def __init__(self, *errors: Exception) -> None:
        """Refuse with these, one after the other."""
        self.subjects = Subjects("sluice")
        self.errors = list(errors)

    async def last(self, kind: Any, subject: str) -> None:
        """Refused, or nothing there."""
        if self.errors:
            raise self.errors.pop(0)


async def test_a_refused_look_up_is_tried_again_and_shown() -> None:
    """Neither a permission nor an answer with an error ends the look-up; /readyz has the reason."""
    health = Health()
    async with Cluster.connected(Kubernetes(server="http://127.0.0.1:9")) as cluster:
        actuator = Actuator(CONFIG, cluster, health)
        bus: Any = Refusing(Denied("not yours"), ApiError(10008, "no quorum"))
        assert await actuator._last(bus, Decision, "sluice.decision.line") is None
    assert "no quorum" in health.wrong["decisions"]


async def test_the_bus_side_begins_again_whatever_happens_to_it() -> None:
    """An error that nobody foresaw ends one conversation, not the actuator."""
    tries = asyncio.Event()
    count = 0

    def joined() -> Any:
        nonlocal count
        count += 1
        if count == 3:
            tries.set()
        raise KeyError("answer")

    async with Cluster.connected(Kubernetes(server="http://127.0.0.1:9")) as cluster:
        running = asyncio.create_task(Actuator(CONFIG, cluster, Health()).run(joined))
        async with asyncio.timeout(PATIENCE_S):
            await tries.wait()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
