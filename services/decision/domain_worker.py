"""One domain's decisions: every sample answered once, in the order of the stream.

Decision and state are one message, written with compare-and-set on the domain's subject, and its header
names the sample that it answers.  So the last decision on the bus is all there is to know: after a crash,
a lost acknowledgement or another replica's move, the worker reads it and goes on from there, looking up
the samples that were delivered to other replicas.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, InForce, InvalidMessage, Rule, Sample, State
from services.bus.bus import Conflict, Received, TooLarge
from services.common import failpoints
from services.common.backoff import BackOff
from services.control import Controller, FutureSample, StaleSample, make_policy
from services.control.observation import Observation
from services.control.policy import Bounds, InheritingPolicy, Policy, Proposal
from services.decision import metrics
from services.decision.interruption import Interrupted, interrupt_after

STEP_S = 0.02
"""Processor time that one proposal may take.  A learned policy needs some 10 us."""
HANG_S = 1.0
"""After so many seconds, a policy of another package is interrupted: it may be in an endless loop."""
_LONGEST_REST = 64


@dataclass(frozen=True, slots=True)
class DomainPosition:
    """Up to where a domain is decided."""

    state: State | None
    """From which the next step continues; None to begin an epoch."""
    sample_seq: int
    """Stream sequence up to which all samples are dealt with."""
    decision_seq: int
    """Stream sequence of the last decision; 0 when there is none."""
    definition: int = 0
    """Revision of the definition that the last decision was made under."""


class DecisionLog(Protocol):
    """A domain's decisions on the bus."""

    async def find_position(self) -> DomainPosition:
        """Up to where the domain is decided."""

    async def write(self, decision: Decision, answered: Received[Sample], expected: int) -> int:
        """Add a decision after the one with sequence ``expected``; gives its sequence.

        Raises:
            Conflict: another decision is the last.
            InvalidMessage: it cannot be written as a message.
            TooLarge: the bus takes no message of its size.
        """

    async def find_definition(self) -> tuple[Domain, int] | None:
        """The domain's newest definition on the bus and its revision; None without one that can be used."""


class SampleLog(Protocol):
    """A domain's samples on the bus."""

    async def get_next(self, seq: int) -> Received[Sample] | None:
        """The first readable sample after a sequence; None when there is none."""

    async def dead_letter(self, sample: Received[Sample], reason: str) -> None:
        """Record a sample that cannot be answered."""


class TimedPolicy:
    """Limits a policy's processor time: one that takes too long is not asked for a number of steps.

    A slow proposal is still used, since it has already arrived.  The time-out changes an input of the steps
    that follow (``fault``), which their decisions record, so that a replay takes the same branch at any speed.
    A policy of another package that never answers is interrupted (``interrupt_after``), and counts as one that raised.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.thread_time, limit_s: float = STEP_S) -> None:
        """Measure ``policy`` by the processor time of its thread, which a busy machine does not lengthen."""
        self.version = policy.version
        self.memory_type = policy.memory_type
        self._policy = policy
        self._hang_s = None if type(policy).__module__.startswith("services.") else HANG_S
        self._clock = clock
        self._limit_s = limit_s
        self._rest = 0
        self._left = 0
        self.fault: str | None = None
        """Why the policy may not be asked at the next step; None where it may.

        It rests for one step after the first excess, and twice as long after each that follows at once.
        """

    def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """The policy's own; the time that it takes decides on ``fault``."""
        began = self._clock()
        late_s = 0.0
        try:
            if self._hang_s is None:
                return self._policy.propose(memory, seen, bounds)
            with interrupt_after(self._hang_s, f"no answer within {self._hang_s:g} s"):
                return self._policy.propose(memory, seen, bounds)
        except Interrupted:
            # It may have slept: then it took no processor time.
            late_s = self._hang_s or 0.0
            raise
        finally:
            took_s = max(self._clock() - began, late_s)
            if took_s <= self._limit_s:
                self._rest = 0
            else:
                self._rest = self._left = min(max(2 * self._rest, 1), _LONGEST_REST)
                self.fault = f"{self.version} took {took_s * 1000:.1f} ms of {self._limit_s * 1000:g}"

    def inherit(self, memory: Any, ratio: float, end: int) -> Any:
        """The policy's own, where it can begin with another instance's memory."""
        if isinstance(self._policy, InheritingPolicy):
            return self._policy.inherit(memory, ratio, end)
        return self.memory_type()

    def skip_step(self) -> None:
        """Count a step at which the policy was not asked."""
        self._left -= 1
        if self._left == 0:
            self.fault = None


class Reports(Protocol):
    """What the actuator reports to be in force."""

    def find_news(self, domain: str, previous: Mapping[str, InForce]) -> dict[str, InForce | None]:
        """What differs from what a domain's last decision took to be in force, by target; None: now unknown."""


FindInherited = Callable[[Domain, str], Awaitable[Inherited | None]]
"""What a new domain begins with under a policy of that version; None: afresh."""


