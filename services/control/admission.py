"""Decides which samples may be stepped on, and from which state.

A sample carries the time at which its window ended, by the sampler's clock; the bus records when it
stored the sample, by the server's clock.  Both are part of the stream, so a replay admits the same
samples.  Comparing the two keeps a wrong clock from locking a domain:

- a sample from the future is refused: as a state it would make every honest sample look old;
- after the bus's own clock was set back, a state from the future is left behind by a new epoch.

A sampler whose clock alone went back is stale until the clock is right again: nobody can act on decisions
that expired long ago, and the fail-safe limit holds meanwhile.
"""

from schemas.domain import Domain
from schemas.messages import Sample, State


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
