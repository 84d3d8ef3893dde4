"""Samples, decisions and reports as JetStream keeps them: what a ``DomainWorker`` reads and writes.

Decisions rise from what the actuator reports to be in force, not from what was only decided.  Only a whole report
counts: one that says that all objects of the target have the limit.  Where no actuator reports (there is none, it runs
dry, or a recording is replayed), what was decided is taken to be in force.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import aclosing

import msgspec
import structlog
from msgspec import Struct

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Cause, Decision, InForce, Outcome, Sample
from schemas.numbers import Integer, Rate, Time
from services.bus import envelope
from services.bus.bus import Bus, Received, Unreadable
from services.control import Controller
from services.decision.domain_worker import DomainPosition
from services.decision.intake import NAME

_SEQUENCE = re.compile(r"[0-9]{1,19}", re.ASCII)
_REACH = 64
"""How far to look back at first, in stream sequences."""
_BATCH = 16
"""Reports that are requested at once: one names up to 500 Pods."""

_log = structlog.get_logger()


class BusDecisionLog:
    """A domain's decisions on the bus."""

    def __init__(self, bus: Bus, domain: str, consumer: str = NAME) -> None:
        """Take the bus, the domain's name, and the name of the consumer that delivers its samples."""
        self._bus = bus
        self._consumer = consumer
        self._subject = bus.subjects.decision(domain)
        self._definition = bus.subjects.definition(domain)

    async def find_position(self) -> DomainPosition:
        """Up to where the domain is decided; without a readable decision, what the service acknowledged last."""
        seq = 0
        try:
            last = await self._bus.get_last(Decision, self._subject)
        except Unreadable as error:
            await self._bus.dead_letter(NAME, error.raw, error.reason)
            seq = error.raw.seq
            last = await self._find_before(error)
        if last is None:
            return DomainPosition(None, await self._bus.ack_floor(Sample, self._consumer), seq)
        samples = await self._bus.stream_info(Sample)
        answered = last.headers.get(envelope.SAMPLE_SEQ, "")
        # A stream of samples that was created after the decision counts its sequences from 1.
        counted = samples is not None and samples.created <= last.published
        sample_seq = int(answered) if counted and _SEQUENCE.fullmatch(answered) else 0
        # A sample that ended the service again and again was put aside, and must not be looked up again.
        sample_seq = max(sample_seq, await self._bus.ack_floor(Sample, self._consumer))
        return DomainPosition(last.message.state, sample_seq, max(seq, last.seq), last.message.definition)

    async def find_definition(self) -> tuple[Domain, int] | None:
        """The domain's newest definition on the bus and its revision; None without one that can be used."""
        try:
            found = await self._bus.get_last(Definition, self._definition)
            if found is None or found.message.removed:
                return None
            Controller(found.message.configuration)
        except Exception:  # noqa: BLE001 - a policy of another package may raise anything
            return None  # the service reports it when it is delivered
        return found.message.configuration, found.message.revision

    async def _find_before(self, unreadable: Unreadable) -> Received[Decision] | None:
        """The last decision before an unreadable message; None where a later build went on from there.

        The server finds a subject's next message, not the one before, so look at longer and longer ranges.
        """
        end, reach = unreadable.raw.seq, _REACH
        last: Received[Decision] | Unreadable | None = unreadable if unreadable.later else None
        while last is None and end > 1:
            begin = max(end - reach, 0)
            last = await self._find_last_between(begin, end)
            end, reach = begin + 1, 2 * reach
        return None if isinstance(last, Unreadable) else last

    async def _find_last_between(self, seq: int, end: int) -> Received[Decision] | Unreadable | None:
        """The last decision, readable or of a later build, between two sequences."""
        last: Received[Decision] | Unreadable | None = None
        while True:
            one: Received[Decision] | Unreadable | None
            try:
                one = await self._bus.get_next(Decision, self._subject, seq)
            except Unreadable as error:
                one = error
            if one is None or one.raw.seq >= end:
                return last
            seq = one.raw.seq
            if isinstance(one, Received) or one.later:
                last = one

    async def write(self, decision: Decision, answered: Received[Sample], expected: int) -> int:
        """Publish a decision that continues the sample's trace; gives its sequence."""
        headers = {
            envelope.TRACE: envelope.trace_message(decision.id, answered.headers),
            envelope.SAMPLE_SEQ: str(answered.seq),
        }
        return await self._bus.publish(
            self._subject, decision, msg_id=decision.id, headers=headers, expect_last=expected
        )


