"""Real reconcilers and the real decision core on an emulated API server and bus, in virtual time.

Nothing waits: the test sets the time and says who may run.  What can fail is a switch: the API server for one
actuator or for all, the bus, an actuator that is stopped, killed or restarted, and both of its clocks.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.messages import Action, Decision, Sample, State, encode
from services.actuator.dependencies import Dependencies
from services.actuator.desired_limit import Instant
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox, PendingAck
from services.actuator.reconciler import Reconciler
from services.control import Controller, RejectedSample
from services.decision.domain_log import Enforcement, ReportHead
from services.kube.changes import Listed, Updated
from services.kube.objects import Deployment, Pod, StaleObject, Superseded, Unavailable
from services.runtime.health import Health
from tests.support.kube.objects import after, deployment, pod

S = 10**9
START = 1_800_000_000 * S
_MOST_ROUNDS = 200


class Cluster:
    """One Deployment with Pods, and who watches them."""

    def __init__(self, bandwidth: str, pods: int = 2) -> None:
        """Begin with the template's bandwidth on every Pod."""
        self.objects: dict[str, Deployment | Pod] = {"d": deployment(replicas=pods)}
        self.objects |= {one.uid: one for one in (pod(number, bandwidth) for number in range(1, pods + 1))}
        self.watchers: list[Actuator] = []
        self.backup: dict[str, Deployment | Pod] = {}
        self.events: list[tuple[str, str]] = []
        self.on_patch: Callable[[], None] = lambda: None

    @property
    def workload(self) -> Deployment:
        """The Deployment."""
        found = self.objects["d"]
        assert isinstance(found, Deployment)
        return found

    @property
    def pods(self) -> list[Pod]:
        """Its Pods."""
        return [one for one in self.objects.values() if isinstance(one, Pod)]

    @property
    def in_force(self) -> int | None:
        """What the Pods may send together, kbit/s; None: unlimited."""
        limits = [one.limit for one in self.pods]
        return None if None in limits else sum(limit or 0 for limit in limits)

    def restore(self) -> None:
        """Etcd comes back from a backup: the same objects with older contents and versions."""
        self.objects = dict(self.backup)
        for one in self.watchers:
            one.list_objects()

    def store(self, obj: Deployment | Pod) -> None:
        """Keep an object's new state, and show it to whoever watches."""
        self.objects[obj.uid] = obj
        self.on_patch()
        for one in self.watchers:
            if one.has_api and not one.is_stopped:
                one.reconciler.observed.observe(type(obj), Updated(obj))


class Bus:
    """Decisions and reports, as JetStream keeps them."""

    def __init__(self, domain: Domain) -> None:
        """Begin empty."""
        self._up = asyncio.Event()
        self._up.set()
        self.decisions: list[tuple[Decision, int]] = []
        self.actions: list[Action] = []
        self.enforcement = Enforcement([domain])
        self.now: Callable[[], int] = lambda: START

    @property
    def is_up(self) -> bool:
        """Whether the server answers."""
        return self._up.is_set()

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        if is_up:
            self._up.set()
        else:
            self._up.clear()

    async def publish(self, action: Action, _headers: object) -> None:
        """Store a report once the bus is there."""
        await self._up.wait()
        self.actions.append(action)
        head = msgspec.json.decode(encode(action), type=ReportHead)
        self.enforcement.take(head, self.now())


