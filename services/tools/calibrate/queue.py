"""When the link was full: the latencies of all critical workloads were above their usual values at once.

A queue on the shared link raises every workload's latency by the same amount.  A host that stalls raises only its own.
The *delay* of a reading is therefore the least rise over the workloads, above what each usually has.
"""

from collections.abc import Sequence
from math import inf
from statistics import median

from msgspec import Struct

from services.tools.calibrate.readings import DomainReadings, Reading
from services.tools.common.formatting import format_ms, format_rate

_NS = 10**9
_USUAL = 0.1
"""A workload's usual latency is this quantile of all its readings."""
_LEAST_S = 0.0001
"""A smaller delay is never taken for a queue, seconds."""
_SPREADS = 4.0
"""Nor is one of less than so many times the distance from the usual latency to the median."""
_GAP = 2.5
"""Periods between two readings of one episode, at most."""
_SHRINKS, _GROWS = -0.005, 0.008
"""How much the delay may change in a second, seconds, where what arrives shows what the link carries."""
_FLAT = 0.02
"""Where the middle half of all totals lies within this share, and latency varies, the link was full all the time."""
_VARIED, _VARIED_S = 1.5, 0.001
"""How many times the usual latency one reading in ten then has, and how many seconds more."""
_MOST_LOSSES = 0.3
"""A link that loses packets in more of the readings with the least latency was full in these, too."""


class Span(Struct, frozen=True):
    """A stretch of the recording."""

    begin: float
    """Seconds after the first window began, as is the end."""
    end: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.begin:.1f}-{self.end:.1f}"


class Episode(Struct, frozen=True):
    """A stretch in which there was a queue."""

    span: Span
    load: int | None
    """What the link carried meanwhile, kbit/s; None: not measured, or the queue drained within a period."""
    exact: bool
    """Whether the queue was steady enough for an exact load."""
    readings: int
    p95: float
    """Least P95 that showed it, over the workloads and readings; seconds."""

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.span.end - self.span.begin


class QueueHistory(Struct, frozen=True):
    """A recording, divided by whether there was a queue."""

    usual: tuple[float, ...]
    """Each workload's latency without a queue, seconds."""
    threshold: float
    """The delay from which there is a queue, seconds."""
    episodes: tuple[Episode, ...]
    clean: tuple[Reading, ...]
    """Readings whose whole window shows no queue, not even one of less than half a period."""
    brief: tuple[Span, ...]
    """Windows outside of every episode in which the P95 of all workloads rose at once."""
    passed: int | None
    """The largest total without a queue, over two periods, kbit/s; None: not measured."""
    passed_at: Span
    """When."""
    always_full: str
    """Why the link seems to have been full all the time; empty: it was not."""


def find_queues(of: DomainReadings) -> QueueHistory:
    """Find the episodes of a recording that has at least one reading."""
    readings = of.readings
    number = range(len(of.domain.critical))
    usual = tuple(quantile_of([one.latency[i].now for one in readings], _USUAL) for i in number)
    delays = [min(one.latency[i].now - usual[i] for i in number) for one in readings]
    spread = max(median(one.latency[i].now for one in readings) - usual[i] for i in number)
    threshold = max(min(usual), _SPREADS * spread, _LEAST_S)
    full = [delay > threshold for delay in delays]
    usual_p95 = [quantile_of([one.latency[i].p95 for one in readings], _USUAL) for i in number]
    clean, brief, after = [], [], 0
    for one, is_full in zip(readings, full, strict=True):
        if is_full:
            after = one.end
        # The window that begins within the last full period still shows it.
        elif one.start >= after:
            rise = min(one.latency[i].p95 - usual_p95[i] for i in number)
            if rise > max(threshold, *usual_p95):
                brief.append(Span((one.start - of.first) / _NS, (one.end - of.first) / _NS))
            else:
                clean.append(one)
    passed, passed_at = find_passed(of, clean)
    return QueueHistory(
        usual=usual,
        threshold=threshold,
        episodes=tuple(join_episodes(of, delays, full)),
        clean=tuple(clean),
        brief=tuple(brief),
        passed=passed,
        passed_at=passed_at,
        always_full=explain_full(readings, delays, usual),
    )


