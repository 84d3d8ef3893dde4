"""The core of a replay: a recorded domain stepped through again, without clock or bus.

``ReplayVerifier`` steps under the recorded configuration, with the live service's ``Controller``, and
compares each decision, byte for byte, with the recorded one.
"""

from collections import deque
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.definition import Definition
from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import Decision, InForce, Sample, State, encode_into
from schemas.numbers import Integer
from services.control import Controller, RejectedSample
from services.control.admission import admit
from services.tools.common.remade import is_same_decision

_MOST_WAITING = 10_000
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_MOST_LISTED = 50
_FOREVER = 2**63
_OVERTAKING = 10**9
"""By how much a decision's sample may come later in a recording than the decision, ns."""


class RecordedPosition(Struct, frozen=True, gc=False):
    """Epoch and sequence of a recorded decision."""

    epoch: Integer
    seq: Integer


class RecordedDecision(Struct, frozen=True, gc=False):
    """The part of a recorded decision that is needed to make it again."""

    domain: str
    sample: str
    end: Integer
    state: RecordedPosition
    policy: str
    fault: str | None = None
    """An input: the policy was not asked."""
    reported: dict[str, InForce | None] = {}
    """An input: what was newly reported to be in force."""
    definition: Integer = 0
    """An input: the revision of the definition; 0: the configuration of the recording."""
    inherited: Inherited | None = None
    """An input: what a new instance began with."""
    v: Integer = 1


class Remark(Struct, frozen=True):
    """A remark on one sample or its decision."""

    sample: str
    what: str
    time: int = 0
    """When the bus stored the message that shows it, UTC ns; 0 where that is not known."""


class ReplayTally(Struct):
    """The result of one domain's replay."""

    samples: int = 0
    identical: int = 0
    different: int = 0
    given: int = 0
    """Decisions taken as recorded, because their sample or state is not in the recording."""
    missing: int = 0
    """Of these, the ones in the middle of the recording, where nothing should be missing."""
    refused: int = 0
    """Samples that no service steps on: repeated, not newer than the one before, or from the future."""
    unanswered: int = 0
    """Samples without a decision on record, though there was time for it."""
    waiting: int = 0
    """Samples at the end without a decision on record: it may have come later, or none was recorded at all."""
    silent: list[Remark] = field(default_factory=list)
    """The first samples that are unanswered."""
    differences: list[Remark] = field(default_factory=list)
    """The first decisions that came out otherwise than the recorded ones."""
    holes: list[Remark] = field(default_factory=list)
    """The first decisions that something is missing before."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of the record itself."""

    def note(self, text: str) -> None:
        """Add a note, unless there are too many already."""
        if len(self.notes) < _MOST_LISTED:
            self.notes.append(text)


RECORDED = msgspec.json.Decoder(RecordedDecision)
_decision = msgspec.json.Decoder(Decision)


class Arrival(Struct, frozen=True, gc=False):
    """A sample as it came to the decision service."""

    sample: Sample
    published: int
    """When the bus stored it, UTC ns."""


