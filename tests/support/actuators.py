"""Actuators as processes, decisions for them, and checks of their effects."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from msgspec import Struct

from schemas.config import Kubernetes
from schemas.messages import Action, Decision, State, TargetDecision
from schemas.units import Rate
from services.actuator.dependencies import Dependencies
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox
from services.actuator.ownership import KEY
from services.bus.bus import Bus, Received
from services.kube.client import KubeClient
from services.runtime.health import Health
from tests.support.decision_services import ServiceProcess, read_stream
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.kube.write_trail import Trail, Verdict
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

S = 10**9
DOMAIN = "line"


def build_dependencies(client: KubeClient, health: Health, **more: Any) -> Dependencies:
    """What the reconcilers of one actuator share; its outbox and recorder are its own unless ``more`` has others."""
    own: dict[str, Any] = {
        "client": client,
        "outbox": ActionOutbox(),
        "events": EventRecorder(client),
        "set_note": health.set_note,
        "set_condition": health.set_condition,
        "process": "one",
    }
    return Dependencies(**own | more)


class Aim(Struct, frozen=True):
    """A target for tests; rates are in the notation of the configuration."""

    deployment: str = "app"
    min: str = "5M"
    max: str = "80M"
    fail_safe: str = "10M"
    scope: str = "aggregate"


def config_text(
    bus: str,
    cluster: Kubernetes,
    namespace: str,
    aims: Sequence[Aim] = (Aim(),),
    *,
    dead_man: str = "600s",
    dry_run: bool = False,
    port: int = 0,
    rise: float = 1,
    lease: str | None = None,
) -> str:
    """A configuration file with one domain, whose limits may rise by ``rise`` of their range a second."""
    where = f"server: '{cluster.server}'" if cluster.server else f"kubeconfig: '{cluster.kubeconfig}'"
    lines = [
        f"bus: {{servers: ['{bus}']}}",
        f"kubernetes: {{{where}, dry_run: {str(dry_run).lower()}, timeout: 2s, lease: {lease or 'null'},",
        f"  resources: {{namespace: {namespace}}}}}",  # other tests' resources are in the same cluster
        f"listen: {{host: 127.0.0.1, actuator: {port}}}",
        "domains:",
        f"- name: {DOMAIN}",
        "  critical: [{workload: robot-control}]",
        f"  dead_man: {dead_man}",
        f"  shield: {{rise_per_second: {rise}}}",
        "  targets:",
    ]
    lines += [
        f"  - {{deployment: {aim.deployment}, namespace: {namespace}, min: {aim.min}, max: {aim.max}, "
        f"fail_safe: {aim.fail_safe}, scope: {aim.scope}}}"
        for aim in aims
    ]
    return "\n".join(lines)


class ActuatorProcess(ServiceProcess):
    """``sluice actuator``."""

    def __init__(
        self,
        home: Path,
        bus: str,
        server: Server,
        aims: Sequence[Aim] = (Aim(),),
        crash_at: str | None = None,
        **more: Any,
    ) -> None:
        """Write its configuration below ``home``; arm one crash point; ``more`` is for ``config_text``."""
        self.port = free_port()
        text = config_text(bus, server.config, server.namespace, aims, port=self.port, **more)
        super().__init__("actuator", home, text, crash_at)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """What ``/readyz`` answers."""
        try:
            answer = requests.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE_S)
        except requests.ConnectionError as error:
            return False, {"wrong": {"http": str(error)}, "notes": {}}
        return answer.status_code == 200, answer.json()

    def metric(self, name: str) -> dict[str, float]:
        """Values of a metric, by their labels as text."""
        page = requests.get(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE_S).text
        rows = [line.rpartition(" ") for line in page.splitlines() if line.startswith(name)]
        return {row.partition("{")[2].rstrip("}"): float(value) for row, _, value in rows}

    @property
    def resident_mib(self) -> float:
        """Memory in use."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    async def is_ready(self) -> None:
        """Wait until it is ready."""

        async def ready() -> bool:
            return self.ready()[0]

        await eventually(ready)


class Decider:
    """Publishes decisions in place of the decision service."""

    def __init__(self, bus: Bus, namespace: str, domain: str = DOMAIN) -> None:
        """Publish on this bus, for Deployments in that namespace."""
        self._domain = domain
        self._bus = bus
        self._namespace = namespace
        self._epoch = 0
        self._seq = 0
        self.published: list[Decision] = []

    def decision(self, limits: Mapping[str, str | int], *, end: int | None = None, good_for: int = 600 * S) -> Decision:
        """Build the next decision: a limit per Deployment, for a sample that ends at ``end`` (default: now)."""
        end = time.time_ns() if end is None else end
        self._epoch = self._epoch or end
        self._seq += 1
        targets = tuple(
            TargetDecision(
                target=f"{self._namespace}/{name}", limit=_kbit(limit), proposal=_kbit(limit), rule="none", was=0
            )
            for name, limit in limits.items()
        )
        state = State(self._epoch, self._seq, end, {}, "test/1")
        return Decision(
            domain=self._domain,
            sample=f"{self._domain}:{end}",
            end=end,
            expires=end + good_for,
            targets=targets,
            reason="set by the test",
            state=state,
            policy="test/1",
            stress=0.5,
        )

    async def publish_limit(self, limit: str | int, deployment: str = "app", **more: Any) -> Decision:
        """Decide on one Deployment and publish the decision."""
        decision = self.decision({deployment: limit}, **more)
        await self.publish(decision)
        return decision

    async def publish(self, decision: Decision) -> None:
        """Put a decision on the bus."""
        self.published.append(decision)
        await self._bus.publish(self._bus.subjects.decision(self._domain), decision, msg_id=decision.id)