class Actuator:
    """One actuator process with one target."""

    def __init__(self, name: str, domain: Domain, cluster: Cluster, bus: Bus) -> None:
        """Prepare; ``start`` begins."""
        self.name, self._domain, self._cluster, self._bus = name, domain, cluster, bus
        self.steady, self.skew = 1000.0, 0
        """Seconds of a steady clock, and by how much its wall clock is ahead, ns."""
        self.has_api, self.is_stopped, self.is_alive = True, False, False
        self._now = START
        self._heard = 0
        self._runs = 0
        self._wake: float | None = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin as a new process: list the objects, and fetch the last decision where there is a bus."""
        self._runs += 1
        self.health, self.outbox = Health(), ActionOutbox()
        events = EventRecorder(self, lambda: self.steady)
        shared = Dependencies(
            client=self,
            outbox=self.outbox,
            events=events,
            set_note=self.health.set_note,
            set_condition=self.health.set_condition,
            process=f"{self.name}{self._runs}",
            clock=lambda: self._now + self.skew,
            steady=lambda: self.steady,
        )
        self.reconciler = Reconciler(self._domain, self._domain.targets[0], shared)
        self.reconciler.observed._clock = lambda: self.steady
        self.is_alive, self.is_stopped, self._wake = True, False, 0.0
        self._heard = max(len(self._bus.decisions) - 1, 0)
        self._joined = False
        if self not in self._cluster.watchers:
            self._cluster.watchers.append(self)
        self._show_watch()
        self.list_objects()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.outbox.run(self._publish)), loop.create_task(events.run())]

    def kill(self) -> None:
        """End it without notice."""
        self.is_alive = False
        for task in self._tasks:
            task.cancel()
        if self in self._cluster.watchers:
            self._cluster.watchers.remove(self)

    def list_objects(self) -> None:
        """What a watch does when it begins."""
        if not self.is_alive or not self.has_api or self.is_stopped:
            return
        observed = self.reconciler.observed
        observed.observe(Deployment, Listed((self._cluster.workload,)), self.steady)
        observed.observe(Pod, Listed(tuple(self._cluster.pods)), self.steady)

    def set_api(self, has_api: bool) -> None:
        """Take the API server away from it, or give it back; its watches begin again after at most five seconds."""
        self.has_api = has_api
        self._show_watch()
        self.list_objects()

    def set_stopped(self, is_stopped: bool) -> None:
        """Stop the process as it stands, or let it go on; then its watches show what it missed."""
        self.is_stopped = is_stopped
        self._show_watch()
        self.list_objects()

    def _show_watch(self) -> None:
        """What the informer reports."""
        if self.is_alive and not self.is_stopped:
            why = None if self.has_api else "cannot watch deployments: connection refused"
            self.health.set_condition(self._domain.targets[0].key, why)

    # -- what its reconciler uses

    async def _publish(self, action: Action, headers: Any) -> None:
        await self._bus.publish(action, headers)

    async def create_event(self, _about: object, reason: str, message: str, _severity: str, _at: str) -> None:
        """Keep an Event."""
        if not self.has_api:
            raise Unavailable("connection refused")
        self._cluster.events.append((reason, message))

    async def read(self, kind: type[Any], _namespace: str, name: str) -> Any:
        """Read an object."""
        if not self.has_api:
            raise Unavailable("connection refused")
        return next(one for one in self._cluster.objects.values() if type(one) is kind and one.metadata.name == name)

    room = 12

    async def wait_for_room(self, delay_s: float = 0.0) -> None:
        """There always is."""

    async def patch_in_turn(
        self, obj: Any, build: Callable[[], list[dict[str, Any]] | None], *, is_cut: bool = False
    ) -> Any:
        """Patch an object."""
        operations = build()
        if operations is None:
            raise Superseded
        return await self.patch(obj, operations)

    async def patch(self, obj: Any, operations: list[dict[str, Any]]) -> Any:
        """Patch an object at once."""
        if not self.has_api:
            raise Unavailable("connection refused")
        found = self._cluster.objects[obj.uid]
        try:
            changed = after(found, operations)
        except AssertionError:
            raise StaleObject("a test failed") from None
        self._cluster.store(changed)
        return changed

    # -- time

    async def run_until(self, now: int) -> None:
        """Do what it does until a time, UTC ns."""
        seconds = (now - self._now) / S
        if not self.is_alive or self.is_stopped:
            self._now, self.steady = now, self.steady + seconds
            return
        until = self.steady + seconds
        for _ in range(_MOST_ROUNDS):
            await self._hear()
            if not self.reconciler._awake.is_set() and (self._wake is None or self._wake > until):
                break
            if not self.reconciler._awake.is_set() and self._wake is not None and self._wake > self.steady:
                self._now += round((self._wake - self.steady) * S)
                self.steady = self._wake
            self.reconciler._awake.clear()
            retry_s = await self.reconciler._reconcile()
            instant = Instant(self._now + self.skew, self.steady)
            due = self.reconciler._desired.next_wake(instant)
            waits = [] if retry_s is None else [self.steady + max(retry_s, 0.001)]
            self._wake = min([*waits, *([] if due is None else [max(due, self.steady)])], default=None)
            await settle()
        else:
            raise AssertionError(f"{self.name} never comes to rest")
        self._now, self.steady = now, until

    async def _hear(self) -> None:
        """Take decisions, the latest of those that piled up, if the bus is there."""
        if not self._bus.is_up:
            return
        waiting = self._bus.decisions[self._heard :][-1:]
        self._heard = len(self._bus.decisions)
        for decision, published in waiting:
            pending = PendingAck(_acknowledge, {}, 1)
            self.reconciler.offer(decision, decision.targets[0], published, pending)
        if not self._joined:
            self._joined = True
            last = next((one for one in reversed(self._bus.actions)), None)
            self.reconciler.resume(last)


async def _acknowledge() -> None:
    """Nothing to do."""


async def settle() -> None:
    """Let the outboxes send."""
    for _ in range(8):
        await asyncio.sleep(0)


class Decider:
    """The decision service on this bus."""

    def __init__(self, domain: Domain, bus: Bus, *, closed: bool = True) -> None:
        """``closed``: whether it follows the reports."""
        self._controller, self._domain, self._bus, self._closed = Controller(domain), domain, bus, closed
        self.state: State | None = None
        self.samples: list[Sample] = []

    def answer(self, sample: Sample, now: int) -> Decision | None:
        """Decide on a sample, and publish; None where it is refused or the bus is away."""
        if not self._bus.is_up:
            return None
        previous = {} if self.state is None else self.state.in_force
        reported = self._bus.enforcement.find_news(self._domain.name, previous) if self._closed else {}
        try:
            decision = self._controller.answer(self.state, sample, now, None, reported)
        except RejectedSample:
            return None
        self.state = decision.state
        self.samples.append(sample)
        self._bus.decisions.append((decision, now))
        return decision


def replay(domain: Domain, samples: Sequence[Sample], decisions: Sequence[tuple[Decision, int]]) -> bool:
    """Whether the decisions come out the same from the samples and what they record of their inputs."""
    controller, state = Controller(domain), None
    for sample, (decision, published) in zip(samples, decisions, strict=True):
        again = controller.answer(state, sample, published, decision.fault, decision.reported)
        if encode(again) != encode(decision):
            return False
        state = again.state
    return True


def with_bounds(domain: Domain, **bounds: Any) -> Domain:
    """The domain with other bounds of its only target."""
    return replace(domain, targets=(replace(domain.targets[0], **bounds),))
