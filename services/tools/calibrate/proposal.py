"""What calibration proposes: figures with their confidence and their evidence."""

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.units import Duration, Rate
from services.tools.calibrate.queue import Span

Confidence = Literal["high", "medium", "low", "none"]
"""``none``: the recording cannot tell."""
CONFIDENCES: tuple[Confidence, ...] = ("none", "low", "medium", "high")
"""Ascending."""
_SHOWN = 5


class Figure(Struct, frozen=True, kw_only=True):
    """One proposed setting."""

    setting: Literal["capacity", "min", "max", "fail_safe", "p95", "jitter"]
    key: str = ""
    """The target or the critical workload; empty for the domain's own."""
    value: Rate | Duration | None = None
    """None: no proposal, what is configured stays."""
    configured: Rate | Duration | None = None
    """What the recording's configuration has."""
    bound: Literal["", "at least", "at most"] = ""
    """Whether the value only bounds the truth."""
    confidence: Confidence
    why: str
    """How the value was found, or what is missing."""
    spans: tuple[Span, ...] = ()
    """The seconds of the recording that show it; the first ones, where there are many."""
    facts: dict[str, float] = {}
    """The numbers it rests on: rates in kbit/s, latencies in seconds, counts."""

    def describe_value(self) -> str:
        """The value, for people."""
        return "-" if self.value is None else f"{self.bound} {self.value}".strip()

    def describe_spans(self) -> str:
        """Where it shows, for people."""
        more = ", ..." if len(self.spans) > _SHOWN else ""
        return ", ".join(str(one) for one in self.spans[:_SHOWN]) + more


class Proposal(Struct, frozen=True, kw_only=True):
    """What one domain's recording tells of its settings."""

    domain: str
    seconds: float
    """From the first window's beginning to the last one's end."""
    begin: int
    """When the first window began, UTC ns; spans count from there."""
    samples: int
    blind: int
    """Samples without data."""
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    """What the recording cannot tell, and what casts doubt on it."""


def least(*confidences: Confidence) -> Confidence:
    """The least of some confidences."""
    return min(confidences, key=CONFIDENCES.index)


def apply_proposal(domain: Domain, proposal: Proposal) -> Domain:
    """A domain's configuration with every proposed value in place of the configured one.

    Bounds stay in order: a fail-safe limit yields to the maximum and to the capacity, a minimum to the fail-safe limit.

    Raises:
        ValueError: the result is no valid domain.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for figure in proposal.figures:
        # A capacity that is only known to be larger would keep limits low for nothing.
        if figure.value is not None and not figure.bound:
            chosen.setdefault(figure.key, {})[figure.setting] = figure.value
    bounds = []
    for target in domain.targets:
        values = {name: int(getattr(target, name)) for name in ("min", "max", "fail_safe")} | chosen.get(target.key, {})
        values["fail_safe"] = min(values["fail_safe"], values["max"])
        bounds.append(values)
    capacity = chosen.get("", {}).get("capacity", domain.capacity)
    excess = max(sum(one["fail_safe"] for one in bounds) / capacity, 1.0) if capacity else 1.0
    targets = []
    for target, values in zip(domain.targets, bounds, strict=True):
        values["fail_safe"] = max(int(values["fail_safe"] / excess), 1)
        values["min"] = min(values["min"], values["fail_safe"])
        targets.append(replace(target, **{name: Rate(value) for name, value in values.items()}))
    critical = tuple(replace(one, **chosen.get(one.key, {})) for one in domain.critical)
    return replace(domain, **chosen.get("", {}), critical=critical, targets=tuple(targets))
