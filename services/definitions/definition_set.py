"""The domains that hold, merged from all sources: what the actuator acts on, and publishes when it is in charge.

Every source has one say: what it offers last that can be used.  An offer that cannot be used is refused with a reason,
and the last one of the same source that could holds on.  No two domains share a name or a target.  Where offers clash,
the file's come first, then the resource that was created first; the others are refused, and hold as soon as nothing is
in their way.  So two actuators that see the same sources agree, in whatever order they saw them.

Workloads that join a domain by a label come last: what a definition names goes before them.  Nobody has joined before
the API server has answered; until then, those that the bus remembers stay.

A change costs in proportion to what changed: only the offers that want the same names or targets are compared again.

In one process, and without I/O; nothing here is awaited.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct

from schemas.definition import DefinitionSource
from schemas.domain import Domain, Target
from schemas.units import Duration
from services.control import Controller
from services.definitions.enrolment import Applicant, Place, find_places, join, label_of

SourceKey = tuple[str, str, str]
"""See ``DefinitionSource.key``."""


class Held(Struct, frozen=True):
    """A domain that holds, and where it comes from."""

    domain: Domain
    source: DefinitionSource
    without_critical: bool | None = None
    """Of an instance: whether no critical Pod is there; None: not known."""


Claimed = tuple[str, str]
"""What no two domains share: ``("domain", name)`` or ``("target", key)``; and ``("label", value)``, by which workloads
join."""


class _Offer(Struct):
    source: DefinitionSource
    created: str
    place: int = 0
    """In the file."""
    wanted: Held | None = None
    """What it offered last, if that can be used by itself."""
    held: Held | None = None
    """What holds, or held last."""
    refused: str | None = None
    """Why what it offered last cannot be used by itself."""
    remembered: tuple[Target, ...] = ()
    """The targets that the bus had of it when this process asked."""

    @property
    def rank(self) -> tuple[bool, int, str, SourceKey]:
        """Who comes first where offers clash: the file's, in its order, then the resource that was created first."""
        return self.source.kind != "file", self.place, self.created, self.source.key

    @property
    def claims(self) -> set[Claimed]:
        """The names and targets that it wants, or holds."""
        known = [held.domain for held in (self.wanted, self.held) if held is not None]
        found = {("domain", domain.name) for domain in known}
        found |= {("target", target.key) for domain in known for target in domain.targets}
        if any(domain.enrol is not None for domain in known):
            found |= {("label", label_of(domain.name)) for domain in known}
            found |= {("target", target.key) for target in self.remembered}
        return found


