"""``sluice actuator``: consumes decisions and offers each one to the reconcilers of its targets.

Every actuator has a consumer of its own: one that is not in charge of a target, or that runs dry, takes no decision
away from the one that is.  Where actuators share the domains, each reads those of its own shards (``held_shards.py``).

It works without the bus: without decisions the targets fall back to their fail-safe limits, and what
was done is reported when the bus is there.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import structlog
from msgspec.structs import replace

from schemas.config import Config
from schemas.messages import Action, Decision, M
from services.actuator.dependencies import Dependencies
from services.actuator.kube_events import EventRecorder
from services.actuator.leftovers import report_leftovers
from services.actuator.outbox import ActionOutbox, PendingAck, publish_action
from services.actuator.places.placement import Placement
from services.actuator.reconciler import Reconciler
from services.actuator.shards.held_shards import HeldShards
from services.actuator.shards.lease import Charge, LeaseKeeper
from services.actuator.target_set import TargetSet
from services.bus.bus import Bus, Received, Unreadable
from services.bus.connection import ApiError, Denied
from services.bus.subjects import Subjects
from services.common import failpoints
from services.common.backoff import BackOff
from services.definitions.definition_set import DefinitionSet
from services.definitions.file_source import FileSource
from services.definitions.instances import Instances
from services.definitions.publisher import Publisher
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.resources.service import ResourceDomains
from services.runtime import logging_setup
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.health import Health, serve
from services.runtime.option_types import ConfigFile
from services.runtime.service import join_bus, run

NAME = "actuator"
_ACK_WAIT_S = 10.0
_LOOK_S, _STOPPED_S = 0.5, 2.0
"""How often to look whether this process was stopped, and after which time it counts as that."""
_EXPIRE_S = 1.0
"""How often to look for instances whose time is over."""
_DECISIONS = "decisions"
"""The health condition that the bus has supplied what is in force."""

_AT_ONCE = 32
"""How many last messages are asked for at the same time."""
T = TypeVar("T")

_log = structlog.get_logger()


async def _do_each(work: Callable[[T], Awaitable[None]], on: Sequence[T]) -> None:
    """Do the work on each, on a few of them at a time."""
    for begin in range(0, len(on), _AT_ONCE):
        await asyncio.gather(*(work(one) for one in on[begin : begin + _AT_ONCE]))


class Actuator:
    """Acts on all configured domains."""

    def __init__(self, config: Config, client: KubeClient, health: Health, path: Path | None = None) -> None:
        """Prepare; ``run`` does the work.  With the configuration's path, changes of its domains are taken up."""
        self._health = health
        self._client = client
        self._outbox = ActionOutbox()
        self._events = EventRecorder(client)
        # A random name, which no other client can guess: who can read the bus could take messages from it.
        self._durable = f"{NAME}-{secrets.token_hex(16)}"
        process = secrets.token_hex(6)
        self._has_lease = config.kubernetes.lease is not None
        self._leases = [
            LeaseKeeper(
                client,
                config.kubernetes,
                process,
                self._notice_charge,
                health.set_condition,
                shard=shard,
                replica=config.sharding.replica,
            )
            for shard in range(config.kubernetes.shards)
        ]
        self._shards = HeldShards(self._leases if self._has_lease else (), Subjects(config.bus.prefix).decision)
        self.definitions = DefinitionSet(config.domains, config.signal.period)
        self.instances = Instances(self.definitions)
        self._resources = ResourceDomains(
            client,
            self.definitions,
            config.kubernetes.resources,
            on_change=self._wake_all,
            set_note=health.set_note,
            is_in_charge=lambda: (
                not config.kubernetes.dry_run
                and (not self._has_lease or self._leases[0].charge(time.monotonic()) is Charge.MINE)
            ),
            warn=lambda workload, why: self._events.record(workload, "NotEnrolled", why, is_warning=True),
            find_instances=self.instances.find_names,
            find_without_critical=self.instances.find_without_critical,
        )
        shared = Dependencies(
            client=client,
            outbox=self._outbox,
            events=self._events,
            set_note=health.set_note,
            set_condition=health.set_condition,
            process=process,
            pause=self._find_pause,
            dry_run=config.kubernetes.dry_run,
        )
        if self._has_lease:
            # The first shard's holder also publishes definitions and writes statuses.
            shared = replace(shared, charge=self._leases[0].charge, charge_of=self._shards.find_charge)
        placement = Placement(client, self.instances.see, health.set_note)
        self._targets = TargetSet(client, health, shared, placement, self._shards.is_ours)
        self._publisher = Publisher(
            self.instances,
            lambda: shared.charge(shared.steady()) is not Charge.OTHERS,
            on_replaced=lambda last: self._targets.release(last.configuration),
        )
        self._file = None if path is None else FileSource(path, config, self.definitions, health.set_note)
        self._joined = set[str]()
        """Domains that the bus was not asked about yet: instances that are new, and those of a shard taken over."""
        self._has_joined = asyncio.Event()
        self._define([domain.name for domain in self.definitions.domains])
        self.instances.on_change(self._define)

    def _find_pause(self, domain: str) -> str | None:
        """Why a person paused a domain by its resource; None where nobody did.  Instances are paused together."""
        held = self.instances.holding.get(domain) or self.instances.templates.get(domain)
        resource = None if held is None else self._resources.watcher.resources.get(held.source.key)
        return None if resource is None else resource.pause

    def _define(self, names: Collection[str]) -> None:
        """Act on domains as they hold from now on."""
        held = {name: self.instances.holding.get(name) or self.instances.templates.get(name) for name in names}
        known, instances = self._targets.reconcilers, [one.domain for one in held.values() if one and one.domain.on]
        self._ask_bus(
            one.name for one in instances if any((one.name, target.key) not in known for target in one.targets)
        )
        self._targets.define({name: None if one is None else one.domain for name, one in held.items()})
        for name in names:
            self._shards.read(name, is_there=name in self.instances.holding)

    def _ask_bus(self, names: Iterable[str]) -> None:
        """Have the bus asked for what it holds of those of these domains that are ours."""
        self._joined |= {name for name in names if self._shards.is_ours(name)}
        if self._joined:
            self._has_joined.set()

    def _notice_charge(self) -> None:
        """Take up the domains of shards that have come to this actuator, and leave those that another has now."""
        shards = self._shards.notice_charge(time.monotonic())
        for shard in range(len(self._leases)) if self._shards.is_sharded else ():
            self._health.set_note(f"shard {shard}", self._shards.explain(shard))
        names = {name for name in self.instances.holding if shards and self._shards.find_shard(name) in shards}
        self._targets.reassign(names)
        for name in names:
            self._shards.read(name, is_there=True)
        self._ask_bus(names)
        self._wake_all()

    async def run(self, join: Callable[[], AbstractAsyncContextManager[Bus]]) -> None:
        """Act, for ever; ``join`` waits for the bus."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_targets())
            for lease in self._leases:
                group.create_task(lease.run())
            group.create_task(self._events.run())
            group.create_task(self._resources.run())
            group.create_task(self._expire_instances())
            if self._file is not None:
                group.create_task(self._file.run())
            leftovers = report_leftovers(
                self._client, lambda: self._targets.targets, self._events, self._health.set_note
            )
            group.create_task(leftovers)
            await self._use_bus(join)

    async def _run_targets(self) -> None:
        await self._resources.wait_for_first()
        await self._targets.run()

    async def _expire_instances(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_S)
            self.instances.expire()

    def _wake_all(self) -> None:
        self._targets.wake()
        self._publisher.wake()

    async def _use_bus(self, join: Callable[[], AbstractAsyncContextManager[Bus]]) -> None:
        """Consume decisions and publish reports, for ever, whatever goes wrong with the bus."""
        back_off = BackOff()
        while True:
            try:
                async with join() as bus, asyncio.TaskGroup() as group:
                    self._resources.keeper.bus = bus
                    await self._offer_last(bus, [one for one in self.instances.holding if self._shards.is_ours(one)])
                    self._targets.has_bus_answered = True
                    self._health.set_ok(_DECISIONS)
                    failpoints.point("actuator.started")
                    group.create_task(self._outbox.run(partial(publish_action, bus)))
                    group.create_task(self._catch_up(bus))
                    group.create_task(self._welcome(bus))
                    group.create_task(self._publisher.run(bus))
                    await self._consume(bus)
            except Exception as error:  # noqa: BLE001 - logged, shown on /readyz, and retried
                # The dead-man works without the bus, and must not end with it.
                _log.exception("the bus side failed and begins again")
                self._health.set_failed(_DECISIONS, f"{type(error).__name__}: {error}")
            await back_off.wait()

    async def _fetch_decisions(self, bus: Bus) -> None:
        """Offer the latest decision of every domain that is ours."""
        names = [domain.name for domain in self.instances.domains if self._shards.is_ours(domain.name)]
        await _do_each(partial(self._fetch_decision, bus), names)

    async def _fetch_decision(self, bus: Bus, name: str) -> None:
        decision = await self._fetch_last(bus, Decision, bus.subjects.decision(name))
        if decision is not None and decision.message.domain == name:
            self._dispatch(decision)

    async def _offer_last(self, bus: Bus, names: Collection[str]) -> None:
        """Offer the last decisions of domains, and let their reconcilers know that the bus has supplied what it holds.

        One that takes a reconciler's place meanwhile waits for its own: it has not got these decisions.
        """
        before = [(key, one) for key, one in self._targets.reconcilers.items() if key[0] in names]
        await _do_each(partial(self._fetch_decision, bus), sorted(names))

        async def resume(known: tuple[tuple[str, str], Reconciler]) -> None:
            key, reconciler = known
            action = await self._fetch_last(bus, Action, bus.subjects.action(*key))
            reconciler.resume(None if action is None else action.message)

        await _do_each(resume, before)

    async def _welcome(self, bus: Bus) -> None:
        """Offer domains that are new here what the bus holds: instances come with their Pods, others with a shard."""
        while True:
            await self._has_joined.wait()
            self._has_joined.clear()
            names, self._joined = self._joined, set()
            if self._shards.is_sharded and any(map(self._shards.is_ours, names)):
                # Looked up earlier, a decision that is published meanwhile would be missed.
                await self._shards.subjects.wait_until_read()
            await self._offer_last(bus, names)
            failpoints.point("actuator.welcomed")

    async def _catch_up(self, bus: Bus) -> None:
        """Fetch the latest decisions whenever this process was stopped for a while.

        What the server sent meanwhile may be lost, and comes again only after ``_ACK_WAIT_S``: too late for a cut.
        """
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            if time.monotonic() - before > _STOPPED_S:
                _log.warning("was stopped for a while", seconds=round(time.monotonic() - before, 1))
                await self._fetch_decisions(bus)

    async def _fetch_last(self, bus: Bus, kind: type[M], subject: str) -> Received[M] | None:
        """Fetch the last message on a subject; tries until the bus answers."""
        back_off = BackOff()
        while True:
            try:
                return await bus.get_last(kind, subject)
            except Unreadable as error:
                _log.warning("last message cannot be read", subject=subject, reason=str(error))
                return None
            except (Denied, ApiError) as error:
                reason = f"the last message on {subject} cannot be looked up: {error}"
                _log.warning("look-up refused", subject=subject, reason=str(error))
                self._health.set_failed(_DECISIONS, reason)
            await back_off.wait()

    async def _consume(self, bus: Bus) -> None:
        # Nothing older than the latest decision of each domain can be put in force.
        decisions: AsyncGenerator[Received[Decision], None] = bus.consume(
            Decision,
            self._durable,
            NAME,
            start="latest",
            ack_wait=_ACK_WAIT_S,
            transient=True,
            once=True,
            share=self._shards.share,
        )
        async with aclosing(decisions):
            async for received in decisions:
                failpoints.point("actuator.received")
                domain = received.message.domain
                if bus.subjects.decision(domain) != received.subject:
                    await bus.dead_letter(NAME, received, f"a decision of domain {domain!r} on another's subject")
                    await received.ack()
                    continue
                try:
                    is_awaited = self._dispatch(received)
                except Exception as error:  # noqa: BLE001 - whatever one decision raises, the next is heard
                    await bus.dead_letter(NAME, received, f"{type(error).__name__}: {error}")
                    await received.ack()
                    continue
                if not is_awaited:
                    _log.warning("decision about no configured target", domain=domain[:100])
                    await received.ack()

    def _dispatch(self, received: Received[Decision]) -> bool:
        """Offer a decision to the reconcilers of its targets; returns whether there are any."""
        decision = received.message
        parts = [(self._targets.reconcilers.get((decision.domain, part.target)), part) for part in decision.targets]
        known = [(reconciler, part) for reconciler, part in parts if reconciler is not None]
        pending = PendingAck(received.acknowledgement, received.headers, len(known))
        for reconciler, part in known:
            reconciler.offer(decision, part, received.published, pending)
        return bool(known)


async def act(config: Config, path: Path | None = None) -> None:
    """Act until cancelled; with the configuration's path, changes of its domains are taken up."""
    health = Health("bus", "streams")
    async with (
        KubeClient.connect(config.kubernetes, config.sharding.patches_per_second) as client,
        serve(health, config.listen.host, config.listen.actuator),
    ):
        await Actuator(config, client, health, path).run(partial(join_bus, config, NAME, health))


@click.command()
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
def command(path: Path) -> None:
    """Act: put the limits in force on the cluster."""
    try:
        config = load(path)
        logging_setup.configure(NAME, config.log)
        run(act(config, path))
    except (ConfigError, KubeConfigError) as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
