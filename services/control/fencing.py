"""Whether a decision may still be put in force: the rule by which an actuator accepts or rejects it.

Messages come more than once, late and out of order, and the bus can be wiped, so that a new run of
decisions begins (a new epoch).  Decisions are ordered by the time of the sample they answer: it grows with
the sequence within an epoch, and goes on growing over a wipe.  Epoch and sequence alone would not do:
after a wipe, an old sample that was still on its way can begin an epoch, with a larger epoch than a newer
cut, or with a smaller one that would lock every later decision out.  ``tests/proof/fences.py`` checks
every order of events.
"""

from schemas.messages import Decision

AHEAD = 10 * 10**9
"""How far a sample may lie in the future of the reader's clock, ns: the most that clocks differ by."""


def rejection_reason(held: int | None, decision: Decision, now: int) -> str | None:
    """Why a decision may not be put in force; None where it may.

    Args:
        held: end of the sample that the decision in force answers, UTC ns; None without one.  One in
            the future was written under a wrong clock and is void.
        decision: the one that arrived.
        now: the reader's clock, UTC ns.
    """
    if decision.end > now + AHEAD:
        return f"its sample lies {(decision.end - now) / 1e9:.1f} s in the future"
    if now >= decision.expires:
        return f"it expired {(now - decision.expires) / 1e9:.1f} s ago"
    if held is not None and decision.end <= held <= now + AHEAD:
        return "a decision on the same sample or a newer one is in force"
    return None
