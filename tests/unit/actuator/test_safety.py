"""Without data no limit is raised, and one failure does not stop other work."""

import asyncio
from typing import Any

import pytest

from schemas.config import Config, Kubernetes
from schemas.domain import Critical, Domain
from schemas.messages import Decision
from schemas.units import Duration
from services.actuator.desired_limit import DesiredLimit, Instant
from services.actuator.refusals import DriftBackOff
from services.actuator.restore import restore
from services.actuator.service import Actuator
from services.bus.connection import ApiError, Denied
from services.bus.subjects import Subjects
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, StaleObject, Unavailable
from services.resources.objects import PAUSED, BandwidthDomain, ResourceMeta
from services.runtime.health import Health
from tests.support.kube.objects import NOW, TARGET, after, deployment, order, pod, record
from tests.support.waiting import PATIENCE_S

S = 10**9
CONFIG = Config(domains=(Domain("line", (Critical("robot-control"),), (TARGET,)),))


def test_the_dead_man_raises_no_pod_that_a_failed_cut_reached() -> None:
    """The order cut to 6M, but the Deployment still has 50M: the fail-safe limit of 10M would be a raise."""
    desired = DesiredLimit(TARGET, Duration(5 * S), 0.0)
    desired.order, desired.deadline = order(6_000), 5.0
    assert desired.expire(50_000, Instant(NOW, 6.0), is_observed=True) is not None
    assert desired.order.limit == 6_000


@pytest.mark.parametrize("limit", [50_000, None])
def test_a_start_raises_no_pod_that_a_failed_cut_reached(limit: int | None) -> None:
    """The newest record counts, even if the Deployment's annotation has more or was removed."""
    desired = DesiredLimit(TARGET, Duration(5 * S), 0.0)
    desired.initialize(record("3M", 6_000, expires=NOW), limit, Instant(NOW + S, 6.0))
    assert desired.order is not None
    assert (desired.order.cause, desired.order.limit) == ("start", 6_000)


@pytest.mark.parametrize("value", ["6e6", "6E6", "0.006G", "6000000000m", "+6M"])
def test_a_start_raises_no_limit_in_any_notation(value: str) -> None:
    """Cilium enforces every notation of a Kubernetes quantity."""
    desired = DesiredLimit(TARGET, Duration(5 * S), 0.0)
    desired.initialize(None, deployment(value).limit, Instant(NOW, 6.0))
    assert desired.order is not None
    assert desired.order.limit == 6_000


def test_only_raises_wait_long_in_a_fight_over_drift() -> None:
    """After many corrections a raise waits for ten seconds and a cut for half a second; after a pause neither waits."""
    drift, now = DriftBackOff(), 0.0
    assert drift.next_wait(now, has_cut=True) <= 0
    for _ in range(10):
        drift.count(now)
    assert drift.next_wait(now, has_cut=False) == pytest.approx(10.0)
    assert drift.next_wait(now, has_cut=True) == pytest.approx(0.5)
    assert drift.next_wait(now + 41, has_cut=False) <= 0
    drift.count(now + 41)
    assert drift.next_wait(now + 41, has_cut=False) == pytest.approx(0.2)


class Faulty:
    """A cluster that fails on one Pod."""

    def __init__(self, error: Exception) -> None:
        """Take the error."""
        self.error = error

    async def read(self, kind: Any, namespace: str, name: str) -> Any:
        """A Pod that was seen is now gone."""
        if name != "app":
            raise NotFound("404")
        return deployment("60M", record("60M", 60_000, found="44M"))

    async def list_by_labels(self, kind: Any, namespace: str, selector: str) -> Any:
        """Two Pods."""
        return tuple(pod(number, "30M", record("30M", 60_000)) for number in (1, 2))

    async def read_json(self, path: str) -> Any:
        """Only known kinds are asked for."""
        raise AssertionError(path)

    fetch = read_json

    async def delete(self, obj: Any) -> None:
        """A Deployment is never deleted."""
        raise AssertionError(obj)

    async def patch(self, obj: Any, operations: list[dict[str, Any]]) -> Any:
        """The first Pod fails."""
        if obj.metadata.name == "app-1-1":
            raise self.error
        return after(obj, operations)


@pytest.mark.parametrize(
    ("error", "outcomes"),
    [
        (StaleObject("409"), ["applied", "applied"]),
        (NotFound("404"), ["applied", "applied"]),
        (Rejected("403"), ["applied", "failed", "applied"]),
        (Unavailable("503"), ["applied", "failed", "applied"]),
    ],
)
async def test_restore_reports_the_result_for_each_object(error: Exception, outcomes: list[str]) -> None:
    """A deleted Pod is omitted; one that cannot be patched is reported as failed beside the others."""
    assert [back.outcome for back in await restore(Faulty(error), TARGET, dry_run=False)] == outcomes


async def test_without_a_cluster_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a Pod the configuration must name a server or a kubeconfig."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeConfigError, match=r"set kubernetes\.kubeconfig or kubernetes\.server"):
        async with KubeClient.connect(Kubernetes()):
            pass


class Refusing:
    """A bus that refuses look-ups a few times."""

    def __init__(self, *errors: Exception) -> None:
        """Refuse with these errors, one after another."""
        self.subjects = Subjects("sluice")
        self.errors = list(errors)

    async def get_last(self, kind: Any, subject: str) -> None:
        """Refuse, or return no message."""
        if self.errors:
            raise self.errors.pop(0)


async def test_a_refused_look_up_is_tried_again_and_shown() -> None:
    """It is repeated after a missing permission and after an error of JetStream; /readyz shows the reason."""
    health = Health()
    async with KubeClient.connect(Kubernetes(server="http://127.0.0.1:9")) as client:
        actuator = Actuator(CONFIG, client, health)
        bus: Any = Refusing(Denied("not yours"), ApiError(10008, "no quorum"))
        assert await actuator._fetch_last(bus, Decision, "sluice.decision.line") is None
    assert "no quorum" in health.problems["decisions"]


async def test_every_instance_is_paused_with_its_definition() -> None:
    """The annotation is on the resource, which stands for the limits on all nodes."""
    template = Domain("floor/line", (Critical("robot-control"),), (TARGET,), per="node")
    paused = BandwidthDomain(ResourceMeta("line", "floor", "u", "1", {PAUSED: "maintenance"}))
    async with KubeClient.connect(Kubernetes(server="http://127.0.0.1:9")) as client:
        actuator = Actuator(Config(domains=()), client, Health())
        actuator.definitions.put(template, paused.source)
        actuator.instances.see(template.name, {node: frozenset({node}) for node in ("n1", "n2")})
        actuator._resources.watcher.resources[paused.source.key] = paused
        reconcilers = actuator._targets.reconcilers
        assert [one.extent.is_part for one in reconcilers.values()] == [True, True]
        for name in (template.name, *(domain for domain, _ in reconcilers)):
            assert "maintenance" in (actuator._find_pause(name) or ""), name
        assert actuator._find_pause("another") is None


async def test_the_bus_side_begins_again_whatever_happens_to_it() -> None:
    """An unexpected error ends one connection to the bus, not the actuator."""
    tries = asyncio.Event()
    count = 0

    def joined() -> Any:
        nonlocal count
        count += 1
        if count == 3:
            tries.set()
        raise KeyError("answer")

    async with KubeClient.connect(Kubernetes(server="http://127.0.0.1:9")) as client:
        running = asyncio.create_task(Actuator(CONFIG, client, Health()).run(joined))
        async with asyncio.timeout(PATIENCE_S):
            await tries.wait()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
