"""The domains that hold, merged from all sources: what the actuator acts on, and publishes when it is in charge.

Every source has one say: what it offers last that can be used.  An offer that cannot be used is refused with a reason,
and the last one of the same source that could holds on.  No two domains share a name or a target.  Where offers clash,
the file's come first, then the resource that was created first; the others are refused, and hold as soon as nothing is
in their way.  So two actuators that see the same sources agree, in whatever order they saw them.

In one process, and without I/O; nothing here is awaited.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from schemas.definition import DefinitionSource
from schemas.domain import Domain
from schemas.units import Duration
from services.control import Controller

SourceKey = tuple[str, str, str]
"""See ``DefinitionSource.key``."""


class Held(Struct, frozen=True):
    """A domain that holds, and where it comes from."""

    domain: Domain
    source: DefinitionSource


class _Offer(Struct):
    source: DefinitionSource
    created: str
    wanted: Held | None = None
    """What it offered last, if that can be used by itself."""
    held: Held | None = None
    """What holds, or held last."""
    refused: str | None = None
    """Why what it offered last cannot be used by itself."""


class DefinitionSet:
    """All domains of one process; a change is announced once it is whole."""

    def __init__(self, domains: Iterable[Domain], period: Duration) -> None:
        """Begin with the file's domains, which were checked; ``period`` is the time from one sample to the next."""
        self._period = period
        self._offers: dict[SourceKey, _Offer] = {}
        self._listeners: list[Callable[[], None]] = []
        self.holding: Mapping[str, Held] = {}
        """The domains that hold, by name; replaced as a whole by every change."""
        self._are_resources_known = False
        self.refusals: Mapping[SourceKey, str] = {}
        """Why a source's last offer does not hold, by source; replaced as a whole by every change."""
        self.replace_file(domains)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains that hold."""
        return tuple(held.domain for held in self.holding.values())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change of ``holding`` or ``refusals``, in this process's event loop."""
        self._listeners.append(listener)

    def replace_file(self, domains: Iterable[Domain]) -> None:
        """Take the domains of a file that can be used: those that it no longer has are given up."""
        offered = {DefinitionSource(name=domain.name).key: domain for domain in domains}
        kept = {key: one for key, one in self._offers.items() if key[0] != "file" or key in offered}
        for key, domain in offered.items():
            source = DefinitionSource(name=domain.name)
            offer = kept.setdefault(key, _Offer(source, ""))
            offer.wanted, offer.refused = Held(domain, source), None
        # In the file's order.
        self._offers = {key: kept[key] for key in offered} | {key: kept[key] for key in kept if key not in offered}
        self._merge()

    def put(self, domain: Domain, source: DefinitionSource, created: str = "") -> str | None:
        """Take a resource's domain in place of what it offered before.

        Args:
            domain: as the types could check it.
            source: the resource, with its uid and generation.
            created: orders resources that clash: its creation time, RFC 3339.

        Returns:
            Why it is refused; None: it holds.  ``refusals`` has the same, and may change when others do.
        """
        offer = self._offers.setdefault(source.key, _Offer(source, created))
        offer.source, offer.created = source, created
        offer.refused = self._why_unusable(domain)
        if offer.refused is None:
            offer.wanted = Held(domain, source)
        self._merge()
        return self.refusals.get(source.key)

    def refuse(self, source: DefinitionSource, reason: str, created: str = "") -> None:
        """Take note that a resource cannot be read as a domain; what it offered before holds on."""
        offer = self._offers.setdefault(source.key, _Offer(source, created))
        offer.source, offer.refused = source, reason
        self._merge()

    def withdraw(self, source: DefinitionSource) -> None:
        """Give up what a resource offered: it is gone."""
        if self._offers.pop(source.key, None) is not None:
            self._merge()

    def remember(self, domain: Domain, source: DefinitionSource) -> None:
        """Take what held last for a resource, as the bus has it, where nothing of that resource is known better.

        After a restart, neither a resource that is refused by now nor a slow API server takes a domain away.
        """
        offer = self._offers.get(source.key)
        if offer is None and not self._are_resources_known and source.kind == "resource":
            # As young as can be: what the API server shows of others comes first.
            offer = self._offers[source.key] = _Offer(source, "~")
        if offer is not None and offer.held is None and offer.wanted is None and self._why_unusable(domain) is None:
            offer.held = Held(domain, source)
            self._merge()

    def confirm_resources(self, sources: Iterable[DefinitionSource]) -> None:
        """Take note that these are all resources there are: of the others, nothing holds any more."""
        self._are_resources_known = True
        known = {source.key for source in sources}
        gone = [key for key in self._offers if key[0] == "resource" and key not in known]
        for key in gone:
            del self._offers[key]
        if gone:
            self._merge()

    def _why_unusable(self, domain: Domain) -> str | None:
        try:
            Controller(domain)
        except ValueError as error:
            return str(error)
        return domain.why_too_hasty(self._period)

    def _merge(self) -> None:
        """Let every source's offer hold that clashes with none before it, or else what it held before."""
        holding: dict[str, Held] = {}
        owners: dict[str, Held] = {}
        refusals: dict[SourceKey, str] = {}
        files = [one for one in self._offers.values() if one.source.kind == "file"]
        resources = [one for one in self._offers.values() if one.source.kind != "file"]
        for offer in [*files, *sorted(resources, key=lambda one: (one.created, one.source.key))]:
            refused = offer.refused
            for held in (offer.wanted, offer.held):
                if held is None:
                    continue
                clash = _find_clash(held.domain, holding, owners) or _find_other_scope(held, offer.held)
                if clash is None:
                    offer.held = holding[held.domain.name] = held
                    owners |= dict.fromkeys((target.key for target in held.domain.targets), held)
                    break
                refused = refused or clash
            if refused is not None:
                refusals[offer.source.key] = refused
        if (holding, refusals) != (self.holding, self.refusals):
            self.holding, self.refusals = holding, refusals
            for listener in self._listeners:
                listener()


def _find_clash(domain: Domain, holding: Mapping[str, Held], owners: Mapping[str, Held]) -> str | None:
    """What keeps a domain from holding beside those that do; None: nothing."""
    same = holding.get(domain.name)
    if same is not None:
        return f"domain {domain.name!r} is defined by {same.source} already"
    for target in domain.targets:
        if (owner := owners.get(target.key)) is not None:
            return f"target {target.key} belongs to domain {owner.domain.name!r} of {owner.source}"
    return None


def _find_other_scope(wanted: Held, held: Held | None) -> str | None:
    """What keeps a domain from taking the place of the one that holds; None: nothing.

    A limit for each Pod is another quantity than one for all together: neither can go on as the other.
    """
    scopes = {} if held is None else {target.key: target.scope for target in held.domain.targets}
    for target in wanted.domain.targets:
        if scopes.get(target.key, target.scope) != target.scope:
            return (
                f"target {target.key}: its scope cannot change while it is limited: take it out first, then put it back"
            )
    return None
