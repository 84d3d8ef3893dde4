"""The heart of a replay: a recorded domain stepped through again, without clock or bus.

``Again`` steps under the recorded configuration, with the live service's ``Controller``, and checks
each decision, byte for byte, against the one on record.
"""

from collections import deque
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State, encode, encode_into
from services.control import Controller, RejectedSample
from services.control.admission import admit

_MOST_WAITING = 10_000
_MOST_LISTED = 50
_FOREVER = 2**63
_OVERTAKING = 10**9
"""By how much a decision's sample may come later in a recording than the decision, ns."""


class Fence(Struct, frozen=True, gc=False):
    """Where a recorded decision stands."""

    epoch: int
    seq: int


class Recorded(Struct, frozen=True, gc=False):
    """As much of a recorded decision as tells how it is to be made again."""

    domain: str
    sample: str
    end: int
    state: Fence
    policy: str
    fault: str | None = None
    """An input: the policy was not asked."""


class Remark(Struct, frozen=True):
    """What there is to say of one sample or its decision."""

    sample: str
    what: str
    time: int = 0
    """When the bus stored the message that shows it, UTC ns; 0 where that is not known."""


class Tally(Struct):
    """What became of one domain's replay."""

    samples: int = 0
    identical: int = 0
    different: int = 0
    given: int = 0
    """Decisions taken over from the record, because what they rest on is not in it."""
    missing: int = 0
    """Those of them amid the record, where nothing should be missing."""
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
        """Keep a note, unless there are too many already."""
        if len(self.notes) < _MOST_LISTED:
            self.notes.append(text)


RECORDED = msgspec.json.Decoder(Recorded)
_decision = msgspec.json.Decoder(Decision)


class Arrival(Struct, frozen=True, gc=False):
    """A sample as it came to the decision service."""

    sample: Sample
    published: int
    """When the bus stored it, UTC ns."""


