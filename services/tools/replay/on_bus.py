"""Replay onto a bus: a recording's samples under a prefix of its own, answered by a real decision service.

    recording -> samples -> <prefix>.sample.v1.* -> sluice decision -> <prefix>.decision.v1.* -> compared

No subscriber of the live prefix receives these messages, and no actuator acts on them.  The times at which
the bus stores them are new; so a recording in which clocks jumped may be decided differently.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import aclosing

import msgspec
from msgspec import Struct

from schemas.config import BusConfig
from schemas.decode_errors import DECODE_ERRORS
from schemas.definition import Definition
from schemas.messages import Decision, InvalidMessage, Sample, State, decode, encode
from services.bus import envelope
from services.bus.bus import Bus
from services.bus.subjects import DEFAULT_PREFIX
from services.control import Controller, RejectedSample
from services.tools.common.bus_reader import BusError, BusReader, connect_reader
from services.tools.common.progress import ProgressCallback
from services.tools.common.recording import RecordedMessage, RecordingHeader, RecordingReader
from services.tools.replay.verifier import Remark, ReplayTally, describe_difference

_AHEAD = 2000
"""The most samples without an answer: a replay waits for a slow service."""
_TOGETHER = 64
"""Samples that are sent in one write."""
_TIMEOUT_S = 20.0
_LISTED = 50
_TAKE_UP_S = 0.1
_BEFORE_ALL = "0"
"""Marks a decision that the replay itself published: the position before the first sample."""
_decision = msgspec.json.Decoder(Decision)
_sample = msgspec.json.Decoder(Sample)


class UnsuitablePrefix(Exception):
    """A replay must not publish under this prefix."""


class DecisionHead(Struct, frozen=True):
    """The part of a decision that names the sample it answers."""

    domain: str
    sample: str


_head = msgspec.json.Decoder(DecisionHead)


class ExpectedAnswers:
    """The decision that each sample should be answered with, and whether it was."""

    def __init__(self, header: RecordingHeader) -> None:
        """Begin before the first message."""
        self.tallies = {domain.name: ReplayTally() for domain in header.domains}
        self._expected: OrderedDict[str, bytes] = OrderedDict()
        self._received: OrderedDict[str, bytes] = OrderedDict()
        self.room = asyncio.Event()
        self.room.set()
        self.received = 0

    @property
    def missing(self) -> int:
        """How many answers are still missing."""
        return len(self._expected)

    def expect(self, head: DecisionHead, body: bytes) -> None:
        """Add the recording's answer to a sample."""
        self._expected[head.sample] = body
        if len(self._expected) >= _AHEAD:
            self.room.clear()
        self._settle(head)

    def receive(self, body: bytes) -> None:
        """Add the service's answer to a sample."""
        self.received += 1
        head = _head.decode(body)
        self._received[head.sample] = body
        self._settle(head)
        if len(self._received) > _AHEAD:
            self._received.popitem(last=False)

    def _settle(self, head: DecisionHead) -> None:
        sample = head.sample
        if sample not in self._expected or sample not in self._received:
            return
        expected, answer = self._expected.pop(sample), self._received.pop(sample)
        if len(self._expected) < _AHEAD // 2:
            self.room.set()
        tally = self.tallies[head.domain]
        if expected == answer:
            tally.identical += 1
            return
        tally.different += 1
        if len(tally.differences) < _LISTED:
            recorded = _decision.decode(expected)
            text = describe_difference(recorded, _decision.decode(answer))
            if recorded.fault is not None:
                text += f" (recorded with a fault, which cannot be injected into a running service: {recorded.fault})"
            if recorded.definition:
                text += " (recorded under a definition, which a running service takes up at a time of its own)"
            if recorded.state.in_force:
                text += " (recorded with what an actuator had reported to be in force: none reports on this bus)"
            tally.differences.append(Remark(sample, text))

    def end(self) -> dict[str, ReplayTally]:
        """Finish: what is still missing was never answered."""
        for sample, expected in self._expected.items():
            tally = self.tallies[_decision.decode(expected).domain]
            tally.unanswered += 1
            tally.note(f"no decision on {sample} came")
        return self.tallies


