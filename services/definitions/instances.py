"""Expands every definition with ``per`` into its instances: one for each node, or each value of a label, in use.

    DefinitionSet (templates and others) --+
                                           +--> here --> what the actuator acts on and publishes
    where Pods of its workloads are -------+

A place is in use while Pods of the definition's critical workloads or targets are there, and for a while after the last
one, so that a Pod that is replaced takes no instance away.  What is in use on one bus is known there: a process that
starts takes the instances up from it, and gives up those without Pods in the same time as ever.

In one process, and without I/O; nothing here is awaited.
"""

import time
from collections.abc import Callable, Collection, Mapping, Set

from schemas.definition import DefinitionSource
from schemas.domain import Domain
from services.definitions.definition_set import DefinitionSet, Held

LINGER_S = 60.0
"""How long an instance stays after its last Pod."""

Places = Mapping[str, frozenset[str]]
"""By node, or by value of the label, the nodes with Pods there."""
_NOWHERE = frozenset[str]()


class Instances:
    """All domains that are controlled: those that hold as they are, and the instances of the others."""

    def __init__(
        self, definitions: DefinitionSet, linger_s: float = LINGER_S, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """Follow a set of definitions; ``steady`` gives seconds by a clock that never steps."""
        self._definitions = definitions
        self._linger_s = linger_s
        self._steady = steady
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._templates: dict[str, Held] = {}
        self._holding: dict[str, Held] = {}
        self._places: dict[str, dict[str, frozenset[str]]] = {}
        """By template, where its instances are."""
        self._empty: dict[tuple[str, str], float] = {}
        """By template and place, since when no Pod has been there."""
        self._critical: dict[str, Set[str]] = {}
        """By template, the places with critical Pods, where that is known."""
        self._names: dict[str, dict[str, str]] = {}
        """By template, its instances' names by place."""
        self._take(definitions.holding)
        definitions.on_change(self._redefine)

    @property
    def holding(self) -> Mapping[str, Held]:
        """The domains that are controlled, by name; changes with the set."""
        return self._holding

    @property
    def templates(self) -> Mapping[str, Held]:
        """The definitions that stand for instances, by name; changes with the set."""
        return self._templates

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains that are controlled: those of the set in its order, each with its instances by name."""
        found: list[Domain] = []
        for domain in self._definitions.domains:
            names = sorted(self._names.get(domain.name, {}).values()) if domain.is_template else [domain.name]
            found += [self._holding[name].domain for name in names if name in self._holding]
        return tuple(found)

    def find_names(self, template: str) -> Mapping[str, str]:
        """Find the names of a template's instances by place."""
        return self._names.get(template, {})

    def on_change(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener`` after every change, with the names of the domains and templates concerned."""
        self._listeners.append(listener)

    def find_without_critical(self, template: str) -> Set[str]:
        """Find the places of a template's instances without a critical Pod: nothing is measured there, by design."""
        names = self.find_names(template)
        return {place for place, name in names.items() if self._holding[name].without_critical}

    def see(self, template: str, places: Places, critical: Set[str] | None = None) -> None:
        """Take note of where Pods of a template's workloads are now.

        Args:
            template: its name.
            places: where any of its workloads has Pods.
            critical: the places with critical Pods; None: not known yet.
        """
        if template not in self._templates:
            return
        is_other = critical is not None and self._critical.get(template) != critical
        if critical is not None:
            self._critical[template] = frozenset(critical)
        known = self._places.setdefault(template, {})
        for place in known.keys() - places.keys():
            self._empty.setdefault((template, place), self._steady())
        for place in places:
            self._empty.pop((template, place), None)
        if is_other or any(known.get(place) != nodes for place, nodes in places.items()):
            known |= places
            if changed := self._expand(template):
                self._announce(changed)

    def remember(self, domain: Domain, source: DefinitionSource) -> None:
        """Take what held last, as the bus has it, where nothing is known better: see ``DefinitionSet.remember``."""
        if not domain.of:
            self._definitions.remember(domain, source)
            return
        self._definitions.remember(domain.build_template(), source)
        template, place = domain.of, domain.on or ""
        known = self._places.setdefault(template, {})
        if template in self._templates and place not in known and self._templates[template].domain.per == domain.per:
            known[place] = frozenset(domain.nodes or ())
            self._empty[template, place] = self._steady()
            self._announce(self._expand(template))

    def expire(self) -> None:
        """Give up the instances without Pods whose time is over; to be called about once a second."""
        before = self._steady() - self._linger_s
        changed = set[str]()
        for template, place in [one for one, since in self._empty.items() if since <= before]:
            del self._empty[template, place]
            del self._places[template][place]
            changed |= self._expand(template)
        if changed:
            self._announce(changed)

    def _redefine(self, names: Collection[str]) -> None:
        holding = self._definitions.holding
        self._announce(self._take({name: holding.get(name) for name in names}) | set(names))

    def _take(self, changed: Mapping[str, Held | None]) -> set[str]:
        """Take up definitions as they hold from now on; returns the names of the domains concerned."""
        names = set[str]()
        for name, held in changed.items():
            before = self._templates.pop(name, None)
            if before is None:
                self._holding.pop(name, None)
            if held is not None and held.domain.is_template:
                if before is not None and before.domain.per != held.domain.per:
                    self._forget(name)  # the same word is another place
                self._templates[name] = held
            elif held is not None:
                self._holding[name] = held
            if before is not None and name not in self._templates:
                self._forget(name)
            names |= self._expand(name)
        return names

    def _forget(self, template: str) -> None:
        self._critical.pop(template, None)
        for place in self._places.pop(template, {}):
            self._empty.pop((template, place), None)

    def _expand(self, template: str) -> set[str]:
        """Bring a template's instances up to date; returns the names of those that are new, others or gone."""
        held, changed = self._templates.get(template), set[str]()
        before, critical = self._names.pop(template, {}), self._critical.get(template)
        names: dict[str, str] = {}
        for place, nodes in self._places.get(template, {}).items() if held is not None else ():
            assert held is not None
            domain = held.domain.build_instance(place, tuple(sorted(nodes)))
            if domain.name in self._definitions.holding:
                continue  # somebody has given that name to another domain
            names[place] = domain.name
            instance = Held(domain, held.source, None if critical is None else place not in critical)
            if self._holding.get(domain.name) != instance:
                self._holding[domain.name] = instance
                changed.add(domain.name)
        for name in set(before.values()) - set(names.values()) - self._definitions.holding.keys():
            del self._holding[name]
            changed.add(name)
        if names:
            self._names[template] = names
        return changed

    def _announce(self, names: Collection[str]) -> None:
        for listener in self._listeners:
            listener(names)
