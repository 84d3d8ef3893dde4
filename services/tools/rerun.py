"""The heart of a replay: a recorded domain stepped through again, without clock or bus.

``Again`` steps under the recorded configuration, with the live service's ``Controller``, and checks
each decision, byte for byte, against the one on record.
"""

from collections import deque
from typing import Any

import msgspec
from msgspec import Struct, field

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State, encode
from services.control import Controller

_MOST_WAITING = 10_000
_MOST_LISTED = 50
_FOREVER = 2**63


class Fence(Struct, frozen=True):
    """Where a recorded decision stands."""

    epoch: int
    seq: int


class Recorded(Struct, frozen=True):
    """As much of a recorded decision as tells how it is to be made again."""

    sample: str
    end: int
    state: Fence
    policy: str
    fault: str | None = None
    """An input: the policy was not asked."""


class Difference(Struct, frozen=True):
    """A decision that came out otherwise than the recorded one."""

    sample: str
    what: str


class Tally(Struct):
    """What became of one domain's replay."""

    samples: int = 0
    identical: int = 0
    different: int = 0
    given: int = 0
    """Decisions taken over from the record, because what they rest on is not in it."""
    stale: int = 0
    """Samples that were not newer than the one before: no service steps on them."""
    unanswered: int = 0
    """Samples without a decision on record."""
    differences: list[Difference] = field(default_factory=list)
    """The first of them."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of the record itself."""

    def note(self, text: str) -> None:
        """Keep a note, unless there are too many already."""
        if len(self.notes) < _MOST_LISTED:
            self.notes.append(text)


_recorded = msgspec.json.Decoder(Recorded)
_decision = msgspec.json.Decoder(Decision)


class Again:
    """One domain under its recorded configuration.

    A sample waits for its recorded decision, because a fault stands in the decision and is an input;
    a decision that was read first waits for its sample.  After a difference the recorded state is
    taken, so that each difference stands for itself.
    """

    def __init__(self, domain: Domain) -> None:
        """Begin before the first message."""
        self._controller = Controller(domain)
        self._state: State | None = None
        self._begun = False
        self._samples: deque[Sample] = deque()
        self._decisions: deque[tuple[Recorded, bytes]] = deque()
        self._newest = 0
        self.tally = Tally()

    def sample(self, sample: Sample) -> None:
        """The next sample of the stream."""
        self.tally.samples += 1
        if sample.end <= self._newest:
            self.tally.stale += 1
            return
        self._newest = sample.end
        self._samples.append(sample)
        if self._decisions:
            self._settle()
        elif len(self._samples) > _MOST_WAITING:
            self._samples.popleft()
            self.tally.unanswered += 1

    def decision(self, body: bytes) -> None:
        """The next recorded decision.

        Raises:
            msgspec.DecodeError: ``body`` is no decision.
        """
        self._decisions.append((_recorded.decode(body), body))
        self._settle()

    def end(self) -> Tally:
        """No more messages."""
        self._newest = _FOREVER
        self._settle()
        self.tally.unanswered += len(self._samples)
        self._samples.clear()
        return self.tally

    def _settle(self) -> None:
        while self._decisions and (self._decisions[0][0].end <= self._newest or len(self._decisions) > _MOST_WAITING):
            self._judge(*self._decisions.popleft())

    def _judge(self, recorded: Recorded, body: bytes) -> None:
        sample, skipped = self._sample_of(recorded)
        if sample is None:
            self._take(body, f"the sample {recorded.sample} is not in the recording" if self._begun else None)
            return
        if not self._enter(recorded, skipped):
            self._take(body, self._gap(recorded))
            return
        replayed = self._controller.step(self._state, sample, recorded.fault)
        if encode(replayed) == body:
            self.tally.identical += 1
            self._state = replayed.state
        else:
            self._differs(replayed, body)
        self._begun = True

    def _sample_of(self, recorded: Recorded) -> tuple[Sample | None, list[Sample]]:
        """The decision's sample, and the samples before it that have no decision of their own."""
        skipped: list[Sample] = []
        waiting = self._samples
        while waiting and waiting[0].end <= recorded.end:
            sample = waiting.popleft()
            if sample.id == recorded.sample:
                return sample, skipped
            skipped.append(sample)
        self.tally.unanswered += len(skipped)
        return None, []

    def _enter(self, recorded: Recorded, skipped: list[Sample]) -> bool:
        """Bring the state to just before the recorded decision; False where that cannot be done."""
        self.tally.unanswered += len(skipped)
        if recorded.state.seq == 1:
            self._state = None
            return True
        state = self._state
        if state is None or state.epoch != recorded.state.epoch:
            return False
        if recorded.state.seq == state.seq + 1 + len(skipped):
            for sample in skipped:
                state = self._controller.step(state, sample).state
            self._state = state
            return True
        return recorded.state.seq == state.seq + 1

    def _gap(self, recorded: Recorded) -> str:
        if self._state is None:
            return (
                f"the recording begins in the middle: the decision on {recorded.sample} is taken as it is, "
                "and the ones after it are checked"
            )
        return (
            f"the decision on {recorded.sample} is number {recorded.state.seq} of epoch {recorded.state.epoch}, "
            f"the one before it number {self._state.seq} of epoch {self._state.epoch}: decisions are missing"
        )

    def _take(self, body: bytes, why: str | None) -> None:
        self._state = _decision.decode(body).state
        self._begun = True
        self.tally.given += 1
        if why is not None:
            self.tally.note(why)

    def _differs(self, replayed: Decision, body: bytes) -> None:
        recorded = _decision.decode(body)
        self._state = recorded.state
        self.tally.different += 1
        if len(self.tally.differences) < _MOST_LISTED:
            self.tally.differences.append(Difference(recorded.sample, difference(recorded, replayed)))


def difference(recorded: Decision, replayed: Decision) -> str:
    """In words, how a replayed decision differs from the recorded one."""
    if recorded.policy != replayed.policy:
        return f"recorded under {recorded.policy}, replayed under {replayed.policy}"
    old, new = (msgspec.to_builtins(decision) for decision in (recorded, replayed))
    parts = [f"{path}: {was!r} recorded, {now!r} replayed" for path, was, now in _differing("", old, new)]
    return "; ".join(parts[:6]) or "the same content, written otherwise"


def _differing(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [found for key in keys for found in _differing(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for i, (one, other) in pairs for found in _differing(f"{path}[{i}]", one, other)]
    return [] if old == new else [(path, old, new)]
