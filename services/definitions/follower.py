"""What a service knows of the domains' definitions: from its own file at first, and then as the bus has them.

    <prefix>.definition.v1.<domain> --> here --> the service's own parts, domain by domain

A service without a bus works with its file.  It refuses a definition that it cannot use, and the one before holds.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing

import structlog
from msgspec import Struct

from schemas.definition import Definition
from schemas.domain import Domain, without_templates
from schemas.messages import InvalidMessage, decode
from services.bus.bus import Bus, Denied
from services.bus.connection import ApiError
from services.bus.envelope import RawMessage
from services.control import Controller

_log = structlog.get_logger()

Listener = Callable[["Defined | None", "Defined | None"], None]
"""Takes a domain as it was and as it is from now on; None: not there."""


class Defined(Struct, frozen=True):
    """A domain's definition in effect."""

    domain: Domain
    revision: int = 0
    """0: the service's own file."""
    published: int = 0
    """When the bus stored it, UTC ns."""
    without_critical: bool = False
    """See ``Definition.without_critical``."""


class Follower:
    """The definitions in effect, by domain."""

    def __init__(
        self,
        domains: Iterable[Domain],
        set_note: Callable[[str, str | None], None],
        check: Callable[[tuple[Domain, ...]], object] | None = None,
    ) -> None:
        """Begin with the file's domains.

        Args:
            domains: of the file; instances of those that stand for some come from the bus.
            set_note: shows a text about a domain on ``/readyz``, or no longer (None).
            check: raises a ValueError where this service cannot work with all these domains; it costs in proportion
                to their number.
        """
        # One without a target waits for the bus to say who has joined it.
        self._defined = {domain.name: Defined(domain) for domain in without_templates(domains) if domain.targets}
        self._removed: dict[str, tuple[int, int]] = {}
        """Revision and time of those that are gone, by name, to know what came before their removal.

        Nodes come and go for ever, so nothing else is kept of their instances.
        """
        self._set_note = set_note
        self._check = check
        self._listeners: list[Listener] = []

    @property
    def defined(self) -> Mapping[str, Defined]:
        """What is in effect, by the domain's name."""
        return self._defined

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains in effect."""
        return tuple(one.domain for one in self._defined.values())

    def on_change(self, listener: Listener) -> None:
        """Call ``listener`` after every change, in the event loop."""
        self._listeners.append(listener)

    async def load(self, bus: Bus) -> None:
        """Take what the bus has by now."""
        try:
            async with aclosing(bus.read("definition", start="latest")) as messages:
                async for raw in messages:
                    self._receive(bus, raw)
        except (ApiError, Denied) as error:
            _log.warning("definitions cannot be read: the file's hold", reason=str(error))

    async def follow(self, bus: Bus) -> None:
        """Take what the bus has, and every change of it, for ever."""
        async with aclosing(bus.read("definition", start="latest", follow=True)) as messages:
            async for raw in messages:
                self._receive(bus, raw)

    def _receive(self, bus: Bus, raw: RawMessage) -> None:
        try:
            definition = decode(Definition, raw.body)
        except InvalidMessage as error:
            self._refuse(raw.subject, str(error))
            return
        if bus.subjects.definition(definition.domain) == raw.subject:
            self.take(definition, raw.published)

    def take(self, definition: Definition, published: int) -> None:
        """Take a definition, unless it is older than the one in effect; ``published`` is when it was stored, UTC ns."""
        name = definition.domain
        before = self._defined.get(name)
        revision, stored = self._removed.get(name, (-1, -1)) if before is None else (before.revision, before.published)
        # On a bus that was wiped, revisions may begin at 1 again.
        if definition.revision <= revision and published <= stored:
            return
        domain = definition.configuration
        is_in_use = before is not None and before.domain == domain
        if before is not None and is_in_use:
            domain = before.domain  # kept once in memory
        after = Defined(domain, definition.revision, published, definition.without_critical)
        if definition.removed:
            self._removed[name] = definition.revision, published
            if self._defined.pop(name, None) is None:
                return
        else:
            why = None if is_in_use else self._why_unusable(domain)
            if why is not None:
                self._refuse(name, f"revision {definition.revision}: {why}")
                return
            self._removed.pop(name, None)
            self._defined[name] = after
        self._set_note(f"definition of {name}", None)
        _log.info("definition", domain=name, revision=definition.revision, removed=definition.removed)
        for listener in self._listeners:
            listener(before, None if definition.removed else after)

    def _why_unusable(self, domain: Domain) -> str | None:
        if domain.is_template:
            return f"it stands for an instance per {domain.per}, and is not controlled itself"
        try:
            Controller(domain)
            if self._check is not None:
                others = (one.domain for name, one in self._defined.items() if name != domain.name)
                self._check((*others, domain))
        except Exception as error:  # noqa: BLE001 - a policy of another package may raise anything
            return str(error) or type(error).__name__
        return None

    def _refuse(self, what: str, reason: str) -> None:
        """Show that a definition cannot be used; what held before holds on."""
        _log.warning("definition refused", definition=what, reason=reason)
        self._set_note(f"definition of {what}", f"refused, the one before holds: {reason}")
