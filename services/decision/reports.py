"""What is in force, as the actuator reports it: decisions rise from there, not from what was only decided.

    actions --> here --> what is news since the last decision --> domain_worker.py

Only a whole report counts: one that says that all objects of the target have the limit.  Where no actuator reports
(there is none, it runs dry, or a recording is replayed), what was decided is taken to be in force.
"""

from collections.abc import Collection, Mapping
from contextlib import aclosing

import msgspec
import structlog
from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import Cause, InForce, Outcome
from schemas.numbers import Integer, Rate, Time
from services.bus.bus import Bus

_BATCH = 16
"""Reports that are requested at once: one names up to 500 Pods."""

_log = structlog.get_logger()


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
