"""The gain of the meters: what they show of each byte that best effort sends.

A meter that misses a fifth of the bytes shows targets that never fill their limits.  A target that wants no more
shows the same.  They differ when the limit changes: a filled limit's share stays what it was, an idle target's traffic
stays what it was.  Where a share stays the same for a while, the limit is lowered a little, once, to see which of them
it is.
"""

from msgspec import Struct

_SECOND = 10**9
_LEAST, _MOST = 0.6, 0.92
"""Shares of the limit that may be a gain: a larger one fills the limit, a smaller one is an idle target."""
_SAME = 0.02
"""Shares that differ by less are the same."""
_STEADY = 16
"""Periods for which the share has to stay the same before the limit is lowered."""
_DIP = 0.12
"""By how much it is lowered, as a share of itself."""
_DIPS = 6
"""Periods for which it is lowered."""
_AGAIN = 300 * _SECOND
"""Time until the next such test."""


class Gain(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of the meters.  Rates are kbit/s, times ns."""

    value: float = 1.0
    """What meters show of each byte; at most 1."""
    share: float = 0.0
    """What was seen of the limit, as a share of it."""
    limit: int = 0
    """The limit at which that share was first seen."""
    steady: int = 0
    """For how many periods it has been the same."""
    tried: int = 0
    """When the limit was last lowered to see more; 0 before it ever was."""
    last: int = 0
    """The limit when the last period ended."""


def follow_gain(gain: Gain, seen: float, limit: int, end: int) -> Gain:
    """The gain after one more calm period.

    Args:
        gain: before it.
        seen: what meters show of best effort, kbit/s.
        limit: in force, kbit/s.
        end: of the period, ns.
    """
    share = seen / limit
    if share >= _MOST and gain.value == 1 and not gain.steady:
        # The usual case: the limit is filled, and nothing is new.
        return gain
    if not _LEAST * gain.value < share < _MOST * gain.value:
        # The gain is no less than what was seen.
        value = min(max(gain.value, share), 1.0)
        return gain if value == gain.value and not gain.steady else Gain(value, tried=gain.tried)
    if limit != gain.last:
        # The period saw two limits.
        return Gain(gain.value, gain.share, gain.limit, gain.steady, gain.tried, limit)
    if abs(share - gain.share) > _SAME * gain.share:
        return Gain(gain.value, share, limit, 1, gain.tried, limit)
    if abs(limit - gain.limit) > 0.8 * _DIP * gain.limit:
        return Gain(share, tried=gain.tried)
    due = gain.steady == _STEADY and (not gain.tried or end - gain.tried > _AGAIN)
    tried = end if due else gain.tried
    return Gain(gain.value, gain.share, gain.limit, min(gain.steady + 1, _STEADY), tried, limit)


def tested_limit(gain: Gain, end: int, period: int) -> float:
    """The most that may be proposed while a test is under way; infinite otherwise."""
    if gain.tried and gain.steady and end - gain.tried < _DIPS * period:
        return (1 - _DIP) * gain.limit
    return float("inf")
