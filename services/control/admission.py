"""Decides which messages may still be acted on: which samples are answered, and which decisions put in force.

A sample carries the time at which its window ended, by the sampler's clock; the bus records when it
stored the sample, by the server's clock.  Both are part of the stream, so a replay admits the same
samples.  Comparing the two keeps a wrong clock from locking a domain:

- a sample from the future is refused: as a state it would make every honest sample look old;
- after the bus's own clock was set back, a state from the future is left behind by a new epoch.

A sampler whose clock alone went back is stale until the clock is right again: no actuator can apply decisions
that expired long ago, and the fail-safe limit holds meanwhile.

Messages come more than once, late and out of order, and the bus can be wiped, so that a new run of
decisions begins (a new epoch).  Decisions are ordered by the time of the sample they answer: it grows with
the sequence within an epoch, and goes on growing over a wipe.  Epoch and sequence alone would not do:
after a wipe, an old sample that was still on its way can begin an epoch, with a larger epoch than a newer
cut, or with a smaller one that would lock every later decision out.  ``tests/proof/fences.py`` checks
every order of events.
"""

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State

AHEAD = 10 * 10**9
"""How far a sample may lie in the future of the reader's clock, ns: the most that clocks differ by."""


class RejectedSample(ValueError):
    """The sample may not be stepped on."""


class StaleSample(RejectedSample):
    """The sample is not newer than the state: it was stepped on before, or came too late."""


class FutureSample(RejectedSample):
    """The sample is dated further ahead of the bus's clock than a decision is good for."""


def admit(domain: Domain, state: State | None, sample: Sample, published: int) -> State | None:
    """The state to step from; None to begin an epoch.

    Args:
        domain: its ``dead_man`` time is how far apart the two clocks may be.
        state: from the decision before; None when there is none.
        sample: to be stepped on.
        published: when the bus stored the sample, by the server's clock, ns.

    Raises:
        FutureSample: the sample is dated too far ahead.
        StaleSample: the sample does not end after ``state``.
    """
    latest = published + domain.dead_man
    if sample.end > latest:
        ahead = (sample.end - published) / 1e9
        raise FutureSample(f"sample {sample.id} is dated {ahead:.3f} s ahead of the bus's clock")
    if state is None:
        return None
    if sample.end <= state.end:
        if state.end <= latest:
            raise StaleSample(f"sample {sample.id} is not newer than {state.end}")
        # The state's limits and memories hold times that lie ahead: begin a new epoch.
        return None
    return state


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
