"""How much of the budget each target has a use for.

A target that sends well below its limit would leave its share idle while another could use it.  It is
given what it sends and some room; as soon as it fills that, it counts as wanting everything again and
gets its fair share, while the others give way at once.  The limits add up to the budget all along, so
nobody is surprised.  Where throughput is not measured, everybody is taken to want everything.
"""

from collections.abc import Sequence

from services.control.share import Claim, share

_FULL = 0.9
"""A target that sends this share of its limit fills it, and wants more; one that sends less leaves the rest idle."""
_ROOM = 1.25
_FLOOR = 0.02
"""What a target keeps beyond its use: a quarter, and this share of its maximum."""


def demanded(cap: int, sent: int | None, limit: int, most: int, settled: bool) -> int:
    """What a target has a use for, kbit/s; 0 is as much as it can get.

    Args:
        cap: what it had a use for so far, as this function said.
        sent: its throughput over the last period, kbit/s; None where not measured.
        limit: in force, kbit/s.
        most: its maximum, kbit/s.
        settled: whether the limit has been in force for a whole window without congestion.
    """
    if sent is None or filled(sent, limit):
        return 0
    if not settled:
        return cap
    needed = int(_ROOM * sent + _FLOOR * most)
    # Small changes of demand are not worth a patch.
    return cap if cap and cap // 2 < needed <= cap else needed


def filled(sent: int, limit: int) -> bool:
    """Whether so much sent (kbit/s) fills a limit."""
    return sent > _FULL * limit


def divide(budget: int, claims: Sequence[Claim], caps: Sequence[int]) -> list[int]:
    """Divide a budget: first up to what each target has a use for, then what is left among all.

    Args:
        budget: kbit/s for all targets together.
        claims: bounds and weights, in the order of the answer.
        caps: what each has a use for, kbit/s; 0 is as much as it can get.
    """
    if not any(caps):
        return share(budget, claims)
    needs = [
        (least, min(max(cap, least), most) if cap else most, weight)
        for cap, (least, most, weight) in zip(caps, claims, strict=True)
    ]
    given = share(budget, needs)
    return share(budget, [(got, most, weight) for got, (_, most, weight) in zip(given, claims, strict=True)])


def eased(before: Sequence[int], wanted: Sequence[int], allowed: Sequence[int]) -> list[int]:
    """The same, but nobody rises into what another has not given up yet.

    Limits come into force one after the other, in any order: at no moment may they add up to more than
    before and after.  So a rise takes what is free already, and what others give up with the next step.

    Args:
        before: the limits in force, kbit/s.
        wanted: what they are to be.
        allowed: what the shield makes of that.
    """
    free = max(sum(allowed) - sum(before), 0)
    rises = sum(max(new - old, 0) for old, new in zip(before, allowed, strict=True))
    if rises <= free:
        return list(wanted)
    return [
        old + (new - old) * free // rises if new > old else want
        for old, want, new in zip(before, wanted, allowed, strict=True)
    ]
