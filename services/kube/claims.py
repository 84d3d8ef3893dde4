"""Whose a Pod is, among the targets that may have Pods in a namespace.  Pure.

The object nearest in the Pod's chain of owners comes first: a Job before its CronJob.  Then come objects whose scale
subresource selects it, and then label selectors, both in the order of the configuration.
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from schemas.domain import Target
from services.kube.objects import Owner, Pod, Workload, known_owners
from services.kube.selectors import Selector
from services.kube.workloads import CronJob, OtherOwner, build_selector


class Claim(Struct, frozen=True):
    """What there is to know about whose a Pod is."""

    target: str | None = None
    """The key of the target that it belongs to."""
    also: tuple[str, ...] = ()
    """Other targets that it matches as well."""
    stray_of: tuple[str, ...] = ()
    """Targets whose objects select it by its labels, although neither they nor another target own it."""


class _SelectorIndex:
    """Finds the selectors that match labels, without trying all of them."""

    def __init__(self, selectors: Iterable[tuple[str, Selector]]) -> None:
        self.labels = set[str]()
        self._by_label: dict[tuple[str, str], list[tuple[str, Selector]]] = {}
        self._others: list[tuple[str, Selector]] = []
        for key, selector in selectors:
            self.labels |= {*selector.match_labels, *(one.key for one in selector.match_expressions)}
            first = next(iter(selector.match_labels.items()), None)
            (self._others if first is None else self._by_label.setdefault(first, [])).append((key, selector))

    def find(self, labels: Mapping[str, str]) -> list[str]:
        """The keys of the selectors that match, in no order."""
        near = [one for pair in labels.items() for one in self._by_label.get(pair, ())]
        return [key for key, selector in (*near, *self._others) if selector.matches(labels)]


class Claims:
    """The claims of a namespace's targets on its Pods, as their objects are now."""

    def __init__(self, targets: Sequence[tuple[Target, Workload | None]]) -> None:
        """Take the targets in the order of the configuration; those without an object claim nothing."""
        self._owners: dict[tuple[str, str], list[tuple[str, Workload]]] = {}
        self._order: dict[str, int] = {}
        chosen, selecting = list[tuple[str, Selector]](), list[tuple[str, Selector]]()
        kinds = set[type[Workload]]()
        for target, workload in targets:
            if workload is None:
                continue
            if target.selector is not None:
                self._order[target.key] = len(self._order)
                chosen.append((target.key, build_selector(target.selector)))
                continue
            kinds.add(type(workload))
            self._owners.setdefault((workload.kind, workload.metadata.name), []).append((target.key, workload))
            if workload.selector is not None:
                scaled = isinstance(workload, OtherOwner)
                if scaled:
                    self._order[target.key] = len(self._order)
                (chosen if scaled else selecting).append((target.key, workload.selector))
        self._chosen, self._selecting = _SelectorIndex(chosen), _SelectorIndex(selecting)
        self._scaled = {key for key, _ in chosen} - {target.key for target, _ in targets if target.selector is not None}
        self._follows_all = any(issubclass(kind, OtherOwner) for kind in kinds)
        self._follows_jobs = any(issubclass(kind, CronJob) for kind in kinds)
        one = [selector for _, selector in (*chosen, *selecting)]
        self.query = one[0].query() if len(targets) == 1 and one and not self._follows_all else None
        """Selects all Pods that may be concerned, where one selector can."""
        self.labels = frozenset(self._chosen.labels | self._selecting.labels)
        """The labels that claims depend on."""

    def may_concern(self, pod: Pod) -> bool:
        """Whether a Pod may be a target's, or a stray; sees all its labels."""
        owners, labels = known_owners(pod), pod.metadata.labels or {}
        return (
            any((owner.kind, owner.name) in self._owners for owner in owners)
            or bool(owners and self.is_worth_following(owners[-1]))
            or bool(self._chosen.find(labels) or self._selecting.find(labels))
        )

    def is_worth_following(self, owner: Owner) -> bool:
        """Whether the owner of an owner may be a target."""
        if (owner.kind, owner.name) in self._owners and not self._follows_all:
            return False
        return owner.kind != "Node" if self._follows_all else self._follows_jobs and owner.kind == "Job"

    def judge(self, pod: Pod, chain: Sequence[Owner]) -> Claim:
        """Whose a Pod is; ``chain`` has its owners, the nearest first."""
        labels = pod.metadata.labels or {}
        found = [
            key
            for owner in chain
            for key, workload in self._owners.get((owner.kind, owner.name), ())
            # Of an owner whose name alone is known, the labels tell whether it is the present one of that name.
            if workload.is_named_by(owner)
            and (owner.uid or workload.selector is None or workload.selector.matches(labels))
        ]
        by_label = sorted(self._chosen.find(labels), key=lambda key: (key not in self._scaled, self._order[key]))
        found += [key for key in by_label if key not in found]
        if found:
            return Claim(target=found[0], also=tuple(found[1:]))
        return Claim(stray_of=tuple(self._selecting.find(labels)))