class Predictor:
    """Makes the answers of a recording that has none, in this process, as the service must make them."""

    def __init__(self, header: RecordingHeader) -> None:
        """Begin each domain at its fail-safe limits."""
        self._controllers = {domain.name: Controller(domain) for domain in header.domains}
        self._states: dict[str, State] = {}

    def decide(self, sample: Sample) -> Decision | None:
        """Decide on the next sample; None where the service refuses it."""
        state = self._states.get(sample.domain)
        try:
            decision = self._controllers[sample.domain].answer(state, sample, sample.end)
        except RejectedSample:
            return None
        self._states[sample.domain] = decision.state
        return decision


async def replay(
    reader: RecordingReader, settings: BusConfig, speed: float | None, update: ProgressCallback
) -> dict[str, ReplayTally]:
    """Replay a recording onto a bus and compare the decisions that are made there.

    Args:
        reader: the recording.
        settings: the bus and the prefix under which a decision service runs; nothing may be there yet.
        speed: a factor, 1 for the recorded pace; None for no pause at all.
        update: takes the bytes read so far.

    Raises:
        BusError: the bus or the decision service does not answer.
        UnsuitablePrefix: the prefix is the live or the recorded one, or was used before.
    """
    if settings.prefix in (DEFAULT_PREFIX, reader.header.prefix):
        reason = "is the recorded or the live one: a replay needs one of its own"
        raise UnsuitablePrefix(f"prefix {settings.prefix!r} {reason}")
    async with connect_reader(settings, "replay") as connection:
        bus = connection.bus
        for name in [domain.name for domain in reader.header.domains]:
            for kind, subject in (("sample", bus.subjects.sample(name)), ("decision", bus.subjects.decision(name))):
                async with aclosing(bus.read(kind, subject=subject)) as messages:
                    if await anext(messages, None) is not None:
                        reason = "was used before: a replay needs an unused prefix, and --serve makes one"
                        raise UnsuitablePrefix(f"{subject} {reason}")
        # Streams that are created by the first message would let samples overtake each other.
        reports = await bus.ensure_streams()
        if reports:
            raise BusError("; ".join(reports))
        expected = ExpectedAnswers(reader.header)

        async def listen() -> None:
            async with aclosing(bus.read("decision", start="all", follow=True)) as messages:
                async for raw in messages:
                    if raw.headers.get(envelope.SAMPLE_SEQ) != _BEFORE_ALL:
                        expected.receive(raw.body)

        listening = asyncio.create_task(listen())
        try:
            async with asyncio.TaskGroup() as group:
                await _publish(bus, reader, expected, ReplayPacer(speed), group, update)
            await _await_answers(expected, connection)
        except ExceptionGroup as error:
            raise error.exceptions[0] from None
        finally:
            listening.cancel()
        return expected.end()


class ReplayPacer:
    """Paces messages by the times in the recording."""

    def __init__(self, speed: float | None) -> None:
        """Begin; None for no pause at all."""
        self._speed = speed
        self._first: int | None = None
        self._began = 0.0

    async def wait(self, time: int) -> None:
        """Wait until a message that was stored at ``time``, ns, is due."""
        if self._speed is None:
            return
        now = asyncio.get_running_loop().time()
        if self._first is None:
            self._first, self._began = time, now
        due = self._began + (time - self._first) / 1e9 / self._speed
        if due > now:
            await asyncio.sleep(due - now)


