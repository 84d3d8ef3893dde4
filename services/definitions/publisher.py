"""Publishes the definitions that hold, whenever one differs from the last on the bus.

Only the actuator in charge publishes.  A definition is written with compare-and-set on its domain's subject, so that
revisions only grow, whoever publishes.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing, suppress
from typing import Protocol

import structlog

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Domain
from schemas.messages import Decision, InvalidMessage, decode
from services.bus.bus import Bus, Conflict, Received, TooLarge, Unreadable
from services.definitions.definition_set import Held

_LOOK_S = 5.0
"""How often to look whether this process is still in charge."""
_AT_ONCE = 64
"""Definitions that are published at the same time: one change may concern a thousand instances."""

_log = structlog.get_logger()


class HeldDefinitions(Protocol):
    """What is published: a set of definitions, or one with the instances of its templates."""

    @property
    def holding(self) -> Mapping[str, Held]:
        """The domains that hold, by name."""

    def on_change(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener`` after every change with the names of the domains concerned."""

    def remember(self, domain: Domain, source: DefinitionSource) -> None:
        """Take what held last, as the bus has it, where nothing is known better."""


class Publisher:
    """Keeps the bus's definitions as the set has them."""

    def __init__(
        self,
        definitions: HeldDefinitions,
        is_in_charge: Callable[[], bool] = lambda: True,
        on_replaced: Callable[[Definition], None] = lambda _: None,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            definitions: what holds.
            is_in_charge: whether this process publishes.
            on_replaced: hears of every definition that no longer holds, once the one in its place is on the bus.
        """
        self._definitions = definitions
        self._is_in_charge = is_in_charge
        self._on_replaced = on_replaced
        self._last: dict[str, tuple[Definition | None, int]] = {}
        """By domain, the last definition on the bus (None: it cannot be read) and its sequence."""
        self._changed = set[str]()
        """Domains that may differ from the last on the bus."""
        self._awake = asyncio.Event()
        definitions.on_change(self._note_changed)

    def _note_changed(self, names: Collection[str]) -> None:
        self._changed |= set(names)
        self._awake.set()

    def wake(self) -> None:
        """Look again: who is in charge has changed."""
        self._awake.set()

    async def run(self, bus: Bus) -> None:
        """Publish, for ever."""
        was_in_charge = False
        while True:
            self._awake.clear()
            is_in_charge = self._is_in_charge()
            if is_in_charge:
                if not was_in_charge:
                    await self._load(bus)  # another one may have published meanwhile
                    self._changed = {*self._last, *self._definitions.holding}
                await self._publish_differences(bus)
            was_in_charge = is_in_charge
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._awake.wait()

    async def _load(self, bus: Bus) -> None:
        self._last.clear()
        async with aclosing(bus.read("definition", start="latest")) as messages:
            async for raw in messages:
                try:
                    found = decode(Definition, raw.body)
                except InvalidMessage as error:
                    _log.warning("definition cannot be read", subject=raw.subject, reason=str(error))
                    continue
                self._last[found.domain] = found, raw.seq
                if not found.removed:
                    self._definitions.remember(found.configuration, found.source)

    async def _publish_differences(self, bus: Bus) -> None:
        """Publish what changed; those that cannot be published for now stay to be looked at."""
        names = sorted(self._changed)
        for begin in range(0, len(names), _AT_ONCE):
            await asyncio.gather(*(self._publish_difference(bus, name) for name in names[begin : begin + _AT_ONCE]))

    async def _publish_difference(self, bus: Bus, name: str) -> None:
        held = self._definitions.holding.get(name)
        last, _ = self._last.get(name, (None, 0))
        is_there = last is not None and not last.removed
        if held is not None and not (last is not None and is_there and _is_same(last, held)):
            await self._publish(bus, name, held, removed=False)
        elif held is None and last is not None and is_there:
            await self._publish(bus, name, Held(last.configuration, last.source), removed=True)
        else:
            self._changed.discard(name)

    async def _publish(self, bus: Bus, name: str, held: Held, *, removed: bool) -> None:
        subject = bus.subjects.definition(name)
        last, seq = self._last.get(name) or await self._find_last(bus, name)
        before = last.revision if last is not None else await self._find_decided(bus, name)
        without = last is not None and last.without_critical if held.without_critical is None else held.without_critical
        definition = Definition(
            domain=name,
            revision=before + 1,
            source=held.source,
            configuration=held.domain,
            removed=removed,
            without_critical=without,
        )
        try:
            seq = await bus.publish(subject, definition, msg_id=f"{definition.id}:{seq}", expect_last=seq)
        except Conflict:
            # Another actuator was faster: look at what it published, and compare again.
            self._last[name] = await self._find_last(bus, name)
            self._awake.set()
            return
        except (TooLarge, InvalidMessage) as error:
            _log.error("definition not published", domain=name, reason=str(error))
            self._last[name] = definition, seq
            return
        self._last[name] = definition, seq
        _log.info("definition published", domain=name, revision=definition.revision, removed=removed)
        if last is not None and not last.removed:
            self._on_replaced(last)

    async def _find_last(self, bus: Bus, name: str) -> tuple[Definition | None, int]:
        """The last definition on a domain's subject, and its sequence; 0 without one."""
        try:
            found: Received[Definition] | None = await bus.get_last(Definition, bus.subjects.definition(name))
        except Unreadable as error:
            return None, error.raw.seq
        return (None, 0) if found is None else (found.message, found.seq)

    async def _find_decided(self, bus: Bus, name: str) -> int:
        """The revision that was decided under last: where definitions were lost, they do not begin at 1 again."""
        try:
            found: Received[Decision] | None = await bus.get_last(Decision, bus.subjects.decision(name))
        except Unreadable:
            return 0
        return 0 if found is None else found.message.definition


def _is_same(last: Definition, held: Held) -> bool:
    is_known = held.without_critical is None or held.without_critical == last.without_critical
    return is_known and last.configuration == held.domain and last.source.key == held.source.key