class DefinitionSet:
    """All domains of one process; a change is announced once it is whole."""

    def __init__(self, domains: Iterable[Domain], period: Duration) -> None:
        """Begin with the file's domains, which were checked; ``period`` is the time from one sample to the next."""
        self._period = period
        self._offers: dict[SourceKey, _Offer] = {}
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._claimed: dict[SourceKey, set[Claimed]] = {}
        """By offer, what it wants."""
        self._claimants: dict[Claimed, set[SourceKey]] = {}
        """The offers that want something."""
        self._holding: dict[str, Held] = {}
        self._refusals: dict[SourceKey, str] = {}
        self._turned_away: dict[SourceKey, dict[str, str]] = {}
        self._enrolling: dict[SourceKey, Domain] = {}
        self._applicants: dict[Place, dict[str, Applicant]] = {}
        """Where the API server has reported them, by key."""
        self._are_resources_known = False
        self.replace_file(domains)

    @property
    def holding(self) -> Mapping[str, Held]:
        """The domains that hold, by name; changes with the set."""
        return self._holding

    @property
    def refusals(self) -> Mapping[SourceKey, str]:
        """Why what a source offers does not hold, or not yet, by the source's key; changes with the set."""
        return self._refusals

    @property
    def turned_away(self) -> Mapping[SourceKey, Mapping[str, str]]:
        """By source, and by the workload's key, why one that would join does not; changes with the set."""
        return self._turned_away

    @property
    def places(self) -> set[Place]:
        """Where workloads may join some domain."""
        return {place for domain in self._enrolling.values() for place in find_places(domain)}

    @property
    def enrolling(self) -> Mapping[SourceKey, Domain]:
        """By source, the domains that workloads may join, whether one has or not; changes with the set."""
        return self._enrolling

    def find_owner(self, target: str) -> str | None:
        """The domain that has a target, by the target's key; None: it is no target."""
        for key in self._claimants.get(("target", target), ()):
            held = self._offers[key].held
            domain = None if held is None else self._holding.get(held.domain.name)
            if domain is not None and domain.source.key == key and target in {one.key for one in domain.domain.targets}:
                return domain.domain.name
        return None

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains that hold: the file's in its order, then the resources', the oldest first."""
        held = sorted(self._holding.values(), key=lambda one: self._offers[one.source.key].rank)
        return tuple(one.domain for one in held)

    def on_change(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener`` after every change, in this process's event loop.

        It gets the names of the domains that are new, others or gone; none where only ``refusals``, ``turned_away`` or
        ``enrolling`` changed.
        """
        self._listeners.append(listener)

    def replace_file(self, domains: Iterable[Domain]) -> None:
        """Take the domains of a file that can be used: those that it no longer has are given up."""
        offered = {DefinitionSource(name=domain.name).key: domain for domain in domains}
        gone = [key for key in self._offers if key[0] == "file" and key not in offered]
        for key in gone:
            del self._offers[key]
        for place, (key, domain) in enumerate(offered.items()):
            source = DefinitionSource(name=domain.name)
            offer = self._offers.setdefault(key, _Offer(source, ""))
            offer.place, offer.wanted, offer.refused = place, Held(domain, source), None
        self._merge([*gone, *offered])

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
        self._merge([source.key])
        return self.refusals.get(source.key)

    def refuse(self, source: DefinitionSource, reason: str, created: str = "") -> None:
        """Take note that a resource cannot be read as a domain; what it offered before holds on."""
        offer = self._offers.setdefault(source.key, _Offer(source, created))
        offer.source, offer.refused = source, reason
        self._merge([source.key])

    def withdraw(self, source: DefinitionSource) -> None:
        """Give up what a resource offered: it is gone."""
        if self._offers.pop(source.key, None) is not None:
            self._merge([source.key])

    def remember(self, domain: Domain, source: DefinitionSource) -> None:
        """Take what held last for a resource, as the bus has it, where nothing of that resource is known better.

        After a restart, neither a resource that is refused by now nor a slow API server takes a domain away.
        """
        offer = self._offers.get(source.key)
        if offer is not None and offer.held is not None and offer.held.domain.enrol is not None:
            offer.remembered = domain.targets
            self._merge([source.key])
            return
        if offer is None and not self._are_resources_known and source.kind == "resource":
            # As young as can be: what the API server shows of others comes first.
            offer = self._offers[source.key] = _Offer(source, "~")
        if offer is not None and offer.held is None and offer.wanted is None and self._why_unusable(domain) is None:
            offer.held, offer.remembered = Held(domain, source), domain.targets
            self._merge([source.key])

    def replace_applicants(self, place: Place, applicants: Iterable[Applicant]) -> None:
        """Take note that these are all workloads of a kind and namespace that would join a domain."""
        before, after = self._applicants.get(place), {one.key: one for one in applicants}
        if before == after:
            return
        self._applicants[place] = after
        changed = (before or {}).items() ^ after.items()
        claims = {("label", one.wanted) for _, one in changed} | {("target", key) for key, _ in changed}
        if before is None:  # what was remembered of the place holds no longer
            claims |= {claim for claim in self._claimants if claim[0] == "label"}
        self._merge({key for claim in claims for key in self._claimants.get(claim, ())})

    def forget_place(self, place: Place) -> None:
        """Nobody may join from a place any more, or not for now."""
        self._applicants.pop(place, None)

    def confirm_resources(self, sources: Iterable[DefinitionSource]) -> None:
        """Take note that these are all resources there are: of the others, nothing holds any more."""
        self._are_resources_known = True
        known = {source.key for source in sources}
        gone = [key for key in self._offers if key[0] == "resource" and key not in known]
        for key in gone:
            del self._offers[key]
        if gone:
            self._merge(gone)

    def _why_unusable(self, domain: Domain) -> str | None:
        if domain.of:
            return "of, on and nodes are Sluice's own: set per alone"
        try:
            Controller(domain)
        except Exception as error:  # noqa: BLE001 - a policy of another package may raise anything
            return str(error) or type(error).__name__
        return domain.why_too_hasty(self._period)

    def _merge(self, changed: Iterable[SourceKey]) -> None:
        """Let every offer that changed, or wants the same, hold unless it clashes, or else what it held before."""
        keys, claims = self._find_concerned(changed)
        holding: dict[str, Held] = {}
        owners: dict[str, Held] = {}
        refusals: dict[SourceKey, str] = {}
        for offer in sorted((self._offers[key] for key in keys if key in self._offers), key=lambda one: one.rank):
            refused = offer.refused
            for held in (offer.wanted, offer.held):
                if held is None:
                    continue
                clash = _find_clash(held.domain, holding, owners)
                if clash is None:
                    offer.held = holding[held.domain.name] = held
                    owners |= dict.fromkeys((target.key for target in held.domain.targets), held)
                    break
                refused = refused or clash
            if refused is not None:
                refusals[offer.source.key] = refused
            self._index(offer.source.key)  # what it held before, it claims no more
        enrolling = {held.source.key: held.domain for held in holding.values() if held.domain.enrol is not None}
        turned_away = self._admit(holding, owners)
        names = {name for kind, name in claims if kind == "domain"}
        others = {name for name in names if self._holding.get(name) != holding.get(name)}
        is_news = bool(others)
        for name in others - holding.keys():
            del self._holding[name]
        self._holding |= {name: held for name, held in holding.items() if name in others}
        is_news |= _replace(self._refusals, keys, refusals)
        is_news |= _replace(self._turned_away, keys, turned_away)
        is_news |= _replace(self._enrolling, keys, enrolling)
        if is_news:
            for listener in self._listeners:
                listener(others)

    def _admit(self, holding: dict[str, Held], owners: Mapping[str, Held]) -> dict[SourceKey, dict[str, str]]:
        """Let workloads join the domains that hold; returns why some do not, by source and by their keys."""
        turned_away: dict[SourceKey, dict[str, str]] = {}
        taken = {key: held.domain.name for key, held in owners.items()}
        for name, held in tuple(holding.items()):
            places = find_places(held.domain)
            if not places:
                continue
            applicants = [
                one
                for place in places
                for one in self._applicants.get(place, {}).values()
                if one.wanted == label_of(name)
            ]
            remembered = [
                one
                for one in self._offers[held.source.key].remembered
                if one.ref is not None
                and (one.ref.kind, one.namespace) in places
                and (one.ref.kind, one.namespace) not in self._applicants
            ]
            domain, refused = join(held.domain, applicants, remembered, taken)
            if refused:
                turned_away[held.source.key] = refused
            if domain is None:
                del holding[name]
                continue
            holding[name] = Held(domain, held.source)
            taken |= {target.key: name for target in domain.targets}
        return turned_away

    def _find_concerned(self, changed: Iterable[SourceKey]) -> tuple[set[SourceKey], set[Claimed]]:
        """The offers that want, or wanted, a name or a target that one of the changed does, and what all these want."""
        keys, claims, left = set[SourceKey](), set[Claimed](), list(changed)
        while left:
            key = left.pop()
            if key in keys:
                continue
            keys.add(key)
            new = (self._claimed.get(key, set()) | self._index(key)) - claims
            claims |= new
            left += [other for claim in new for other in self._claimants.get(claim, ())]
        return keys, claims

    def _index(self, key: SourceKey) -> set[Claimed]:
        """Note what an offer wants by now, and return it."""
        offer = self._offers.get(key)
        before, after = self._claimed.pop(key, set()), set() if offer is None else offer.claims
        for wanted in [value for kind, value in after if kind == "label"]:
            after |= {
                ("target", one.key)
                for applicants in self._applicants.values()
                for one in applicants.values()
                if one.wanted == wanted
            }
        for claim in before - after:
            self._claimants[claim].discard(key)
            if not self._claimants[claim]:
                del self._claimants[claim]
        for claim in after - before:
            self._claimants.setdefault(claim, set()).add(key)
        if after:
            self._claimed[key] = after
        return after


def _replace(known: dict[SourceKey, Any], keys: Iterable[SourceKey], found: Mapping[SourceKey, Any]) -> bool:
    """Let what was found of some sources take the place of what was known of them; returns whether it differs."""
    differs = False
    for key in keys:
        differs |= known.pop(key, None) != found.get(key)
    known.update(found)
    return differs


def _find_clash(domain: Domain, holding: Mapping[str, Held], owners: Mapping[str, Held]) -> str | None:
    """What keeps a domain from holding beside those that do; None: nothing."""
    same = holding.get(domain.name)
    if same is not None:
        return f"domain {domain.name!r} is defined by {same.source} already"
    for target in domain.targets:
        if (owner := owners.get(target.key)) is not None:
            return f"target {target.key} belongs to domain {owner.domain.name!r} of {owner.source}"
    return None