async def _publish(
    bus: Bus,
    reader: RecordingReader,
    expected: ExpectedAnswers,
    pace: ReplayPacer,
    group: asyncio.TaskGroup,
    update: ProgressCallback,
) -> None:
    predictor = None if "decision" in reader.header.kinds else Predictor(reader.header)
    started: set[str] = set()
    run, sent = secrets.token_hex(4), 0
    for line, sample in _read_messages(reader):
        update(reader.offset)
        if sample is None:
            if line.kind == "definition":
                await _handle_definition(bus, line, expected, run)
            else:
                await _handle_decision(bus, line, expected, started, run)
            continue
        if sample.domain not in expected.tallies:
            continue
        await pace.wait(line.time)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await expected.room.wait()
        except TimeoutError:
            raise BusError(_describe_silence(expected)) from None
        started.add(sample.domain)
        expected.tallies[sample.domain].samples += 1
        if predictor is not None and (decision := predictor.decide(sample)) is not None:
            expected.expect(DecisionHead(sample.domain, sample.id), encode(decision))
        # Tasks begin in the order in which they were made, so a domain's samples stay in order.
        headers = {envelope.TRACE: trace} if (trace := line.headers.get(envelope.TRACE)) else {}
        # The server must not take the sample for a repetition of another run's copy.
        sending = bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=f"{run}:{sample.id}", headers=headers)
        group.create_task(sending)
        sent += 1
        if sent % _TOGETHER == 0:
            await asyncio.sleep(0)


def _read_messages(reader: RecordingReader) -> Iterator[tuple[RecordedMessage, Sample | None]]:
    """Yield samples, and decisions and definitions with None; what cannot be read becomes a problem of the reader."""
    for batch in reader.read_batches(msgspec.json.Decoder(RecordedMessage)):
        for line in batch:
            try:
                if line.kind == "sample":
                    yield line, _sample.decode(line.payload)
                elif line.kind == "decision":
                    _decision.decode(line.payload)
                    yield line, None
                elif line.kind == "definition":
                    decode(Definition, line.payload)
                    yield line, None
            except (*DECODE_ERRORS, InvalidMessage) as error:
                reader.add_problem(batch, line, error)


async def _handle_definition(bus: Bus, line: RecordedMessage, expected: ExpectedAnswers, run: str) -> None:
    """Publish a definition once all samples before it are answered, and let the service take it up."""
    definition = decode(Definition, line.payload)
    deadline = asyncio.get_running_loop().time() + _TIMEOUT_S
    while expected.missing and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - another task counts
        await asyncio.sleep(0.01)
    subject = bus.subjects.definition(definition.domain)
    await bus.publish(subject, definition, msg_id=f"{run}:{definition.id}:{line.seq}")
    await asyncio.sleep(_TAKE_UP_S)


async def _handle_decision(
    bus: Bus, line: RecordedMessage, expected: ExpectedAnswers, started: set[str], run: str
) -> None:
    body = line.payload
    head = _head.decode(body)
    if head.domain not in expected.tallies:
        return
    if head.domain in started:
        expected.expect(head, body)
        return
    recorded = _decision.decode(body)
    # The state that the recording begins in: the service goes on from it.
    expected.tallies[recorded.domain].given += 1
    subject = bus.subjects.decision(recorded.domain)
    headers = {envelope.SAMPLE_SEQ: _BEFORE_ALL}
    await bus.publish(subject, recorded, msg_id=f"{run}:{recorded.id}", headers=headers)


def _describe_silence(expected: ExpectedAnswers) -> str:
    if expected.received:
        return f"the decision service stopped answering after {expected.received:,} decisions"
    return "no decision service answers under this prefix; --serve starts one"


async def _await_answers(expected: ExpectedAnswers, connection: BusReader) -> None:
    """Wait for the missing answers, as long as some arrive."""
    received, deadline = -1, 0.0
    loop = asyncio.get_running_loop()
    while expected.missing:
        if expected.received != received:
            received, deadline = expected.received, loop.time() + _TIMEOUT_S
        elif loop.time() > deadline:
            if not received:
                raise BusError(connection.failure or _describe_silence(expected))
            return
        await asyncio.sleep(0.02)