class BusSampleLog:
    """A domain's samples on the bus."""

    def __init__(self, bus: Bus, domain: str) -> None:
        """Take the bus, and the domain's name."""
        self._bus = bus
        self._subject = bus.subjects.sample(domain)

    async def get_next(self, seq: int) -> Received[Sample] | None:
        """The first readable sample after a sequence; unreadable ones become dead letters."""
        while True:
            try:
                return await self._bus.get_next(Sample, self._subject, seq)
            except Unreadable as error:
                await self._bus.dead_letter(NAME, error.raw, error.reason)
                seq = error.raw.seq

    async def dead_letter(self, sample: Received[Sample], reason: str) -> None:
        """Record a sample that cannot be answered."""
        await self._bus.dead_letter(NAME, sample, reason)


class ReportHead(Struct, frozen=True, gc=False):
    """The part of an action that says what is in force."""

    domain: str
    target: str
    cause: Cause
    outcome: Outcome
    limit: Rate
    applied: Time | None = None
    partial: bool = False
    paused: bool = False
    v: Integer = 1


class _Known(Struct, frozen=True, gc=False):
    in_force: InForce | None
    applied: Time
    """When the last patch was acknowledged, by the actuator's clock, UTC ns."""


_decoder = msgspec.json.Decoder(ReportHead)


class Enforcement:
    """What is in force on the configured targets."""

    def __init__(self, domains: Collection[Domain]) -> None:
        """Begin without a report."""
        # Of every target that there are reports about: its definition may arrive after them.
        self._known: dict[str, dict[str, _Known]] = {}
        self._targets: dict[str, frozenset[str]] = {}
        for domain in domains:
            self.define(domain)

    def define(self, domain: Domain) -> None:
        """Follow the reports on these targets of a domain from now on."""
        self._targets[domain.name] = frozenset(target.key for target in domain.targets)

    def take(self, report: ReportHead, published: int) -> None:
        """Take a report.

        Args:
            report: the next one on its subject.
            published: when the bus stored it, UTC ns.
        """
        if report.v != 1:
            return
        of_domain = self._known.setdefault(report.domain, {})
        known = of_domain.get(report.target)
        before = None if known is None else known.in_force
        applied = 0 if known is None else known.applied
        if report.applied is not None:
            # An actuator that was cut off reports late what another one has replaced since.  A time that lies ahead
            # of the bus's own is from a wrong clock, and proves nothing.
            if report.applied < applied <= published:
                return
            applied = report.applied
        in_force: InForce | None = before
        if report.outcome == "dry-run" or (report.cause == "restore" and before is None):
            in_force = None
        elif report.paused or report.cause == "restore":
            in_force = InForce(report.limit if before is None else before.limit, unsettled=True)
        elif report.outcome in ("applied", "unchanged") and report.partial:
            in_force = InForce(report.limit if before is None else min(before.limit, report.limit), unsettled=True)
        elif report.outcome in ("applied", "unchanged"):
            in_force = InForce(report.limit)
        of_domain[report.target] = _Known(in_force, applied)

    def find_news(self, domain: str, previous: Mapping[str, InForce]) -> dict[str, InForce | None]:
        """What differs from what a domain's last decision took to be in force, by target; None: now unknown."""
        configured = self._targets[domain]
        return {
            target: known.in_force
            for target, known in self._known.get(domain, {}).items()
            if target in configured and known.in_force != previous.get(target)
        }

    async def follow(self, bus: Bus) -> None:
        """Follow the reports on the bus, for ever; begins with the last one of each target."""
        async with aclosing(bus.read("action", start="latest", follow=True, batch=_BATCH)) as messages:
            async for raw in messages:
                try:
                    report = _decoder.decode(raw.body)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    _log.warning("report cannot be read", subject=raw.subject, seq=raw.seq, reason=str(error)[:200])
                    continue
                if bus.subjects.action(report.domain, report.target) == raw.subject:
                    self.take(report, raw.published)
