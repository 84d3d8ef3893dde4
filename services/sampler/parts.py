"""Which part of a workload a series belongs to, where instances look at some nodes alone.  Pure.

A workload that an instance looks at is read node by node: as ``namespace/name@node``.  What a domain measures of it
adds up the nodes that the domain is about: one, those with a value of a label, or all.
"""

from collections.abc import Iterable, Mapping

from schemas.domain import Domain

_AT = "@"
"""In no name of the API."""


class Parts:
    """The parts of workloads that some domains look at."""

    def __init__(self, domains: Iterable[Domain] = ()) -> None:
        """Take the instances among these domains; the others look at whole workloads."""
        self._by_node: dict[str, list[str]] = {}
        """By a workload's part on a node, the names of all that it counts for."""
        whole, split = set[str](), set[str]()
        for domain in domains:
            if domain.places is None:
                whole.update(domain.workloads)
                continue
            split.update(domain.workloads)
            for key in domain.workloads:
                for node in domain.places:
                    self._by_node.setdefault(f"{key}{_AT}{node}", []).append(domain.name_part(key))
        self.split = frozenset(split)
        """The workloads that are read node by node."""
        self._whole = whole & split

    def find(self, key: str, node: str) -> str:
        """What a series of a workload on a node is read as; the node is empty where a series names none."""
        return f"{key}{_AT}{node}" if key in self.split else key

    def expand(self, part: str) -> tuple[str, ...]:
        """The names of all that a part counts for."""
        key, at, _ = part.partition(_AT)
        if not at:
            return (part,)
        return (*self._by_node.get(part, ()), *([key] if key in self._whole else []))

    def expand_all(self, parts: Iterable[str]) -> set[str]:
        """The names of all that some parts count for."""
        return {name for part in parts for name in self.expand(part)}

    def expand_reasons(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Reasons about parts, by the names of what they count for."""
        return {name: why for part, why in reasons.items() for name in self.expand(part)}


NO_PARTS = Parts()


def explain_absence(metric: str, name: str, label: str, present: Iterable[str]) -> str:
    """Why a page measures nothing of a workload, or of a part of it.

    Args:
        metric: the latency histogram.
        name: of what is measured.
        label: the histogram's label for a node; empty: it has none.
        present: what the pages have, as it was read.
    """
    key, at, place = name.partition(_AT)
    if not at:
        return f"not measured: the page has no series of {metric} for it"
    if not label:
        return f"not measured: {metric} has no label for a node: set signal.labels.node"
    if f"{key}{_AT}" in present:
        return f"not measured: its series of {metric} have no label {label}: the exporter is older, or not told yet"
    return f"not measured: the page has no series of {metric} for it on {place}"
