"""Writes each domain's status: at most once in five seconds, and only what has changed.

What it says comes from the bus and from the set of definitions, so any actuator can write it; the one in charge does.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol

import structlog
from msgspec import Struct

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Action, Decision, M, Sample
from services.bus.bus import Bus, Received, Unreadable
from services.bus.connection import ApiError, Denied
from services.common.backoff import BackOff
from services.kube.objects import NotFound, Rejected, StaleObject, Unavailable
from services.resources.fleet_status import InstanceFacts, judge_instance
from services.resources.objects import BandwidthDomain
from services.resources.status import Facts, build_status, encode_status, read_status

_EVERY_S = 5.0
"""Between two writes of one domain's status."""
_EVERY_INSTANCE_S = 0.01
"""More between two writes, for each instance of a definition: a thousand of them are read every 15 s."""
_LOOK_S = 0.5
_BUS_S = 2.0
_INSTANCES_BUS_S = 10.0
_AT_ONCE = 32
"""Instances that are asked for at the same time."""
_REFUSED_S = (8.0, 60.0)
"""First and longest delay after the API server refused a write, or did not answer."""

_log = structlog.get_logger()


class StatusWriter(Protocol):
    """What writing needs of the API client."""

    async def patch_status(self, obj: BandwidthDomain, status: Mapping[str, Any]) -> BandwidthDomain:
        """Merge into an object's status."""


class DefinitionView(Struct, frozen=True):
    """What the set of definitions says of a resource."""

    domain: Domain | None
    """What holds."""
    refusal: str | None
    """Why its newest generation does not."""
    turned_away: Mapping[str, str] = {}
    """By key, workloads that would join by their label and do not, and why."""
    is_open: bool = False
    """Whether workloads may join."""
    instances: Mapping[str, str] = {}
    """Of a definition with ``per``, its instances' names by place."""
    without_critical: Collection[str] = ()
    """The places of those without a critical Pod."""


class StatusKeeper:
    """Keeps the status of all resources."""

    def __init__(
        self,
        client: StatusWriter,
        resources: Mapping[tuple[str, str, str], BandwidthDomain],
        view: Callable[[BandwidthDomain], DefinitionView],
        is_in_charge: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            resources: as they were last seen.
            view: what the set of definitions says of one.
            is_in_charge: whether this process writes.
        """
        self.bus: Bus | None = None
        """Where there is one."""
        self.writes = 0
        """How many there were."""
        self._client = client
        self._resources = resources
        self._view = view
        self._is_in_charge = is_in_charge
        self._due: dict[str, float] = {}
        """When to look at a resource again, by uid and the steady clock."""
        self._written: dict[str, dict[str, Any]] = {}
        """By uid, what was written last."""

    async def run(self) -> None:
        """Write, for ever."""
        back_off = BackOff(*_REFUSED_S)
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._is_in_charge():
                self._written.clear()  # another one writes
                continue
            known = {one.uid for one in self._resources.values()}
            self._due = {uid: at for uid, at in self._due.items() if uid in known}
            self._written = {uid: status for uid, status in self._written.items() if uid in known}
            try:
                for resource in tuple(self._resources.values()):
                    if self._due.get(resource.uid, 0.0) <= time.monotonic():
                        await self._update(resource)
                back_off = BackOff(*_REFUSED_S)
            except Unavailable as error:
                _log.warning("status not written", reason=str(error))
                await back_off.wait()

    async def _update(self, resource: BandwidthDomain) -> None:
        """Write a resource's status if it has changed.

        Raises:
            Unavailable: the API server does not answer, or not now.
        """
        facts = await self._gather(resource)
        self._due[resource.uid] = time.monotonic() + _EVERY_S + _EVERY_INSTANCE_S * len(facts.instances)
        before = self._written.get(resource.uid) or resource.status
        status = encode_status(build_status(facts, read_status(before)))
        if before is not None and status == {key: before.get(key) for key in status}:
            return
        try:
            await self._client.patch_status(resource, status)
        except NotFound:
            return  # it is gone
        except (Rejected, StaleObject) as error:  # the others still have theirs
            _log.warning("status not written", resource=str(resource.source), reason=str(error))
            self._due[resource.uid] = time.monotonic() + _REFUSED_S[1]
            return
        self._written[resource.uid] = status
        self.writes += 1

    async def _gather(self, resource: BandwidthDomain) -> Facts:
        view, found, trouble = self._view(resource), dict[str, Any](), None
        try:
            if view.domain is not None:
                found = await self._read_bus(view.domain)
                if view.domain.is_template:
                    found["instances"] = await self._read_instances(view.domain, view)
        except (Denied, ApiError, ConnectionError, TimeoutError) as error:
            trouble = f"the bus does not answer: {type(error).__name__} {error}".strip()
        return Facts(
            generation=resource.metadata.generation,
            domain=view.domain,
            refusal=view.refusal,
            turned_away=view.turned_away,
            is_open=view.is_open,
            pause=resource.pause,
            bus_trouble=trouble,
            now=time.time_ns(),
            **found,
        )

    async def _read_bus(self, domain: Domain) -> dict[str, Any]:
        bus = self.bus
        if bus is None:
            raise ConnectionError("no connection yet")
        async with asyncio.timeout(_BUS_S):
            sample = await _read_last(bus, Sample, bus.subjects.sample(domain.name))
            decision = await _read_last(bus, Decision, bus.subjects.decision(domain.name))
            actions = await _read_actions(bus, domain, domain.name)
            published: Received[Definition] | None = None
            with suppress(Unreadable):
                published = await bus.get_last(Definition, bus.subjects.definition(domain.name))
        found: dict[str, Any] = {"sample": sample, "decision": decision, "actions": actions}
        if published is not None and published.message.configuration == domain:
            found |= {"revision": published.message.revision, "revised": published.published}
        return found

    async def _read_instances(self, domain: Domain, view: DefinitionView) -> tuple[InstanceFacts, ...]:
        """Read how a definition's instances stand; only what the status says of each is kept."""
        bus = self.bus
        if bus is None:
            raise ConnectionError("no connection yet")

        async def read(on: str, name: str) -> InstanceFacts:
            decision = await _read_last(bus, Decision, bus.subjects.decision(name))
            actions, is_without = await _read_actions(bus, domain, name), on in view.without_critical
            return judge_instance(domain, on, decision, actions, time.time_ns(), without_critical=is_without)

        found: list[InstanceFacts] = []
        places = sorted(view.instances.items())
        async with asyncio.timeout(_INSTANCES_BUS_S):
            for begin in range(0, len(places), _AT_ONCE):
                found += await asyncio.gather(*(read(*one) for one in places[begin : begin + _AT_ONCE]))
        return tuple(found)


async def _read_actions(bus: Bus, domain: Domain, name: str) -> dict[str, Action]:
    """The last report on each target of a domain, or of its instance of that name, by the target's key."""
    found: dict[str, Action] = {}
    for target in domain.targets:
        action = await _read_last(bus, Action, bus.subjects.action(name, target.key))
        found |= {} if action is None else {target.key: action}
    return found


async def _read_last(bus: Bus, kind: type[M], subject: str) -> M | None:
    """The last message on a subject; None without one that can be read."""
    try:
        last: Received[M] | None = await bus.get_last(kind, subject)
    except Unreadable:
        return None
    return None if last is None else last.message
