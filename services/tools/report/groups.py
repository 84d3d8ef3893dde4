"""The domains of a report, the instances of a definition taken together: one line of a table each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from services.tools.common.formatting import definition_of
from services.tools.report.statistics import DomainStatistics

Fare = Literal["over an SLO at times", "without data", "within their SLOs", "without a critical Pod"]
"""How an instance fared, the worst first."""


@dataclass(frozen=True)
class DefinitionGroup:
    """A domain of its own, or all instances of one definition."""

    name: str
    domains: Sequence[DomainStatistics]
    """The worst first."""

    @property
    def alone(self) -> "list[DefinitionGroup]":
        """Each of them as a group of its own, the worst first."""
        return [DefinitionGroup(one.name, [one]) for one in self.domains]

    @property
    def windows(self) -> int:
        """Windows of all."""
        return sum(one.windows for one in self.domains)

    @property
    def violated(self) -> int:
        """Windows in which an SLO was broken."""
        return sum(one.violated for one in self.domains)

    @property
    def blind(self) -> int:
        """Windows without data."""
        return sum(one.blind for one in self.domains)

    @property
    def changed(self) -> int:
        """How often limits moved."""
        return sum(one.changed for one in self.domains)

    @property
    def share_within(self) -> float | None:
        """Share of the windows with data in which no SLO was broken; None without data."""
        seen = self.windows - self.blind
        return 1 - self.violated / seen if seen > 0 else None

    @property
    def worst(self) -> float | None:
        """The largest ratio of a latency to its SLO while one was broken; None where none was."""
        return max((one.broken.worst.worst for one in self.domains if one.broken.worst), default=None)

    @property
    def policies(self) -> list[str]:
        """The policies that decided."""
        return list(dict.fromkeys(policy for one in self.domains for policy in one.policies))

    @property
    def fares(self) -> list[tuple[str, int]]:
        """How the instances fared, and how many of them did; empty for a domain of its own."""
        counts = Counter(_judge(one)[1] for one in self.domains) if len(self.domains) > 1 else Counter[Fare]()
        return [(fare, counts[fare]) for fare in get_args(Fare) if counts[fare]]


def _judge(one: DomainStatistics) -> tuple[int, Fare, float]:
    """Rank an instance by how it fared, the worst first."""
    if one.violated:
        return 0, "over an SLO at times", one.share_within or 0.0
    if one.share_within is not None:
        return 2, "within their SLOs", -one.blind / one.windows
    return (3, "without a critical Pod", 0.0) if one.without_critical else (1, "without data", 0.0)


def group_domains(domains: Sequence[DomainStatistics]) -> list[DefinitionGroup]:
    """DefinitionGroup the instances by definition; groups and instances the worst first."""
    members: dict[str, list[DomainStatistics]] = {}
    for one in domains:
        members.setdefault(definition_of(one.name) or one.name, []).append(one)
    groups = [
        DefinitionGroup(name if len(found) > 1 else found[0].name, sorted(found, key=_judge))
        for name, found in members.items()
    ]
    return sorted(groups, key=lambda group: 2.0 if group.share_within is None else group.share_within)
