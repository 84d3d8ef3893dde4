"""``sluice explain``: why a limit changed: what was measured, proposed, decided and done, and how long it took."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import click

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.link import LinkEstimate
from schemas.messages import Action, Decision, InvalidMessage, Sample, State
from services.bus import envelope
from services.control import Controller, RejectedSample
from services.control.observation import fills
from services.runtime.exit_codes import ExitCode
from services.tools.common.bus_reader import MessageRange
from services.tools.common.formatting import (
    RULES,
    decode_message,
    describe_measure,
    describe_outcome,
    format_duration,
    format_pair,
    format_rate,
    short_name,
)
from services.tools.common.message_source import MessageSource, source_options
from services.tools.common.output import CommandError, TerminalConsole, escape_line
from services.tools.common.recording import RecordedMessage
from services.tools.common.remade import is_same_decision
from services.tools.common.time_options import format_time

_KINDS = ("sample", "definition", "decision", "action")
_ID = re.compile(r"(?P<domain>.+):(?P<end>\d{16,19})(?::(?P<policy>[^:]+))?", re.ASCII)
_BEFORE_NS = 30 * 10**9
_AFTER_NS = 60 * 10**9
_RECENT_NS = 600 * 10**9
_MOST_LATER = 10
_MOST_SAMPLES = 101


@dataclass
class DecisionTrace:
    """The messages about one decision: its sample, the state before it, and what followed."""

    wanted: str
    """The id of a decision or of its sample; or a domain, for the last decision that moved one of its limits."""
    sample: tuple[Sample, RecordedMessage] | None = None
    decision: tuple[Decision, RecordedMessage] | None = None
    state_before: State | None = None
    """The state that the decision before left."""
    actions: list[Action] = field(default_factory=list)
    later: list[Action] = field(default_factory=list)
    """Limits set later, and not by a decision: the fail-safe limit after silence, a start."""
    definitions: dict[int, Domain] = field(default_factory=dict)
    """By revision."""
    _samples: dict[str, tuple[Sample, RecordedMessage]] = field(default_factory=dict)
    _last: Decision | None = None

    def add(self, recorded: RecordedMessage) -> None:
        """Add the next message of the domain."""
        try:
            message = decode_message(recorded)
        except InvalidMessage:
            return
        if isinstance(message, Definition):
            self.definitions[message.revision] = message.configuration
        elif isinstance(message, Sample):
            self._samples[message.id] = (message, recorded)
            if len(self._samples) > _MOST_SAMPLES:
                del self._samples[next(iter(self._samples))]
        elif isinstance(message, Decision):
            moved = any(one.limit != one.was for one in message.targets)
            if self.wanted in (message.id, message.sample) or (moved and self.wanted == message.domain):
                self.decision, self.state_before = (message, recorded), self._last.state if self._last else None
                self.sample, self.actions, self.later = self._samples.get(message.sample), [], []
            self._last = message
        elif isinstance(message, Action) and self.decision is not None:
            if message.decision == self.decision[0].id:
                self.actions.append(message)
            elif message.decision is None and message.outcome == "applied":
                self.later = [*self.later, message][-_MOST_LATER:]


@click.command("explain")
@click.argument("decision")
@source_options
def command(source: MessageSource, decision: str) -> None:
    """Explain why DECISION was made and what followed, from the bus or a recording FILE.

    DECISION is the id of a decision or of its sample, as an action or a log names it; or the name of a
    domain, for the last time that one of its limits moved.
    Exit code 1: there is no such decision, or some of the file cannot be read.
    """
    match = _ID.fullmatch(decision)
    since = until = None
    if match:
        since, until = int(match["end"]) - _BEFORE_NS, int(match["end"]) + _AFTER_NS
    elif source.reader is None:
        since = time.time_ns() - _RECENT_NS
    trace, name = DecisionTrace(decision), match["domain"] if match else decision
    source.process(MessageRange(_KINDS, since, until, (name,), with_past_definitions=True), trace.add)
    if trace.decision is None:
        names = [domain.name for domain in source.domains]
        if decision in names:
            recently = "" if source.reader is not None else f" in the last {_RECENT_NS // 60 // 10**9} minutes"
            what = f"no limit of domain {decision!r} moved{recently}"
        else:
            what = f"there is no decision {decision!r}"
            what += f"; the domains are {', '.join(names)}" if names else ""
            what += "".join(f"\n{problem}" for problem in source.problems[:10])
        raise CommandError(f"{source.name}: {what}", ExitCode.FINDING)
    decided = trace.decision[0]
    domain = next((one for one in source.domains if one.name == decided.domain), None)
    domain = trace.definitions.get(decided.definition, domain)
    is_missing = decided.definition > 0 and decided.definition not in trace.definitions
    console = TerminalConsole(soft_wrap=True)
    for line in describe_trace(trace, domain, lacks_definition=is_missing):
        console.print(escape_line(line), style="" if line.startswith(" ") else "bold")
    source.exit()


def describe_trace(trace: DecisionTrace, domain: Domain | None, *, lacks_definition: bool = False) -> Iterator[str]:
    """Explain a decision, line by line.

    Args:
        trace: of the decision.
        domain: its configuration, where it is known.
        lacks_definition: whether it was made under a definition that is not here, so that ``domain`` may be another.
    """
    assert trace.decision is not None
    decision, recorded = trace.decision
    yield f"Decision {decision.id}"
    yield f"  number {decision.seq} of epoch {decision.epoch} in domain {decision.domain}, {format_time(recorded.time)}"
    yield from _describe_lack(decision, domain) if lacks_definition else ()
    yield from _describe_sample(trace, decision, domain)
    yield f"Proposed by {decision.policy}"
    yield f"  {decision.reason}"
    if decision.link is not None:
        yield f"  {_describe_link(decision.link, decision.end)}"
    if decision.fault is not None:
        yield f"  the policy's proposal was replaced: {decision.fault}"
    yield "Shielded"
    for one in decision.targets:
        asked = format_pair(one.limit, one.proposal)[1]
        kept = "as proposed" if one.limit == one.proposal else f"{asked} asked, {RULES[one.rule]}"
        was, limit = format_pair(one.was, one.limit)
        move = "stays at" if one.limit == one.was else f"goes from {was} to"
        yield f"  {short_name(one.target)} {move} {limit}: {kept}"
    yield from _describe_enforcement(trace, decision, domain)
    yield "Done"
    for action in trace.actions:
        cause = "" if action.cause == "decision" else f" ({action.cause})"
        yield f"  {short_name(action.target)} {format_rate(action.limit)} {describe_outcome(action)}{cause}"
    for one in decision.targets:
        if one.target not in {action.target for action in trace.actions}:
            yield f"  {short_name(one.target)}: {'nothing to do' if one.limit == one.was else 'no action on record'}"
    yield from _describe_latency(trace, decision, recorded)
    if trace.later:
        yield "Set since then, and not by a decision"
    for action in trace.later:
        when = "" if action.applied is None else f"{format_time(action.applied)[11:]}  "
        yield f"  {when}{short_name(action.target)} {format_rate(action.limit)} ({action.cause}): {action.reason}"
    again = "not possible without that definition" if lacks_definition else _verify(trace, domain)
    yield f"Made again from its sample: {again}"
    trace_id = recorded.headers.get(envelope.TRACE, "").split("-")
    if len(trace_id) > 1:
        yield f"Trace {trace_id[1]}"


def _describe_lack(decision: Decision, domain: Domain | None) -> Iterator[str]:
    yield f"Made under revision {decision.definition} of the definition, which is not here"
    if domain is not None:
        yield "  objectives and minima below are those of the configuration, and may be others"


def _describe_sample(trace: DecisionTrace, decision: Decision, domain: Domain | None) -> Iterator[str]:
    if trace.sample is None:
        yield f"Measured: the sample {decision.sample} is not here any more"
        return
    sample, _ = trace.sample
    yield f"Measured from {format_time(sample.start)[11:]} to {format_time(sample.end)[11:]} by {sample.source}"
    if sample.no_data is not None:
        yield f"  nothing: {sample.no_data}"
    slos = {critical.key: critical for critical in domain.critical} if domain is not None else {}
    for measure in sample.critical:
        sends = "" if measure.throughput is None else f", sends {format_rate(measure.throughput)}"
        latency = describe_measure(measure, slos.get(measure.workload))
        yield f"  {latency} in {measure.observations:,} latencies{sends}"
    for target in sample.targets:
        if target.throughput is not None:
            yield f"  {short_name(target.target)} sends {format_rate(target.throughput)}"
    if decision.stress is not None:
        yield f"  at worst {decision.stress:.2f} of an SLO{': broken' if decision.violated else ''}"


def _describe_enforcement(trace: DecisionTrace, decision: Decision, domain: Domain | None) -> Iterator[str]:
    """Which limits are not enforced, and which are filled."""
    for one in decision.overruns:
        seconds = format_duration(decision.end - one.since)
        yield "Not enforced"
        sent = f"{short_name(one.target)} sends {format_rate(one.sent)}, over its limit of {format_rate(one.limit)}"
        yield f"  {sent} for {seconds}; sluice check --cluster names the likely cause, unless it sends UDP"
    if trace.sample is None or domain is None:
        return
    limits = {one.target: one.was for one in decision.targets}
    for target in domain.targets:
        limit = limits.get(target.key)
        if limit is not None and fills(target, trace.sample[0], limit):
            least = ", its minimum" if limit <= target.min else ""
            yield f"  {short_name(target.key)} filled its limit of {format_rate(limit)}{least}"


def _describe_link(link: LinkEstimate, end: int) -> str:
    """Describe what the policy knows of the bottleneck at ``end``, UTC ns."""
    safe, expected, margin, room = map(format_rate, (link.safe, link.expected, link.margin, link.headroom))
    met = f"met {format_duration(end - link.met)} ago" if link.met else "not met yet"
    return f"{safe} in all are safe (the knee was {met}), less {expected} to come and a margin of {margin}: room {room}"


def _describe_latency(trace: DecisionTrace, decision: Decision, recorded: RecordedMessage) -> Iterator[str]:
    steps = []
    if trace.sample is not None:
        sampled = trace.sample[1].time
        steps += [("sense", sampled - decision.end, ""), ("decide", recorded.time - sampled, "")]
    done = [action.applied for action in trace.actions if action.applied is not None and action.cause == "decision"]
    if done:
        steps.append(("act", max(done) - recorded.time, ""))
        steps.append(("", max(done) - decision.end, "from the end of the window to the last patch"))
    if steps:
        yield "Took " + ", ".join(f"{name} {ns / 1e6:.0f} ms {what}".strip() for name, ns, what in steps)


def _verify(trace: DecisionTrace, domain: Domain | None) -> str:
    """Make the decision again, and compare."""
    assert trace.decision is not None
    decision, recorded = trace.decision
    if domain is None or trace.sample is None:
        return f"not possible without {'its configuration (--config)' if domain is None else 'it'}"
    sample, stored = trace.sample
    # A first decision begins from nothing; another needs the state before it.
    if trace.state_before is None and decision.seq > 1:
        return "not possible without the decision before it"
    with suppress(RejectedSample):
        before, fault, reported = trace.state_before, decision.fault, decision.reported
        controller = Controller(domain, revision=decision.definition)
        again = controller.answer(before, sample, stored.time, fault, reported, decision.inherited)
        return (
            "the same, byte for byte" if is_same_decision(again, recorded.payload) else "another one; see sluice audit"
        )
    return "the sample would be refused; see sluice audit"
