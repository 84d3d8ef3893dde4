"""The bottleneck's capacity, from what it carried while it was full.

Episodes whose load is close to the largest total that passed without a queue, or above it, show the capacity; their
median is proposed.  Episodes at a lower load have another cause: hosts that all stalled, bursts, or a link that was
smaller for a while.
"""

from statistics import median

from msgspec import Struct

from schemas.units import MAX_KBIT, Rate
from services.tools.calibrate.proposal import Confidence, Figure
from services.tools.calibrate.queue import Episode, QueueHistory, Span
from services.tools.calibrate.readings import DomainReadings
from services.tools.common.formatting import format_rate

_AGREES = 0.98
"""An episode at this share of the largest total without a queue, or more, shows the capacity."""
_NARROW, _WIDE = 0.03, 0.1
"""Spread of the episodes' loads up to which confidence is high, and medium."""
_SEVERAL, _TWO = 3, 2
"""Episodes needed for a high and for a medium confidence."""
_MANY = 100
_LASTING = 2
"""Readings of an episode that is no single stall of all hosts."""


class Capacity(Struct, frozen=True):
    """What is known of the capacity."""

    figure: Figure
    known: int | None
    """kbit/s: the best estimate, or what the link can carry at least; None: nothing is known."""
    lowest: int | None
    """kbit/s: the least that the link seems to have had for longer than one sample; None: nothing is known."""
    notes: tuple[str, ...] = ()


def estimate_capacity(of: DomainReadings, queues: QueueHistory) -> Capacity:
    """Estimate a domain's capacity."""
    measured = [total for one in of.readings if (total := one.total) is not None]
    if not measured:
        missing = [
            target.key for i, target in enumerate(of.domain.targets) if all(one.sent[i] is None for one in of.readings)
        ]
        if all(one.critical is None for one in of.readings):
            missing = ["the critical workloads"]
        which = f"that of {', '.join(missing)}" if missing else "never that of all workloads at once"
        return _unknown(of, f"throughput was not measured: {which}")
    if queues.always_full:
        value = round(median(measured))
        why = f"the link was full all the time: {queues.always_full}; the capacity is the median of all totals"
        span = Span(0.0, (of.last - of.first) / 1e9)
        confidence: Confidence = "medium" if len(measured) >= _MANY else "low"
        return _known(of, value, confidence, why, (span,), {"samples": float(len(measured))})
    if not of.is_recent:
        most = max([one.load for one in queues.episodes if one.load is not None] + [queues.passed or 0])
        why = "windows are longer than episodes, so the totals in them are means: the link carries at least that"
        return _at_least(of, most, why, tuple(one.span for one in queues.episodes))
    passed = queues.passed or 0
    loaded = [one for one in queues.episodes if one.load is not None]
    agreeing = [one for one in loaded if (one.load or 0) >= _AGREES * passed]
    chosen = [one for one in agreeing if one.exact] or agreeing
    if not chosen:
        if not passed:
            return _unknown(of, "throughput and latency were never measured together for two samples in succession")
        why = f"the link was never full: it carried {format_rate(passed)} without a queue in seconds {queues.passed_at}"
        return _at_least(of, passed, why, (queues.passed_at,))
    lower = [one for one in loaded if one not in agreeing]
    return judge_episodes(of, queues, chosen, lower)


def judge_episodes(of: DomainReadings, queues: QueueHistory, chosen: list[Episode], lower: list[Episode]) -> Capacity:
    """The capacity by episodes that show it, beside those at a lower load."""
    loads = [one.load or 0 for one in chosen]
    value = round(median(loads))
    spread = (max(loads) - min(loads)) / value
    exact = all(one.exact for one in chosen)
    confidence: Confidence = "low"
    if exact and len(chosen) >= _SEVERAL and spread <= _NARROW and len(lower) <= len(chosen):
        confidence = "high"
    elif exact and len(chosen) >= _TWO and spread <= _WIDE and len(lower) <= 2 * len(chosen):
        confidence = "medium"
    count = "once" if len(chosen) == 1 else f"{len(chosen)} times"
    what = f"carried {format_rate(min(loads))} to {format_rate(max(loads))}"
    rough = "" if exact else "; the queue grew so fast that these are rough"
    why = f"the link was full {count} and {what}{rough}"
    if queues.passed:
        why += f"; without a queue it carried up to {format_rate(queues.passed)}"
    lasting = [one.load for one in lower if one.readings >= _LASTING and one.load]
    notes = []
    if lower:
        spans = ", ".join(str(one.span) for one in lower[:5]) + (", ..." if len(lower) > 5 else "")
        low, high = (format_rate(pick(one.load or 0 for one in lower)) for pick in (min, max))
        notes.append(
            f"a queue at a lower load, {low} to {high}, {len(lower)} times (seconds {spans}): hosts that stalled, "
            "bursts of critical load, or a link that was smaller then"
        )
    facts = {"episodes": float(len(chosen)), "least": float(min(loads)), "most": float(max(loads))}
    facts |= {"passed": float(queues.passed or 0), "lower_episodes": float(len(lower))}
    known = _known(of, value, confidence, why, tuple(one.span for one in chosen), facts)
    return Capacity(known.figure, value, min([value, *lasting]), tuple(notes))


def _known(
    of: DomainReadings, value: int, confidence: Confidence, why: str, spans: tuple[Span, ...], facts: dict[str, float]
) -> Capacity:
    figure = Figure(
        setting="capacity",
        value=round_down(value, 3),
        configured=of.domain.capacity,
        confidence=confidence,
        why=why,
        spans=spans,
        facts=facts,
    )
    return Capacity(figure, value, value)


def _at_least(of: DomainReadings, value: int, why: str, spans: tuple[Span, ...]) -> Capacity:
    figure = Figure(
        setting="capacity",
        value=round_down(value, 3),
        configured=of.domain.capacity,
        bound="at least",
        confidence="low",
        why=why,
        spans=spans,
        facts={"passed": float(value)},
    )
    return Capacity(figure, value, value)


def _unknown(of: DomainReadings, why: str) -> Capacity:
    return Capacity(Figure(setting="capacity", configured=of.domain.capacity, confidence="none", why=why), None, None)


def round_down(kbit: float, digits: int) -> Rate:
    """Round a rate down to so many digits; at least 1 kbit/s, at most what can be configured."""
    step = 10 ** max(len(str(int(kbit))) - digits, 0)
    return Rate(min(max(int(kbit) // step * step, 1), MAX_KBIT))