class Again:
    """One domain under its recorded configuration.

    A sample waits for its recorded decision, because a fault stands in the decision and is an input;
    a decision that was read first waits for its sample.  After a difference the recorded state is
    taken, so that each difference stands for itself.
    """

    def __init__(self, domain: Domain, *, answered: bool = True, listed: int = _MOST_LISTED) -> None:
        """Begin before the first message.

        Args:
            domain: the configuration.
            answered: whether decisions are on record at all.
            listed: so many remarks of each kind are kept.
        """
        self._domain = domain
        self._answered = answered
        self._listed = listed
        self._controller = Controller(domain)
        self.policy = self._controller.policy.version
        """Name and version of the policy as this build has it."""
        self._state: State | None = None
        self._buffer = bytearray()
        self._first = _FOREVER
        self._lone: Arrival | None = None
        """The sample that waits, where nothing else does: the usual case, which needs no looking up."""
        self._samples: dict[str, Arrival] = {}
        """Those that wait in any other case, by id."""
        self._decisions: deque[tuple[Recorded, int, bytes]] = deque()
        self.tally = Tally()

    def sample(self, sample: Sample, published: int) -> None:
        """The next sample of the stream, and when the bus stored it, UTC ns."""
        self.tally.samples += 1
        if published < self._first:
            self._first = published
        arrival = Arrival(sample, published)
        if self._lone is None and not self._samples and not self._decisions:
            self._lone = arrival
            return
        self._join()
        if self._samples.setdefault(sample.id, arrival) is not arrival:
            self.tally.refused += 1
            return
        if self._decisions:
            self._settle(published)
        elif len(self._samples) > _MOST_WAITING:
            self._unanswered(self._samples.pop(next(iter(self._samples))))

    def expected(self, body: Raw) -> bool:
        """Whether ``body`` is, byte for byte, the decision on the sample that waits alone; if so, it is dealt with.

        That is the usual case, and such a decision need not be read.  In any other it goes to ``decision``.
        """
        arrival = self._lone
        if arrival is None:
            return False
        decision = self._answer(self._state, arrival, None)
        if decision is None:
            return False
        encode_into(decision, self._buffer)
        if self._buffer != body:  # type: ignore[comparison-overlap]  # Raw is a buffer, too
            return False
        self._lone = None
        self._state = decision.state
        self.tally.identical += 1
        return True

    def decision(self, recorded: Recorded, body: bytes, published: int) -> None:
        """The next recorded decision, its bytes, and when the bus stored it, UTC ns."""
        self._join()
        if not self._decisions and recorded.sample in self._samples:
            self._judge(recorded, published, body)
            return
        self._decisions.append((recorded, published, body))
        self._settle(0)

    def end(self, now: int) -> Tally:
        """No more messages; ``now`` (UTC ns) is when the last one of all was stored."""
        self._join()
        self._settle(_FOREVER)
        for arrival in self._samples.values():
            try:
                admit(self._domain, self._state, arrival.sample, arrival.published)
            except RejectedSample:
                self.tally.refused += 1
            else:
                self._open(arrival, now)
        self._samples.clear()
        return self.tally

    def _join(self) -> None:
        """Put the lone sample among those that are looked up."""
        if self._lone is not None:
            self._samples[self._lone.sample.id] = self._lone
            self._lone = None

    def _settle(self, now: int) -> None:
        """Judge the decisions whose samples are there, or cannot come any more with the samples at ``now``."""
        while self._decisions:
            recorded, published, body = self._decisions[0]
            if recorded.sample not in self._samples and now <= published + _OVERTAKING and self._roomy:
                return
            self._decisions.popleft()
            self._judge(recorded, published, body)

    @property
    def _roomy(self) -> bool:
        return len(self._decisions) <= _MOST_WAITING

    def _judge(self, recorded: Recorded, published: int, body: bytes) -> None:
        if recorded.sample not in self._samples:
            # Before the first sample, decisions are there for their state alone.
            hole = "its sample is not in the recording" if published > self._first else None
            self._take(recorded, body, published, hole)
            return
        skipped: list[Arrival] = []
        while (name := next(iter(self._samples))) != recorded.sample:
            skipped.append(self._samples.pop(name))
        arrival = self._samples.pop(name)
        replayed = self._answer(self._state, arrival, recorded.fault) if not skipped else None
        if replayed is None or encode(replayed) != body:
            self._search(recorded, published, body, arrival, skipped)
            return
        self.tally.identical += 1
        self._state = replayed.state

    def _answer(self, state: State | None, arrival: Arrival, fault: str | None) -> Decision | None:
        """The decision as the service would make it; None where it would refuse the sample."""
        try:
            return self._controller.answer(state, arrival.sample, arrival.published, fault)
        except RejectedSample:
            return None

    def _search(
        self, recorded: Recorded, published: int, body: bytes, arrival: Arrival, skipped: list[Arrival]
    ) -> None:
        """Find the state that the decision was made from, where it is not simply the one before.

        It may have gone over samples whose decisions are lost, or past samples that it never saw, or
        have begun anew on a bus that was wiped.
        """
        through = self._passed(skipped, self._state)
        best: Decision | None = None
        for state in (through, self._state, None):
            replayed = self._answer(state, arrival, recorded.fault)
            if replayed is not None and (replayed.epoch, replayed.seq) == (recorded.state.epoch, recorded.state.seq):
                if encode(replayed) == body:
                    self.tally.identical += 1
                    self._state = replayed.state
                    return
                best = best or replayed
        if best is None and through is not None and arrival.sample.end - through.end <= arrival.sample.period:
            # No sample lies between that state and this one: nothing is missing that could explain it.
            best = self._answer(through, arrival, recorded.fault)
        elif best is None:
            self._take(recorded, body, published, self._gap(recorded))
            return
        self._differs(best, recorded, published, body)

    def _passed(self, skipped: list[Arrival], state: State | None) -> State | None:
        """The state after samples that have no decision on record."""
        for arrival in skipped:
            replayed = self._answer(state, arrival, None)
            if replayed is None:
                self.tally.refused += 1
                continue
            self._unanswered(arrival)
            if state is not None:
                state = replayed.state
        return state

    def _open(self, arrival: Arrival, now: int) -> None:
        """A sample whose decision has not come by the end."""
        if arrival.published + self._domain.dead_man < now:
            self._unanswered(arrival)
        else:
            self.tally.waiting += 1

    def _unanswered(self, arrival: Arrival) -> None:
        if not self._answered:
            self.tally.waiting += 1
            return
        self.tally.unanswered += 1
        self._list(self.tally.silent, arrival.sample.id, "it was never decided on", arrival.published)

    def _list(self, remarks: list[Remark], sample: str, what: str, time: int) -> None:
        if len(remarks) < self._listed:
            remarks.append(Remark(sample, what, time))

    def _gap(self, recorded: Recorded) -> str | None:
        if self._state is None:
            self.tally.note(
                f"the recording begins in the middle: the decision on {recorded.sample} is taken as it is, "
                "and the ones after it are checked"
            )
            return None
        return (
            f"its decision is number {recorded.state.seq} of epoch {recorded.state.epoch}, "
            f"the one before it number {self._state.seq} of epoch {self._state.epoch}: decisions are missing"
        )

    def _take(self, recorded: Recorded, body: bytes, published: int, hole: str | None) -> None:
        """Go on from the state on record; ``hole`` says what is missing before it, where something is."""
        try:
            self._state = _decision.decode(body).state
        except msgspec.DecodeError as error:
            # As the service does: without a readable state it begins anew.
            self._state, hole = None, f"its decision cannot be read: {error}"
        self.tally.given += 1
        if hole is not None:
            self.tally.missing += 1
            self._list(self.tally.holes, recorded.sample, hole, published)

    def _differs(self, replayed: Decision | None, recorded: Recorded, published: int, body: bytes) -> None:
        """Count a decision that is not what its sample gives; None: no service would have stepped on that."""
        try:
            decision = _decision.decode(body)
        except msgspec.DecodeError as error:
            self._state, told = None, f"the recorded one cannot be read: {error}"
        else:
            refused = "a decision is on record, and the sample would be refused"
            self._state, told = decision.state, refused if replayed is None else difference(decision, replayed)
        self.tally.different += 1
        self._list(self.tally.differences, recorded.sample, told, published)


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
