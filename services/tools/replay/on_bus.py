"""Replay onto a bus: a recording's samples under a prefix of its own, answered by a real decision service.

    recording -> samples -> <prefix>.sample.v1.* -> sluice decision -> <prefix>.decision.v1.* -> compared

Nothing that listens to the live prefix hears of it, and no actuator acts on it.  What the bus itself
adds (the time at which it stores) is new; so a recording in which clocks jumped may come out otherwise.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import aclosing

import msgspec
from msgspec import Struct

from schemas.config import BusConfig
from schemas.messages import Decision, Sample, State, encode
from services.bus import envelope
from services.bus.bus import Bus
from services.bus.subjects import DEFAULT_PREFIX
from services.control import Controller, RejectedSample
from services.tools.common.bus_reader import BusError, Tap, opened
from services.tools.common.progress import Told
from services.tools.common.recording import Header, Line, Reader
from services.tools.replay.verifier import Remark, Tally, difference

_AHEAD = 2000
"""Samples on their way, at most: what a slow service makes the replay wait for."""
_TOGETHER = 64
"""Samples that go out in one write."""
_PATIENCE_S = 20.0
_LISTED = 50
_BEFORE_ALL = "0"
"""Marks a decision that the replay itself put there: the position before the first sample."""
_decision = msgspec.json.Decoder(Decision)
_sample = msgspec.json.Decoder(Sample)


class Head(Struct, frozen=True):
    """As much of a decision as tells what it answers."""

    domain: str
    sample: str


_head = msgspec.json.Decoder(Head)


class Expected:
    """What each sample should be answered with, and whether it was."""

    def __init__(self, header: Header) -> None:
        """Begin before the first message."""
        self.tallies = {domain.name: Tally() for domain in header.domains}
        self._wanted: OrderedDict[str, bytes] = OrderedDict()
        self._came: OrderedDict[str, bytes] = OrderedDict()
        self.room = asyncio.Event()
        self.room.set()
        self.heard = 0

    @property
    def open(self) -> int:
        """Answers that are still to come."""
        return len(self._wanted)

    def expect(self, head: Head, body: bytes) -> None:
        """The recording's answer to a sample."""
        self._wanted[head.sample] = body
        if len(self._wanted) >= _AHEAD:
            self.room.clear()
        self._settle(head)

    def came(self, body: bytes) -> None:
        """The service's answer to a sample."""
        self.heard += 1
        head = _head.decode(body)
        self._came[head.sample] = body
        self._settle(head)
        if len(self._came) > _AHEAD:
            self._came.popitem(last=False)

    def _settle(self, head: Head) -> None:
        sample = head.sample
        if sample not in self._wanted or sample not in self._came:
            return
        wanted, came = self._wanted.pop(sample), self._came.pop(sample)
        if len(self._wanted) < _AHEAD // 2:
            self.room.set()
        tally = self.tallies[head.domain]
        if wanted == came:
            tally.identical += 1
            return
        tally.different += 1
        if len(tally.differences) < _LISTED:
            recorded = _decision.decode(wanted)
            told = difference(recorded, _decision.decode(came))
            if recorded.fault is not None:
                told += f" (recorded with a fault, which a running service cannot be told: {recorded.fault})"
            tally.differences.append(Remark(sample, told))

    def end(self) -> dict[str, Tally]:
        """Nothing more comes."""
        for sample, wanted in self._wanted.items():
            tally = self.tallies[_decision.decode(wanted).domain]
            tally.unanswered += 1
            tally.note(f"no decision on {sample} came")
        return self.tallies


class Predictor:
    """The answers of a recording that has none: made in this process, as the service must make them."""

    def __init__(self, header: Header) -> None:
        """Begin each domain at its fail-safe limits."""
        self._controllers = {domain.name: Controller(domain) for domain in header.domains}
        self._states: dict[str, State] = {}

    def answer(self, sample: Sample) -> Decision | None:
        """The decision on the next sample; None where the service refuses it."""
        state = self._states.get(sample.domain)
        try:
            decision = self._controllers[sample.domain].answer(state, sample, sample.end)
        except RejectedSample:
            return None
        self._states[sample.domain] = decision.state
        return decision


