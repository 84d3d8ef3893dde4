"""Last station of a step: what is allowed.  Deterministic, integers only, no learned state.

A proposal passes through these rules in order; the first that changes it gives the decision's rule:

    no-data   nobody knows: never up; a limit above the fail-safe limit falls to it within ``decay``
    cut       an SLO is broken: at most ``cut`` of the limit in force, once per signal window
    hold      the window still sees traffic from before the last cut: not up
    clamp     within [min, max]
    rise      up by at most ``rise`` a second
    deadband  a rise too small to be worth a patch waits until it is large enough

Only rises are ever delayed or shortened.  A proposal to go down passes every rule untouched, but for
the clamp to ``min``.
"""

from msgspec import Struct

from schemas.domain import Shield as Settings
from schemas.domain import Target
from schemas.messages import Rule, ShieldMemory

_SECOND_MS = 1000
_MILLION = 1_000_000


class Limits(Struct, frozen=True):
    """One target's bounds as the integers that the rules compute with."""

    min: int
    """kbit/s, as are max and fail_safe."""
    max: int
    fail_safe: int
    rise: int
    """Largest rise in a second, kbit/s; at least 1."""
    deadband: int
    """Smallest rise worth a patch, kbit/s."""
    cut: int
    """Thousandths of the limit that a cut leaves."""
    decay: int
    """Time in which a limit falls to fail_safe without data, ms."""

    @classmethod
    def of(cls, target: Target, settings: Settings) -> "Limits":
        """Turn shares of [min, max] into kbit/s."""
        span = target.max - target.min
        rise = max(int(span * settings.rise_per_second), 1)
        return cls(
            min=int(target.min),
            max=int(target.max),
            fail_safe=int(target.fail_safe),
            rise=rise,
            deadband=min(max(int(span * settings.deadband), 1), rise),
            cut=int(settings.cut * 1000),
            decay=max(settings.decay // _MILLION, 1),
        )


class Moment(Struct, frozen=True):
    """What the rules know of the sample.  Times are ns."""

    end: int
    """End of its window."""
    start: int
    """Start of its window."""
    period: int
    """Time to the next sample: how long a decision takes to show at the earliest."""
    elapsed: int
    """Time since the end of the sample before."""
    violated: bool
    blind: bool
    """No data."""


def shield(limits: Limits, memory: ShieldMemory, proposal: int, moment: Moment) -> tuple[int, Rule, ShieldMemory]:
    """The limit that is allowed, kbit/s, the rule that decided, and what to remember."""
    limit, rule = _allowed(limits, memory, proposal, moment)
    cut_until = moment.end + moment.period if rule == "cut" else memory.cut_until
    since = memory.since if limit == memory.limit else moment.end
    return limit, rule, ShieldMemory(limit, since, cut_until)


def _allowed(limits: Limits, memory: ShieldMemory, proposal: int, moment: Moment) -> tuple[int, Rule]:
    now = memory.limit
    settling = moment.start < memory.cut_until
    if moment.violated and not settling:
        cut = max(now * limits.cut // 1000, limits.min)
        return (cut, "cut") if cut < proposal else (_clamp(limits, proposal), "none")
    if moment.blind:
        return _decayed(limits, now, moment.elapsed), "no-data"
    wanted = _clamp(limits, proposal)
    if wanted <= now:
        return wanted, "none" if wanted == proposal else "clamp"
    if moment.violated or settling:
        return now, "hold"
    return _raised(limits, memory, proposal, wanted, moment)


def _raised(limits: Limits, memory: ShieldMemory, proposal: int, wanted: int, moment: Moment) -> tuple[int, Rule]:
    # The allowance grows with the time since the last change, so that a rise kept back by the
    # deadband is not lost, and stops at one second's worth, so that none is saved up for a leap.
    waited_ms = min(max(moment.end - memory.since, 0) // _MILLION, _SECOND_MS)
    highest = memory.limit + limits.rise * waited_ms // _SECOND_MS
    rule: Rule = "none" if wanted == proposal else "clamp"
    if wanted > highest:
        wanted, rule = highest, "rise"
    # The last stretch to the maximum may be smaller than the deadband.
    if wanted - memory.limit < limits.deadband and wanted < limits.max:
        return memory.limit, "deadband"
    return wanted, rule


def _decayed(limits: Limits, now: int, elapsed: int) -> int:
    excess = now - limits.fail_safe
    if excess <= 0:
        return now
    left_ms = max(limits.decay - max(elapsed, 0) // _MILLION, 0)
    return limits.fail_safe + min(excess * left_ms // limits.decay, excess - 1)


def _clamp(limits: Limits, value: int) -> int:
    return min(max(value, limits.min), limits.max)
