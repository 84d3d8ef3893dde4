"""One domain's samples and decisions on the bus: the follower's ports, put on JetStream."""

from schemas.messages import Decision, Sample
from services.bus import envelope
from services.bus.bus import Bus, Received, Unreadable
from services.decision.domain_worker import Head

NAME = "decision"
"""The service's name, and its durable consumer's."""

_REACH = 64
"""How far to look back first, stream sequences."""


class BusDecisions:
    """A domain's decisions."""

    def __init__(self, bus: Bus, domain: str) -> None:
        """Look at one domain."""
        self._bus = bus
        self._subject = bus.subjects.decision(domain)

    async def head(self) -> Head:
        """Where the decisions stand; without a readable one, at what the service acknowledged last."""
        seq = 0
        try:
            last = await self._bus.last(Decision, self._subject)
        except Unreadable as error:
            await self._bus.bury(NAME, error.raw, error.reason)
            seq = error.raw.seq
            last = await self._before(error)
        if last is None:
            return Head(None, await self._bus.acknowledged(Sample, NAME), seq)
        samples = await self._bus.stream(Sample)
        # A stream of samples younger than the decision counts its sequences anew.
        counted = samples is not None and samples.created <= last.published
        return Head(last.message.state, _answered(last) if counted else 0, max(seq, last.seq))

    async def _before(self, unreadable: Unreadable) -> Received[Decision] | None:
        """The last decision before what never was one; None where a later build took the domain on from there.

        The server finds a subject's next message, not the one before: look at longer and longer stretches.
        """
        end, reach = unreadable.raw.seq, _REACH
        last: Received[Decision] | Unreadable | None = unreadable if unreadable.later else None
        while last is None and end > 1:
            begin = max(end - reach, 0)
            last = await self._last_between(begin, end)
            end, reach = begin + 1, 2 * reach
        return None if isinstance(last, Unreadable) else last

    async def _last_between(self, position: int, end: int) -> Received[Decision] | Unreadable | None:
        """The last decision, readable or of a later build, after a position and before a sequence."""
        last: Received[Decision] | Unreadable | None = None
        while True:
            one: Received[Decision] | Unreadable | None
            try:
                one = await self._bus.next_after(Decision, self._subject, position)
            except Unreadable as error:
                one = error
            if one is None or one.raw.seq >= end:
                return last
            position = one.raw.seq
            if isinstance(one, Received) or one.later:
                last = one

    async def write(self, decision: Decision, answered: Received[Sample], expected: int) -> int:
        """Add a decision to the sample's trace."""
        headers = {
            envelope.TRACE: envelope.continued(answered.headers, decision.id),
            envelope.SAMPLE_SEQ: str(answered.seq),
        }
        return await self._bus.publish(
            self._subject, decision, msg_id=decision.id, headers=headers, expect_last=expected
        )


class BusSamples:
    """A domain's samples."""

    def __init__(self, bus: Bus, domain: str) -> None:
        """Look at one domain."""
        self._bus = bus
        self._subject = bus.subjects.sample(domain)

    async def after(self, position: int) -> Received[Sample] | None:
        """The next sample; what cannot be read is put aside."""
        while True:
            try:
                return await self._bus.next_after(Sample, self._subject, position)
            except Unreadable as error:
                await self._bus.bury(NAME, error.raw, error.reason)
                position = error.raw.seq

    async def bury(self, sample: Received[Sample], reason: str) -> None:
        """Put a sample aside."""
        await self._bus.bury(NAME, sample, reason)


def _answered(last: Received[Decision]) -> int:
    text = last.headers.get(envelope.SAMPLE_SEQ, "")
    return int(text) if text.isascii() and text.isdigit() else 0