async def replay(reader: Reader, settings: BusConfig, speed: float | None, told: Told) -> dict[str, Tally]:
    """Replay a recording onto a bus and compare what is decided there.

    Args:
        reader: the recording.
        settings: the bus and the prefix under which a decision service runs; nothing may be there yet.
        speed: 1 is as it was; None is as fast as it goes.
        told: hears how much of the file is read.

    Raises:
        BusError: the bus or the decision service does not answer, or the prefix was used before.
    """
    if settings.prefix in (DEFAULT_PREFIX, reader.header.prefix):
        raise BusError(f"prefix {settings.prefix!r} is the recorded or the live one: a replay needs one of its own")
    async with opened(settings, "replay") as tap:
        await _check_unused(tap, reader.header)
        # Made on the way, the streams would let samples overtake each other.
        reports = await tap.bus.ensure_streams()
        if reports:
            raise BusError("; ".join(reports))
        expected = Expected(reader.header)
        listening = asyncio.create_task(_listen(tap, expected))
        try:
            async with asyncio.TaskGroup() as group:
                await _publish(tap.bus, reader, expected, Pace(speed), group, told)
            await _answered(expected, tap)
        except ExceptionGroup as error:
            raise error.exceptions[0] from None
        finally:
            listening.cancel()
        return expected.end()


async def _check_unused(tap: Tap, header: Header) -> None:
    for domain in header.domains:
        for kind, subject in (("sample", tap.bus.subjects.sample), ("decision", tap.bus.subjects.decision)):
            async with aclosing(tap.bus.read(kind, subject=subject(domain.name))) as messages:
                if await anext(messages, None) is not None:
                    told = "was used before: a replay needs an unused prefix, and --serve makes one"
                    raise BusError(f"{subject(domain.name)} {told}")


class Pace:
    """When a message is due, by the times in the recording."""

    def __init__(self, speed: float | None) -> None:
        """None: at once."""
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
    bus: Bus, reader: Reader, expected: Expected, pace: Pace, group: asyncio.TaskGroup, told: Told
) -> None:
    predictor = None if "decision" in reader.header.kinds else Predictor(reader.header)
    begun: set[str] = set()
    run, sent = secrets.token_hex(4), 0
    for line, sample in _read(reader):
        told(reader.offset)
        if sample is None:
            await _expect(bus, line, expected, begun, run)
            continue
        if sample.domain not in expected.tallies:
            continue
        await pace.wait(line.time)
        await _room(expected)
        begun.add(sample.domain)
        expected.tallies[sample.domain].samples += 1
        if predictor is not None and (decision := predictor.answer(sample)) is not None:
            expected.expect(Head(sample.domain, sample.id), encode(decision))
        # Tasks begin in the order in which they were made, so a domain's samples stay in order.
        group.create_task(_send(bus, sample, line, run))
        sent += 1
        if sent % _TOGETHER == 0:
            await asyncio.sleep(0)


def _read(reader: Reader) -> Iterator[tuple[Line, Sample | None]]:
    """Samples, and decisions with None; what cannot be read is told to the reader."""
    for batch in reader.read(msgspec.json.Decoder(Line)):
        for line in batch:
            try:
                if line.kind == "sample":
                    yield line, _sample.decode(line.payload)
                elif line.kind == "decision":
                    _decision.decode(line.payload)
                    yield line, None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                reader.refuse(batch, line, error)


async def _send(bus: Bus, sample: Sample, line: Line, run: str) -> None:
    headers = {envelope.TRACE: trace} if (trace := line.headers.get(envelope.TRACE)) else {}
    # Another run's copy of the sample must not pass for a repetition.
    await bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=f"{run}:{sample.id}", headers=headers)


async def _expect(bus: Bus, line: Line, expected: Expected, begun: set[str], run: str) -> None:
    body = line.payload
    head = _head.decode(body)
    if head.domain not in expected.tallies:
        return
    if head.domain in begun:
        expected.expect(head, body)
        return
    recorded = _decision.decode(body)
    # The state that the recording begins in: the service goes on from it.
    expected.tallies[recorded.domain].given += 1
    subject = bus.subjects.decision(recorded.domain)
    headers = {envelope.SAMPLE_SEQ: _BEFORE_ALL}
    await bus.publish(subject, recorded, msg_id=f"{run}:{recorded.id}", headers=headers)


async def _room(expected: Expected) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await expected.room.wait()
    except TimeoutError:
        raise BusError(_nobody(expected)) from None


def _nobody(expected: Expected) -> str:
    if expected.heard:
        return f"the decision service stopped answering after {expected.heard:,} decisions"
    return "no decision service answers under this prefix; --serve starts one"


async def _listen(tap: Tap, expected: Expected) -> None:
    async with aclosing(tap.bus.read("decision", start="all", follow=True)) as messages:
        async for raw in messages:
            if raw.headers.get(envelope.SAMPLE_SEQ) != _BEFORE_ALL:
                expected.came(raw.body)


async def _answered(expected: Expected, tap: Tap) -> None:
    """Wait for the answers that are still to come, as long as some come."""
    heard, deadline = -1, 0.0
    loop = asyncio.get_running_loop()
    while expected.open:
        if expected.heard != heard:
            heard, deadline = expected.heard, loop.time() + _PATIENCE_S
        elif loop.time() > deadline:
            if not heard:
                raise BusError(tap.trouble or _nobody(expected))
            return
        await asyncio.sleep(0.02)