def _kbit(limit: str | int) -> int:
    return limit if isinstance(limit, int) else int(Rate.parse(limit))


class Scene(Struct, frozen=True):
    """A cluster and a bus under observation."""

    server: Server
    bus: Bus

    async def bandwidth(self, name: str = "app") -> str | None:
        """The Deployment's annotation."""
        tree = await self.server.must("GET", f"{self.server.deployments}/{name}")
        value: str | None = (tree["metadata"].get("annotations") or {}).get(BANDWIDTH)
        return value

    async def pod_bandwidths(self, name: str = "app") -> list[str | None]:
        """The annotations of its Pods that are not being deleted."""
        items = (await self.server.must("GET", f"{self.server.pods}?labelSelector=app%3D{name}"))["items"]
        live = [item["metadata"] for item in items if "deletionTimestamp" not in item["metadata"]]
        return [(meta.get("annotations") or {}).get(BANDWIDTH) for meta in live]

    async def wait_for_limits(
        self, limit: str | None, pods: Sequence[str | None], name: str = "app", *, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until Deployment and Pods have these values."""

        async def there() -> bool:
            now = (await self.bandwidth(name), sorted(map(str, await self.pod_bandwidths(name))))
            return now == (limit, sorted(map(str, pods)))

        await eventually(there, patience_s)

    async def enforce(
        self, decider: "Decider", limit: str, pods: Sequence[str | None], name: str = "app", *, good_for: int
    ) -> None:
        """Decide anew until a limit is in force, each time for ``good_for`` ns: a busy machine may miss a decision."""
        decision = await decider.publish_limit(limit, name, good_for=good_for)

        async def there() -> bool:
            nonlocal decision
            now = (await self.bandwidth(name), sorted(map(str, await self.pod_bandwidths(name))))
            if now == (limit, sorted(map(str, pods))):
                return True
            if time.time_ns() > decision.end + good_for // 4:
                decision = await decider.publish_limit(limit, name, good_for=good_for)
            return False

        await eventually(there)

    async def annotate(self, path: str, annotations: Mapping[str, str | None]) -> Any:
        """Change annotations, as kubectl would."""
        body = {"metadata": {"annotations": dict(annotations)}}
        return await self.server.must("PATCH", path, body, "application/merge-patch+json")

    async def scale(self, replicas: int, name: str = "app") -> None:
        """Set a Deployment's replicas."""
        body = {"spec": {"replicas": replicas}}
        await self.server.must("PATCH", f"{self.server.deployments}/{name}", body, "application/merge-patch+json")

    async def actions(self, name: str = "app") -> list[Action]:
        """All reports on a target so far."""
        target = f"{self.server.namespace}/{name}"
        return [one.message for one in await self.read_reports() if one.message.target == target]

    async def read_reports(self) -> list[Received[Action]]:
        """All reports so far, in order of arrival."""
        return await read_stream(self.bus, Action)

    async def wait_for_reports(self, count: int = 1, **fields: Any) -> list[Action]:
        """Wait for at least so many reports with these fields; return all of them."""

        async def enough() -> list[Action] | None:
            fitting = [
                one
                for one in await self.actions()
                if all(getattr(one, name) == value for name, value in fields.items())
            ]
            return fitting if len(fitting) >= count else None

        return await eventually(enough)

    async def judge(self, trail: Trail, name: str = "app") -> Verdict:
        """The verdict on a trail once every write is reported, or as it stands when patience ends.

        Reports follow patches, so that the last ones may be on their way when a limit is seen.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (found := trail.verdict(await self.actions(name), Aim().min, Aim().max)).unreported:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        return found

    async def records(self, name: str = "app") -> dict[str, str | None]:
        """Sluice's own annotation on the Deployment and its Pods, by object name."""
        trees = [await self.server.must("GET", f"{self.server.deployments}/{name}")]
        trees += (await self.server.must("GET", f"{self.server.pods}?labelSelector=app%3D{name}"))["items"]
        return {tree["metadata"]["name"]: (tree["metadata"].get("annotations") or {}).get(KEY) for tree in trees}