def find_passed(of: DomainReadings, clean: Sequence[Reading]) -> tuple[int | None, Span]:
    """The largest total of two periods in succession, after which there still was no queue, and when."""
    passed, at = None, Span(0.0, 0.0)
    for first, second, third in zip(clean, clean[1:], clean[2:], strict=False):
        totals = [one.total for one in (first, second)]
        known = [one for one in totals if one is not None]
        in_succession = third.end - first.end <= _GAP * third.period
        if in_succession and len(known) == 2 and min(known) > (passed or -1):
            passed, at = min(known), Span((first.end - first.period - of.first) / _NS, (second.end - of.first) / _NS)
    return passed, at


def join_episodes(of: DomainReadings, delays: Sequence[float], full: Sequence[bool]) -> list[Episode]:
    """Join readings that show a queue, by their delays (seconds), into episodes."""
    episodes: list[Episode] = []
    members: list[int] = []
    for i, one in enumerate(of.readings):
        if members and one.end - of.readings[members[-1]].end > _GAP * one.period:
            episodes.append(_describe(of, delays, members))
            members = []
        if full[i]:
            members.append(i)
    if members:
        episodes.append(_describe(of, delays, members))
    return episodes


def _describe(of: DomainReadings, delays: Sequence[float], members: Sequence[int]) -> Episode:
    """An episode from the numbers of its readings.

    While there is a queue, the link carries what arrives, without what the queue grows by: with a delay that rises by
    ``d`` in a time ``t``, the arrivals divided by ``1 + d / t``.
    """
    readings = of.readings
    exact: list[float] = []
    rough: list[float] = []
    for i in members:
        total, one = readings[i].total, readings[i]
        if total is None:
            continue
        if not of.is_recent:
            # Delays of whole windows do not say when they were.
            rough.append(total)
            continue
        follows = i > 0 and one.end - readings[i - 1].end == one.period
        if follows:
            # After a cut the queue drains within the period.
            limits = zip(readings[i - 1].limits, one.limits, strict=True)
            follows = not any(old is not None and new is not None and new < old for old, new in limits)
        grown = (delays[i] - delays[i - 1]) * _NS / one.period if follows else inf
        if _SHRINKS <= grown <= _GROWS:
            exact.append(total / (1 + grown))
        elif _GROWS < grown < inf:
            rough.append(total / (1 + grown))
    known = exact or rough
    first, last = readings[members[0]], readings[members[-1]]
    begin = first.end - first.period if of.is_recent else first.start
    return Episode(
        span=Span((begin - of.first) / _NS, (last.end - of.first) / _NS),
        load=round(median(known)) if known else None,
        exact=bool(exact),
        readings=len(members),
        p95=min(one.p95 for i in members for one in readings[i].latency),
    )


def explain_full(readings: Sequence[Reading], delays: Sequence[float], usual: Sequence[float]) -> str:
    """Why the link seems to have been full in every reading; empty: it was not."""
    order = sorted(range(len(readings)), key=delays.__getitem__)
    lowest = order[: max(len(order) // 10, 1)]
    losses = sum(readings[i].lost > 0 for i in lowest)
    if losses > _MOST_LOSSES * len(lowest):
        return f"even where latency was least, packets were lost: in {losses} of {len(lowest)} samples"
    totals = [total for one in readings if (total := one.total) is not None]
    if len(totals) < 10:
        return ""
    low, high = quantile_of(totals, 0.25), quantile_of(totals, 0.75)
    most = min(quantile_of([one.latency[i].now for one in readings], 0.9) for i in range(len(usual)))
    if high - low < _FLAT * high and most > max(_VARIED * min(usual), min(usual) + _VARIED_S):
        return (
            f"half of the totals lie between {format_rate(low)} and {format_rate(high)}, while the least latency is "
            f"{format_ms(min(usual))} ms and a tenth is above {format_ms(most)} ms"
        )
    return ""


def quantile_of(values: Sequence[float], share: float) -> float:
    """The quantile of some values, without interpolation."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
