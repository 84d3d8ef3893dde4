"""When to sample: window ends are whole multiples of the period on UTC, and only ever go forward.

So two samplers measure the same windows and give their samples the same ids.
"""


def next_end(now: int, last: int, period: int) -> int:
    """The end of the next window to measure, UTC ns.

    It lies after ``now`` and after the last one: windows that a stall ran over are left out, and a
    clock that was set back waits until it has caught up.

    Args:
        now: the clock, UTC ns.
        last: end of the last window, 0 before the first.
        period: ns.
    """
    return (max(now, last) // period + 1) * period


def skipped(last: int, end: int, period: int) -> int:
    """How many windows lie between two that were measured."""
    return max((end - last) // period - 1, 0) if last else 0
