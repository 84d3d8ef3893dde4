"""One domain's samples and decisions on the bus: the follower's ports, put on JetStream."""

from schemas.messages import Decision, Sample
from services.bus import envelope
from services.bus.jetstream import Bus, Received, Unreadable
from services.decision.follower import Head

NAME = "decision"
"""The service's name, and its durable consumer's."""


class BusDecisions:
    """A domain's decisions."""

    def __init__(self, bus: Bus, domain: str) -> None:
        """Look at one domain."""
        self._bus = bus
        self._subject = bus.subjects.decision(domain)

    async def head(self) -> Head:
        """Where the decisions stand; without a readable one, at what the service acknowledged last."""
        try:
            last = await self._bus.last(Decision, self._subject)
        except Unreadable as error:
            await self._bus.bury(NAME, error.raw, error.reason)
            return Head(None, await self._bus.acknowledged(Sample, NAME), error.raw.seq)
        if last is None:
            return Head(None, await self._bus.acknowledged(Sample, NAME), 0)
        samples = await self._bus.stream(Sample)
        # A stream of samples younger than the decision counts its sequences anew.
        counted = samples is not None and samples.created <= last.published
        return Head(last.message.state, _answered(last) if counted else 0, last.seq)

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
