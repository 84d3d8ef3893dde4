"""Which windows of PromQL's rates cannot be believed, because no single process counted what they show.

PromQL takes every fall of a counter for a restart, bucket by bucket, and leaves out what a new series had counted
before its first scrape.  A window is therefore no data if

1. a bucket or a count fell in it: the exporter restarted, or several processes answer at one address;
2. a count fell twice within ten windows, or once, and is back at the greatest height of these: it never restarted;
3. series that are new in it had already counted more than 1 % of its observations;
4. it has more than 1,000 observations, and more than ten times as many as one of the two windows before it: such a
   rise is believed once it has gone on.

What is left: processes that differ by fewer than 1,000 observations, until the first fall; and a restart after
which a counter is higher at its first scrape than at its last one before.
"""

_UNCOUNTED = 0.01
_BURST = 1_000.0
_TIMES_USUAL = 10.0


def explain_fall(resets: float, returns: float) -> str | None:
    """Why neither latency nor loss is believed; None where they are.

    Args:
        resets: how often a bucket fell in the window.
        returns: how often a count fell in ten windows; twice as much if it is back where it fell from.
    """
    if resets <= 0 and returns <= 1:
        return None
    return "a counter fell: its exporter restarted, or several processes answer at one address"


def is_many(observations: float) -> bool:
    """Whether so many may be believed only beside the windows before."""
    return not observations <= _BURST


def explain_jump(observations: float, usual: float) -> str | None:
    """Why neither latency nor loss is believed; None where they are.

    Args:
        observations: in the window, as PromQL counts them.
        usual: observations in one of the two windows before, the fewer.
    """
    if not is_many(observations) or observations <= _TIMES_USUAL * usual:
        return None
    return (
        "several processes answer at one address, or the counter jumped: "
        f"{observations:.0f} observations after {usual:.0f} in a window"
    )


def explain_uncounted(observations: float, appeared: float) -> str | None:
    """Why the latency is not believed; None where it is.

    Args:
        observations: in the window, as PromQL counts them.
        appeared: observations of new series that it does not count.
    """
    if appeared <= _UNCOUNTED * (observations + appeared):
        return None
    return f"series appeared with {appeared:.0f} observations that PromQL does not count"