class ReplayVerifier:
    """Verifies one domain under its recorded configuration.

    A sample waits for its recorded decision, because that contains inputs: the fault, and what was in force;
    a decision that was read first waits for its sample.  After a difference the recorded state is
    used, so that each difference stands for itself.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        answered: bool = True,
        listed: int = _MOST_LISTED,
        recorded_policy: str | None = None,
    ) -> None:
        """Begin before the first message.

        Args:
            domain: the configuration.
            answered: whether the recording has decisions at all.
            listed: how many remarks of each kind to keep.
            recorded_policy: name and version of the policy that decided, where they are known.
        """
        self._answered = answered
        self._listed = listed
        self._controller = Controller(domain)
        """Under the definition that was decided under last."""
        self._defined: dict[int, Domain] = {0: domain}
        """Every definition that was recorded so far, by its revision."""
        self._state: State | None = None
        self._buffer = bytearray()
        self._first = _FOREVER
        """Where the window of the first sample ends, UTC ns."""
        self._lone: Arrival | None = None
        """The waiting sample, where it is the only one: the usual case, which needs no index."""
        self._samples: dict[str, Arrival] = {}
        """The waiting samples in any other case, by id."""
        self._decisions: deque[tuple[RecordedDecision, int, bytes]] = deque()
        """Those that wait for their samples: each with when the bus stored it and its bytes."""
        self._waiting_bytes = 0
        self.tally = ReplayTally()
        ours = self._controller.policy.version
        if recorded_policy not in (None, ours):
            text = f"recorded under {recorded_policy}, and this build has {ours}: other decisions are to be expected"
            self.tally.note(text)

    def define(self, definition: Definition) -> None:
        """Add a definition of the domain: decisions that name its revision were made under it."""
        self._defined[definition.revision] = definition.configuration
        if definition.revision == self._controller.revision:
            self._use(definition.revision)  # a bus that was wiped counts from 1 again

    def _use(self, revision: int) -> bool:
        """Decide under a revision from now on; returns whether it is known."""
        domain = self._defined.get(revision)
        if domain is None:
            return False
        if revision != self._controller.revision or domain is not self._controller.domain:
            self._controller = Controller(domain, revision=revision)
        return True

    def add_sample(self, sample: Sample, published: int) -> None:
        """Add the next sample of the stream, and when the bus stored it, UTC ns."""
        self.tally.samples += 1
        if sample.end < self._first:
            self._first = sample.end
        arrival = Arrival(sample, published)
        if self._lone is None and not self._samples and not self._decisions:
            self._lone = arrival
            return
        self._index_lone()
        if self._samples.setdefault(sample.id, arrival) is not arrival:
            self.tally.refused += 1
            return
        if self._decisions:
            self._judge_ready(published)
        elif len(self._samples) > _MOST_WAITING:
            self._count_unanswered(self._samples.pop(next(iter(self._samples))))

    def matches_recorded(self, body: Raw) -> bool:
        """Return whether ``body`` is, byte for byte, the decision on the only waiting sample; if so, count it.

        Such a decision, the usual case, need not be decoded.  Any other goes to ``add_decision``.
        """
        arrival = self._lone
        if arrival is None:
            return False
        decision = self._decide(self._state, arrival, None)
        if decision is None:
            return False
        encode_into(decision, self._buffer)
        if self._buffer != body:  # type: ignore[comparison-overlap]  # Raw is a buffer, too
            return False
        self._lone = None
        self._state = decision.state
        self.tally.identical += 1
        return True

    def add_decision(self, recorded: RecordedDecision, body: bytes, published: int) -> None:
        """Add the next recorded decision, its bytes, and when the bus stored it, UTC ns."""
        self._index_lone()
        if not self._decisions and recorded.sample in self._samples:
            self._judge(recorded, published, body)
            return
        self._decisions.append((recorded, published, body))
        self._waiting_bytes += len(body)
        self._judge_ready(0)

    def end(self, now: int) -> ReplayTally:
        """Finish; ``now`` (UTC ns) is when the last message of all was stored."""
        self._index_lone()
        self._judge_ready(_FOREVER)
        for arrival in self._samples.values():
            try:
                admit(self._controller.domain, self._state, arrival.sample, arrival.published)
            except RejectedSample:
                self.tally.refused += 1
            else:
                if arrival.published + self._controller.domain.dead_man < now:
                    self._count_unanswered(arrival)
                else:
                    self.tally.waiting += 1
        self._samples.clear()
        return self.tally

    def _index_lone(self) -> None:
        """Move the only waiting sample into the index."""
        if self._lone is not None:
            self._samples[self._lone.sample.id] = self._lone
            self._lone = None

    def _judge_ready(self, now: int) -> None:
        """Judge the decisions whose samples have come, or cannot come any more since the stream is at ``now``."""
        while self._decisions:
            recorded, published, body = self._decisions[0]
            has_room = len(self._decisions) <= _MOST_WAITING and self._waiting_bytes <= _MOST_WAITING_BYTES
            if recorded.sample not in self._samples and now <= published + _OVERTAKING and has_room:
                return
            self._decisions.popleft()
            self._waiting_bytes -= len(body)
            self._judge(recorded, published, body)

    def _judge(self, recorded: RecordedDecision, published: int, body: bytes) -> None:
        if recorded.sample not in self._samples:
            # Decisions on samples from before the recording are there for their state alone.
            hole = "its sample is not in the recording" if recorded.end >= self._first else None
            self._accept_recorded(recorded, body, published, hole)
            return
        skipped: list[Arrival] = []
        while (name := next(iter(self._samples))) != recorded.sample:
            skipped.append(self._samples.pop(name))
        arrival = self._samples.pop(name)
        if recorded.definition != self._controller.revision:
            try:
                is_known, why = self._use(recorded.definition), "is not in the recording"
            except ValueError as error:
                is_known, why = False, f"is one that this build cannot use: {error}"
            if not is_known:
                self._accept_recorded(
                    recorded, body, published, f"its definition, revision {recorded.definition}, {why}"
                )
                return
        replayed = self._decide(self._state, arrival, recorded) if not skipped else None
        if replayed is None or not is_same_decision(replayed, body):
            self._search(recorded, published, body, arrival, skipped)
            return
        self.tally.identical += 1
        self._state = replayed.state

    def _decide(self, state: State | None, arrival: Arrival, recorded: RecordedDecision | None) -> Decision | None:
        """Decide as the service would with the inputs on record; None where it would refuse the sample."""
        sample, published = arrival.sample, arrival.published
        try:
            if recorded is None:
                return self._controller.answer(state, sample, published)
            return self._controller.answer(
                state, sample, published, recorded.fault, recorded.reported, recorded.inherited
            )
        except RejectedSample:
            return None

    def _search(
        self, recorded: RecordedDecision, published: int, body: bytes, arrival: Arrival, skipped: list[Arrival]
    ) -> None:
        """Find the state that the decision was made from, where it is not that of the decision before.

        The service may have stepped on samples whose decisions are lost, may never have seen some samples,
        or may have restarted on a bus that was wiped.
        """
        # Step on the samples that have no recorded decision.
        through = self._state
        for before in skipped:
            replayed = self._decide(through, before, None)
            if replayed is None:
                self.tally.refused += 1
                continue
            self._count_unanswered(before)
            through = replayed.state if through is not None else None
        best: Decision | None = None
        for state in (through, self._state, None):
            replayed = self._decide(state, arrival, recorded)
            if replayed is not None and (replayed.epoch, replayed.seq) == (recorded.state.epoch, recorded.state.seq):
                if is_same_decision(replayed, body):
                    self.tally.identical += 1
                    self._state = replayed.state
                    return
                best = best or replayed
        if best is None and through is not None and arrival.sample.end - through.end <= arrival.sample.period:
            # No sample lies between that state and this one: nothing is missing that could explain it.
            best = self._decide(through, arrival, recorded)
        elif best is None:
            hole = None
            if self._state is None:
                text = f"the recording begins in the middle: the decision on {recorded.sample} is taken as it is"
                self.tally.note(f"{text}, and the ones after it are checked")
            else:
                place = f"its decision is number {recorded.state.seq} of epoch {recorded.state.epoch}"
                hole = f"{place}, the one before it number {self._state.seq} of epoch {self._state.epoch}"
                hole += ": decisions are missing"
            self._accept_recorded(recorded, body, published, hole)
            return
        self._count_difference(best, recorded, published, body)

    def _count_unanswered(self, arrival: Arrival) -> None:
        if not self._answered:
            self.tally.waiting += 1
            return
        self.tally.unanswered += 1
        self._add_remark(self.tally.silent, arrival.sample.id, "it was never decided on", arrival.published)

    def _add_remark(self, remarks: list[Remark], sample: str, what: str, time: int) -> None:
        if len(remarks) < self._listed:
            remarks.append(Remark(sample, what, time))

    def _accept_recorded(self, recorded: RecordedDecision, body: bytes, published: int, hole: str | None) -> None:
        """Go on from the recorded state; ``hole`` describes what is missing before it, if anything."""
        try:
            self._state = _decision.decode(body).state
        except DECODE_ERRORS as error:
            # As the service does: without a readable state it starts a new epoch.
            self._state, hole = None, f"its decision cannot be read: {describe_decode_error(error)}"
        self.tally.given += 1
        if hole is not None:
            self.tally.missing += 1
            self._add_remark(self.tally.holes, recorded.sample, hole, published)

    def _count_difference(
        self, replayed: Decision | None, recorded: RecordedDecision, published: int, body: bytes
    ) -> None:
        """Count a decision that differs from the replayed one; None: the service would have refused the sample."""
        try:
            decision = _decision.decode(body)
        except DECODE_ERRORS as error:
            self._state, text = None, f"the recorded one cannot be read: {describe_decode_error(error)}"
        else:
            refused = "a decision is on record, and the sample would be refused"
            self._state, text = decision.state, refused if replayed is None else describe_difference(decision, replayed)
        self.tally.different += 1
        self._add_remark(self.tally.differences, recorded.sample, text, published)


def describe_difference(recorded: Decision, replayed: Decision) -> str:
    """Describe how a replayed decision differs from the recorded one, field by field."""
    if recorded.policy != replayed.policy:
        return f"recorded under {recorded.policy}, replayed under {replayed.policy}"
    old, new = (msgspec.to_builtins(decision) for decision in (recorded, replayed))
    parts = [
        f"{path}: {msgspec.json.encode(was).decode()} recorded, {msgspec.json.encode(now).decode()} replayed"
        for path, was, now in _list_differences("", old, new)
    ]
    return "; ".join(parts[:6]) or "the same content, written otherwise"


def _list_differences(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [
            found
            for key in keys
            for found in _list_differences(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for i, (one, other) in pairs for found in _list_differences(f"{path}[{i}]", one, other)]
    return [] if old == new else [(path, old, new)]
