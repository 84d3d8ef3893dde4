"""``sluice explain``: why a limit is what it is, in words: measured, proposed, shielded, done, and how long it took."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import click
from rich.console import Console

from schemas.domain import Domain
from schemas.messages import Action, Decision, InvalidMessage, Sample, State, encode
from services.bus import envelope
from services.bus.bus import Denied
from services.control import Controller, RejectedSample
from services.tools.common.bus_reader import BusError, Stretch
from services.tools.common.formatting import RULES, mbit, measured, pods_told, read, short
from services.tools.common.message_source import Source, source_options
from services.tools.common.recording import Line
from services.tools.common.time_options import clock

_ID = re.compile(r"(?P<domain>.+):(?P<end>\d{16,20})(?::(?P<policy>[^:]+))?")
_BEFORE_NS = 30 * 10**9
_AFTER_NS = 60 * 10**9
_LATELY_NS = 600 * 10**9
_LATER = 9


@dataclass
class Case:
    """What the bus tells of one decision."""

    wanted: str
    sample: tuple[Sample, Line] | None = None
    decision: tuple[Decision, Line] | None = None
    before: State | None = None
    """The state that the decision before left."""
    actions: list[Action] = field(default_factory=list)
    since: list[Action] = field(default_factory=list)
    """Limits set later, and by another cause than a decision: the fail-safe limit after silence, a start."""
    _samples: dict[str, tuple[Sample, Line]] = field(default_factory=dict)
    _last: Decision | None = None

    def take(self, line: Line) -> None:
        """The next message of the domain."""
        try:
            message = read(line)
        except InvalidMessage:
            return
        if isinstance(message, Sample):
            self._samples = dict(list(self._samples.items())[-100:]) | {message.id: (message, line)}
        elif isinstance(message, Decision):
            if self._fits(message):
                self.decision, self.before = (message, line), self._last.state if self._last else None
                self.sample, self.actions, self.since = self._samples.get(message.sample), [], []
            self._last = message
        elif isinstance(message, Action) and self.decision:
            self._acted(message, self.decision[0])

    def _acted(self, action: Action, decision: Decision) -> None:
        if action.decision == decision.id:
            self.actions.append(action)
        elif action.decision is None and action.outcome == "applied":
            self.since = [*self.since[-_LATER:], action]

    def _fits(self, decision: Decision) -> bool:
        if self.wanted in (decision.id, decision.sample):
            return True
        # By the name of a domain: the last time that one of its limits moved.
        return self.wanted == decision.domain and any(one.limit != one.was for one in decision.targets)


@click.command("explain")
@click.argument("decision")
@source_options
def command(source: Source, decision: str) -> None:
    """Tell why DECISION was made and what came of it, from the bus or a recording FILE.

    DECISION is the id of a decision or of its sample, as an action or a log names it; or the name of a
    domain, for the last time that one of its limits moved.
    Exit code 1: there is no such decision, or some of the file cannot be read.
    """
    try:
        case = asyncio.run(_found(source, decision))
    except (BusError, Denied) as error:
        raise click.ClickException(str(error)) from None
    if case.decision is None:
        raise click.ClickException(_unknown(source, decision))
    domain = next((one for one in source.domains if one.name == case.decision[0].domain), None)
    console = Console(highlight=False, soft_wrap=True)
    for text in told(case, domain):
        console.print(text, markup=False, style="" if text.startswith(" ") else "bold")
    source.end()


def _unknown(source: Source, wanted: str) -> str:
    """What to say where there is nothing to explain."""
    names = [domain.name for domain in source.domains]
    if wanted in names:
        lately = "" if source.reader is not None else f" in the last {_LATELY_NS // 60 // 10**9} minutes"
        return f"{source.name}: no limit of domain {wanted!r} moved{lately}"
    known = f"; the domains are {', '.join(names)}" if names else ""
    problems = "".join(f"\n{problem}" for problem in source.problems)
    return f"{source.name}: there is no decision {wanted!r}{known}{problems}"


async def _found(source: Source, wanted: str) -> Case:
    match = _ID.fullmatch(wanted)
    name = match["domain"] if match else wanted
    since = until = None
    if match:
        since, until = int(match["end"]) - _BEFORE_NS, int(match["end"]) + _AFTER_NS
    elif source.reader is None:
        since = time.time_ns() - _LATELY_NS
    case = Case(wanted)
    what = Stretch(("sample", "decision", "action"), since, until, (name,))
    async with aclosing(source.stored(what)) as lines:
        async for line in lines:
            case.take(line)
    return case


def told(case: Case, domain: Domain | None) -> Iterator[str]:
    """The explanation, line by line."""
    assert case.decision is not None
    decision, line = case.decision
    yield f"Decision {decision.id}"
    yield f"  number {decision.seq} of epoch {decision.epoch} in domain {decision.domain}, {clock(line.time)}"
    yield from _measured(case, domain)
    yield f"Proposed by {decision.policy}"
    yield f"  {decision.reason}"
    if decision.fault is not None:
        yield f"  the policy was not heard: {decision.fault}"
    yield "Shielded"
    for one in decision.targets:
        kept = "as proposed" if one.limit == one.proposal else f"{mbit(one.proposal)} asked, {RULES[one.rule]}"
        move = "stays at" if one.limit == one.was else f"goes from {mbit(one.was)} to"
        yield f"  {short(one.target)} {move} {mbit(one.limit)}: {kept}"
    yield from _done(case)
    yield from _took(case)
    yield from _later(case)
    yield f"Made again from its sample: {_remade(case, domain)}"
    if trace := line.headers.get(envelope.TRACE, ""):
        yield f"Trace {trace.split('-')[1]}"


def _measured(case: Case, domain: Domain | None) -> Iterator[str]:
    assert case.decision is not None
    if case.sample is None:
        yield f"Measured: the sample {case.decision[0].sample} is not here any more"
        return
    sample, _ = case.sample
    yield f"Measured from {clock(sample.start)[11:]} to {clock(sample.end)[11:]} by {sample.source}"
    if sample.no_data is not None:
        yield f"  nothing: {sample.no_data}"
    slos = {critical.key: critical for critical in domain.critical} if domain is not None else {}
    for measure in sample.critical:
        sends = "" if measure.throughput is None else f", sends {mbit(measure.throughput)}"
        yield f"  {measured(measure, slos.get(measure.workload))} in {measure.observations:,} latencies{sends}"
    for target in sample.targets:
        if target.throughput is not None:
            yield f"  {short(target.target)} sends {mbit(target.throughput)}"
    stress = case.decision[0].stress
    if stress is not None:
        yield f"  at worst {stress:.2f} of an SLO{': broken' if case.decision[0].violated else ''}"


def _done(case: Case) -> Iterator[str]:
    assert case.decision is not None
    yield "Done"
    for action in case.actions:
        cause = "" if action.cause == "decision" else f" ({action.cause})"
        yield f"  {short(action.target)} {mbit(action.limit)} {pods_told(action) or action.outcome}{cause}"
    acted = {action.target for action in case.actions}
    for one in case.decision[0].targets:
        if one.target not in acted:
            why = "nothing to do" if one.limit == one.was else "no action on record"
            yield f"  {short(one.target)}: {why}"


def _took(case: Case) -> Iterator[str]:
    assert case.decision is not None
    decision, line = case.decision
    steps = []
    if case.sample is not None:
        steps.append(f"sense {_ms(case.sample[1].time - decision.end)}")
        steps.append(f"decide {_ms(line.time - case.sample[1].time)}")
    done = [action.applied for action in case.actions if action.applied is not None and action.cause == "decision"]
    if done:
        steps.append(f"act {_ms(max(done) - line.time)}")
        steps.append(f"{_ms(max(done) - decision.end)} from the end of the window to the last patch")
    if steps:
        yield f"Took {', '.join(steps)}"


def _later(case: Case) -> Iterator[str]:
    if case.since:
        yield "Set since then, and not by a decision"
    for action in case.since:
        when = "" if action.applied is None else f"{clock(action.applied)[11:]}  "
        yield f"  {when}{short(action.target)} {mbit(action.limit)} ({action.cause}): {action.reason}"


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.0f} ms"


def _remade(case: Case, domain: Domain | None) -> str:
    assert case.decision is not None
    decision, line = case.decision
    if domain is None or case.sample is None:
        return f"not possible without {'its configuration (--config)' if domain is None else 'it'}"
    sample, stored = case.sample
    # A first decision begins from nothing; another needs the state before it.
    if case.before is None and decision.seq > 1:
        return "not possible without the decision before it"
    with suppress(RejectedSample):
        again = Controller(domain).answer(case.before, sample, stored.time, decision.fault)
        return "the same, byte for byte" if encode(again) == line.payload else "another one; see sluice audit"
    return "the sample would be refused; see sluice audit"