class DomainWorker:
    """Answers one domain's samples."""

    def __init__(
        self,
        domain: Domain,
        decisions: DecisionLog,
        samples: SampleLog,
        reports: Reports,
        revision: int = 0,
        find_inherited: FindInherited | None = None,
    ) -> None:
        """Prepare the domain's control; its position is read with the first sample.

        Raises:
            ValueError: the domain's policy or a parameter of it does not exist.
        """
        self.last: Decision | None = None
        self._use(domain, revision)
        self._pressure = metrics.PressureGauges(domain)
        self._defined: tuple[Domain, int] | None = None
        """The definition that holds from the next sample on; None where the one in use does."""
        self._revision = revision
        """That of the newest definition here, in use or to be."""
        self._missing = 0
        """Revision of a definition that another replica had, and the bus has not."""
        self._decisions = decisions
        self._samples = samples
        self._reports = reports
        self._find_inherited = find_inherited
        self._position: DomainPosition | None = None
        for rule in get_args(Rule):
            if rule != "none":
                metrics.overruled.labels(domain.name, rule)

    def define(self, domain: Domain, revision: int) -> None:
        """Decide under another definition from the next sample on; it was checked."""
        self._defined, self._revision = (domain, revision), revision

    def retire(self) -> None:
        """Show nothing of the domain any more: it was removed."""
        self._pressure.define(())

    def _use(self, domain: Domain, revision: int) -> None:
        self._policy = TimedPolicy(make_policy(domain))
        self._controller = Controller(domain, self._policy, revision)

    async def answer_up_to(self, received: Received[Sample]) -> None:
        """Answer all of the domain's samples up to and including this one.

        Returns when nothing more has to be done for it: its decision is on the bus, or it never gets one.
        """
        back_off: BackOff | None = None
        while True:
            try:
                position = self._position
                # Whether the position is up to date: no other replica can have moved the domain on.
                is_known = position is not None and position.sample_seq + 1 >= received.since
                if position is not None and received.seq <= position.sample_seq:
                    # A sample newer than what came after it: the stream's numbering may have restarted.
                    is_known = position.state is not None and received.message.end <= position.state.end
                if position is None or not is_known:
                    position = self._position = await self._decisions.find_position()
                    failpoints.point("decision.loaded")
                if received.seq <= position.sample_seq:
                    metrics.stale.inc()
                    return
                if position.sample_seq + 1 < received.since:
                    await self._catch_up(position.sample_seq, received.seq)
                await self._answer(received)
            except Conflict:
                metrics.conflicts.inc()
                self._position = None
                # Another replica was faster: look at once.  A decision that was purged, and that the server still
                # takes for a repetition, conflicts again and again.
                if back_off is not None:
                    await back_off.wait()
                back_off = back_off or BackOff()
            else:
                return

    async def _catch_up(self, seq: int, end: int) -> None:
        """Answer the samples after one sequence and before another, which were delivered elsewhere or not at all."""
        while (sample := await self._samples.get_next(seq)) is not None and sample.seq < end:
            failpoints.point("decision.looked-up")
            metrics.caught_up.inc()
            await self._answer(sample)
            seq = sample.seq

    async def _answer(self, sample: Received[Sample]) -> None:
        """Decide on one sample and write the decision, or record why there is none."""
        assert self._position is not None
        position = self._position
        if position.definition > max(self._revision, self._missing):
            await self._look_up_definition(position.definition)
        if self._defined is not None:
            (domain, revision), self._defined = self._defined, None
            self._use(domain, revision)
            self._pressure.define(domain.targets)
        state, fault, domain = position.state, self._policy.fault, self._controller.domain
        reported = self._reports.find_news(domain.name, {} if state is None else state.in_force)
        find = self._find_inherited if state is None else None
        inherited = None if find is None else await find(domain, self._policy.version)
        decision, refused = None, None
        try:
            decision = self._controller.answer(state, sample.message, sample.published, fault, reported, inherited)
        except StaleSample:
            metrics.stale.inc()
        except Exception as error:  # noqa: BLE001 - whatever the control core fails with, the next sample is answered
            refused = str(error) if isinstance(error, FutureSample) else f"{type(error).__name__}: {error}"
        if decision is not None:
            if fault is not None:
                self._policy.skip_step()
            failpoints.point("decision.stepped")
            try:
                seq = await self._decisions.write(decision, sample, position.decision_seq)
            except (InvalidMessage, TooLarge) as error:
                refused = str(error)
            else:
                failpoints.point("decision.written")
                metrics.count_decision(decision)
                self._pressure.follow(sample.message, decision)
                self.last = decision
                position = DomainPosition(decision.state, sample.seq, seq, decision.definition)
        if refused is not None:
            await self._samples.dead_letter(sample, refused)
            failpoints.point("decision.dead-lettered")
        self._position = replace(position, sample_seq=sample.seq)

    async def _look_up_definition(self, revision: int) -> None:
        """Find the definition that the last decision was made under: none is made under an older one.

        Another replica may have heard of a definition first.  It was on the bus before that, so it is there now, unless
        the definitions were lost: then this replica decides under what it knows.
        """
        found = await self._decisions.find_definition()
        if found is not None and found[1] >= revision:
            self.define(*found)
        else:
            self._missing = revision
