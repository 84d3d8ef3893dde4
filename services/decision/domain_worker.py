"""One domain's decisions: every sample answered once, in the order of the stream.

Decision and state are one message, written with compare-and-set on the domain's subject, and its
header says which sample it answers.  So the last decision on the bus is all there is to know: after
a crash, a lost acknowledgement or another replica's move, the follower reads it and goes on from
there, looking up the samples that came to somebody else.
"""

from dataclasses import dataclass, replace
from typing import Protocol, get_args

from schemas.domain import Domain
from schemas.messages import Decision, InvalidMessage, Rule, Sample, State
from services.bus.bus import Conflict, Received, TooLarge
from services.common import failpoints
from services.control import Controller, StaleSample, make_policy, overruled
from services.control.admission import FutureSample, admit
from services.decision import metrics
from services.decision.policy_timeout import TimedPolicy


@dataclass(frozen=True, slots=True)
class Head:
    """Where a domain's decisions stand."""

    state: State | None
    """From which the next step continues; None to begin an epoch."""
    position: int
    """Stream sequence up to which all samples are dealt with."""
    seq: int
    """Stream sequence of the last decision; 0 when there is none."""


class Decisions(Protocol):
    """A domain's decisions on the bus."""

    async def head(self) -> Head:
        """Where they stand."""

    async def write(self, decision: Decision, answered: Received[Sample], expected: int) -> int:
        """Add a decision after the one with sequence ``expected``; gives its sequence.

        Raises:
            Conflict: another decision is the last.
            InvalidMessage: it cannot be written as a message.
            TooLarge: the bus takes no message of its size.
        """


class Samples(Protocol):
    """A domain's samples on the bus."""

    async def after(self, position: int) -> Received[Sample] | None:
        """The first readable sample after a position; None when there is none."""

    async def bury(self, sample: Received[Sample], reason: str) -> None:
        """Put a sample aside that cannot be answered."""


class Follower:
    """Answers one domain's samples."""

    def __init__(self, domain: Domain, decisions: Decisions, samples: Samples) -> None:
        """Know nothing yet of where the domain stands.

        Raises:
            ValueError: the domain's policy or a parameter of it does not exist.
        """
        self.last: Decision | None = None
        self._domain = domain
        self._policy = TimedPolicy(make_policy(domain))
        self._controller = Controller(domain, self._policy)
        self._decisions = decisions
        self._samples = samples
        self._head: Head | None = None
        for rule in get_args(Rule):
            if rule != "none":
                metrics.overruled.labels(domain.name, rule)

    async def take(self, received: Received[Sample]) -> None:
        """Deal with all of the domain's samples up to and including this one.

        Returns when nothing more has to be done for it: its decision is on the bus, or it never gets one.
        """
        while True:
            try:
                await self._reach(received)
            except Conflict:
                metrics.conflicts.inc()
                self._head = None
            else:
                return

    async def _reach(self, received: Received[Sample]) -> None:
        head = self._head
        if head is None or not _follows(head, received):
            head = self._head = await self._decisions.head()
            failpoints.point("decision.loaded")
        if received.seq <= head.position:
            metrics.stale.inc()
            return
        if head.position + 1 < received.since:
            await self._catch_up(head.position, received.seq)
        await self._step(received)

    async def _catch_up(self, position: int, end: int) -> None:
        """Deal with the samples after a position and before another that came to other readers, or to none."""
        while (sample := await self._samples.after(position)) is not None and sample.seq < end:
            failpoints.point("decision.looked-up")
            metrics.caught_up.inc()
            await self._step(sample)
            position = sample.seq

    async def _step(self, sample: Received[Sample]) -> None:
        assert self._head is not None
        head = self._head
        try:
            decision = self._answer(head.state, sample)
            failpoints.point("decision.stepped")
            seq = await self._decisions.write(decision, sample, head.seq)
        except StaleSample:
            metrics.stale.inc()
        except (FutureSample, InvalidMessage, TooLarge, _Unanswerable) as error:
            await self._samples.bury(sample, str(error))
            failpoints.point("decision.buried")
        else:
            failpoints.point("decision.written")
            metrics.steps.inc()
            metrics.faults.inc(decision.fault is not None)
            for target in overruled(decision):
                metrics.overruled.labels(decision.domain, target.rule).inc()
            self.last = decision
            head = Head(decision.state, sample.seq, seq)
        self._head = replace(head, position=sample.seq)

    def _answer(self, state: State | None, sample: Received[Sample]) -> Decision:
        admitted = admit(self._domain, state, sample.message, sample.published)
        try:
            return self._controller.step(admitted, sample.message, self._policy.fault())
        except StaleSample:
            raise
        except Exception as error:
            raise _Unanswerable(f"{type(error).__name__}: {error}") from error


class _Unanswerable(Exception):
    """The control core fails on this sample."""


def _follows(head: Head, received: Received[Sample]) -> bool:
    """Whether the sample can be judged by what is known: nobody else can have moved the domain on."""
    if received.seq <= head.position:
        # Newer than what came after it: the stream's numbering may have begun anew.
        return head.state is not None and received.message.end <= head.state.end
    return head.position + 1 >= received.since
