"""The actuator: decisions in, each handed to the targets it is about; one hand per target.

Every actuator hears every decision through a consumer of its own, whoever else listens: one that is not
in charge of a target, or that only says what it would do, keeps none from the one that is.

Works without the bus: without decisions the targets fall to their fail-safe limits by themselves,
and what is done is reported when the bus is there.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial

import structlog

from schemas.config import Config
from schemas.domain import Domain
from schemas.messages import Action, Decision, M
from services.actuator.informer import Watch
from services.actuator.kube_events import Events
from services.actuator.outbox import BusOutlet, Duty, Reports
from services.actuator.reconciler import Hand, Means
from services.bus.bus import Bus, Received, Unreadable
from services.bus.connection import Denied
from services.bus.session import ApiError
from services.common import failpoints
from services.common.backoff import BackOff
from services.kube.client import Cluster
from services.runtime.health import Health

NAME = "actuator"
_ACK_WAIT_S = 10.0
_DECISIONS = "decisions"
"""The condition that the bus told what is in force."""

_log = structlog.get_logger()


class Actuator:
    """Acts on all configured domains."""

    def __init__(self, config: Config, cluster: Cluster, health: Health) -> None:
        """Prepare; ``run`` does the work."""
        self._health = health
        self._cluster = cluster
        self._domains = {domain.name: domain for domain in config.domains}
        self._reports = Reports()
        self._events = Events(cluster, health.set_note)
        # Nobody else can name it: who can read the bus could take messages from it.
        self._durable = f"{NAME}-{secrets.token_hex(16)}"
        means = Means(cluster, self._reports, self._events, secrets.token_hex(6), config.kubernetes.dry_run)
        self._hands = {
            (domain.name, target.key): Hand(domain, target, means)
            for domain in config.domains
            for target in domain.targets
        }

    async def run(self, joined: Callable[[], AbstractAsyncContextManager[Bus]]) -> None:
        """Act, for ever; ``joined`` waits for the bus."""
        async with asyncio.TaskGroup() as group:
            for hand in self._hands.values():
                key = hand.target.key
                state = partial(self._state, hand)
                group.create_task(Watch(self._cluster, key, hand.seen, state).run())
                group.create_task(hand.run())
            group.create_task(self._events.run())
            await self._converse(joined)

    async def _converse(self, joined: Callable[[], AbstractAsyncContextManager[Bus]]) -> None:
        """Hear decisions and report, for ever: whatever goes wrong with the bus, the hands go on."""
        back_off = BackOff()
        while True:
            try:
                async with joined() as bus, asyncio.TaskGroup() as group:
                    for domain in self._domains.values():
                        await self._begin(bus, domain)
                    self._health.set_ok(_DECISIONS)
                    failpoints.point("actuator.begun")
                    group.create_task(self._reports.run(BusOutlet(bus)))
                    await self._listen(bus)
            except Exception as error:  # noqa: BLE001 - logged, shown on /readyz, and begun again
                # The dead-man works without the bus, and must not end with it.
                _log.exception("the bus side failed and begins again")
                self._health.set_failed(_DECISIONS, f"{type(error).__name__}: {error}")
            await back_off.wait()

    def _state(self, hand: Hand, trouble: str | None) -> None:
        if trouble is None and hand.seen.looked and hand.seen.deployment is None:
            trouble = "there is no such Deployment"
        self._health.set_condition(hand.target.key, trouble)

    async def _begin(self, bus: Bus, domain: Domain) -> None:
        """Ask the bus what is in force and what was reported."""
        decision = await self._last(bus, Decision, bus.subjects.decision(domain.name))
        if decision is not None and decision.message.domain == domain.name:
            self._hand_out(decision)
        for target in domain.targets:
            action = await self._last(bus, Action, bus.subjects.action(domain.name, target.key))
            self._hands[domain.name, target.key].begin(None if action is None else action.message)

    async def _last(self, bus: Bus, kind: type[M], subject: str) -> Received[M] | None:
        """The last message, asked for again and again until the bus tells."""
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

    async def _listen(self, bus: Bus) -> None:
        # Nothing older than the latest of each domain can be put in force.
        decisions: AsyncGenerator[Received[Decision], None] = bus.consume(
            Decision, self._durable, NAME, start="latest", ack_wait=_ACK_WAIT_S, transient=True
        )
        async with aclosing(decisions):
            async for received in decisions:
                failpoints.point("actuator.received")
                domain = received.message.domain
                if bus.subjects.decision(domain) != received.subject:
                    await bus.dead_letter(NAME, received, f"a decision of domain {domain!r} on another's subject")
                    await received.ack()
                elif not self._hand_out(received):
                    _log.warning("decision about nothing configured", domain=domain)
                    await received.ack()

    def _hand_out(self, received: Received[Decision]) -> bool:
        """Offer a decision to the targets it is about; gives whether there are any."""
        decision = received.message
        parts = [(self._hands.get((decision.domain, part.target)), part) for part in decision.targets]
        known = [(hand, part) for hand, part in parts if hand is not None]
        duty = Duty(received.ack, received.headers, len(known))
        for hand, part in known:
            hand.offer(decision, part, received.published, duty)
        return bool(known)
