"""Messages, rates and durations as text for people.  A message becomes one line."""

from collections import Counter
from collections.abc import Mapping, Sequence

from schemas.decode_errors import describe_decode_error
from schemas.definition import Definition
from schemas.domain import Critical, Domain
from schemas.messages import (
    KINDS,
    Action,
    CriticalMeasure,
    Decision,
    InvalidMessage,
    Message,
    Sample,
    decode,
)
from services.tools.common.recording import RecordedMessage

RULES: Mapping[str, str] = {
    "none": "as proposed",
    "clamp": "kept within its bounds",
    "rise": "rise slowed down",
    "deadband": "rise too small to be worth a patch",
    "cut": "cut because an SLO is broken",
    "hold": "held while the last cut takes effect",
    "no-data": "lowered for want of data",
}
"""What the shield's rule did, by its name."""


def decode_message(recorded: RecordedMessage) -> Message:
    """Decode the message that a recorded one carries.

    Raises:
        InvalidMessage: it is not what its kind promises.
    """
    try:
        message: Message = decode(KINDS[recorded.kind], recorded.payload)  # type: ignore[type-var]
    except InvalidMessage as error:
        raise type(error)(describe_decode_error(str(error))) from None
    return message


def describe_message(message: Message, domains: Mapping[str, Domain]) -> str:
    """Describe a message; ``domains`` gives the SLOs that are known."""
    if isinstance(message, Sample):
        domain = domains.get(message.domain)
        slos = {critical.key: critical for critical in domain.critical} if domain is not None else {}
        measures = "; ".join(describe_measure(one, slos.get(one.workload)) for one in message.critical)
        return measures if message.no_data is None else f"no data: {message.no_data}"
    if isinstance(message, Decision):
        targets = []
        for one in message.targets:
            shield = "" if one.rule == "none" else f" ({one.rule}, {format_rate(one.proposal)} asked)"
            targets.append(f"{short_name(one.target)} {format_change(one.was, one.limit)}{shield}")
        return f"{', '.join(targets)}: {message.reason}{f' [{message.fault}]' if message.fault else ''}"
    if isinstance(message, Action):
        cause = "" if message.cause == "decision" else f" ({message.cause})"
        after = ""
        if message.applied is not None and message.sampled is not None:
            after = f", {(message.applied - message.sampled) / 1e6:.0f} ms after the window"
        change = f"{short_name(message.target)} {format_rate(message.limit)} {describe_outcome(message)}"
        return f"{change}{cause}{after}: {message.reason}"
    if isinstance(message, Definition):
        return describe_definition(message)
    return f"{message.service} put aside {message.subject} {message.seq or ''}: {message.reason}"


def describe_definition(definition: Definition) -> str:
    """Describe a domain's definition: who is protected, and whose limit may move within which bounds."""
    revision = f"revision {definition.revision} by {definition.source}"
    if definition.removed:
        return f"{revision}: removed; its targets are restored"
    domain = definition.configuration
    critical = ", ".join(f"{short_name(one.key)} P95 {one.p95}" for one in domain.critical)
    targets = ", ".join(f"{short_name(one.key)} {one.min} to {one.max}" for one in domain.targets)
    return f"{revision}: {critical}; {targets}; {domain.policy}"


def describe_measure(measure: CriticalMeasure, slo: Critical | None) -> str:
    """Describe one workload's latency beside its SLO."""
    name = short_name(measure.workload)
    lost = f", {measure.lost:g} lost" if measure.lost else ""
    if measure.missing is not None:
        return f"{name} {measure.missing}{lost}"
    jitter = format_ms(measure.jitter) + (f" of {format_ms(slo.jitter / 1e9)}" if slo else "")
    p95 = format_ms(measure.p95) + (f" of {format_ms(slo.p95 / 1e9)}" if slo else "")
    return f"{name} jitter {jitter} ms, P95 {p95} ms{lost}"


def describe_outcome(action: Action) -> str:
    """Describe on how many Pods an action had which outcome; its own outcome where it names no Pods."""
    counts = Counter(pod.outcome for pod in action.pods)
    pods = " and ".join(f"{outcome} on {count} pod{'s' if count > 1 else ''}" for outcome, count in counts.items())
    return pods or action.outcome


def short_name(key: str) -> str:
    """Leave out the namespace where it is ``default``."""
    return key.removeprefix("default/")


def format_ms(seconds: float | None) -> str:
    """Format a latency in milliseconds, to three digits; without the unit."""
    return "-" if seconds is None else f"{seconds * 1000:.3g}"


def format_rate(kbit: float | None) -> str:
    """Format a rate as the annotation has it: ``50.0M``, and ``500k`` below 1 Mbit/s."""
    if kbit is None:
        return "-"
    return f"{kbit:.0f}k" if 0 < kbit < 1000 else f"{kbit / 1000:.1f}M"


def format_pair(before: int | None, after: int | None) -> tuple[str, str]:
    """Format two rates, kbit/s, with three digits after the point where one would make them look equal."""
    texts = format_rate(before), format_rate(after)
    if before is None or after is None or before == after or texts[0] != texts[1]:
        return texts
    return f"{before / 1000:.3f}M", f"{after / 1000:.3f}M"


def format_change(before: int, after: int) -> str:
    """Format how a rate changed: ``50.0M -> 45.0M``, or ``stays 50.0M``."""
    if before == after:
        return f"stays {format_rate(after)}"
    return " -> ".join(format_pair(before, after))


def format_rate_with_unit(kbit: float | None) -> str:
    """Format a rate as ``50.0 Mbit/s``, and as ``500 kbit/s`` below 1 Mbit/s."""
    if kbit is None:
        return "-"
    return f"{kbit:.0f} kbit/s" if 0 < kbit < 1000 else f"{kbit / 1000:.1f} Mbit/s"


def format_duration(ns: int) -> str:
    """Format a duration to two or three digits, with the unit that suits it."""
    seconds = ns / 1e9
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def per_pod_targets(domain: Domain | None) -> frozenset[str]:
    """Return the targets whose limit holds for each Pod: it is not what all of them may send together."""
    return frozenset(target.key for target in domain.targets if target.scope == "per-pod") if domain else frozenset()


def list_workloads(message: Message) -> Sequence[str]:
    """List every workload and target that a message names, as ``namespace/name``."""
    if isinstance(message, Sample):
        return [one.workload for one in message.critical] + [one.target for one in message.targets]
    if isinstance(message, Decision):
        return [one.target for one in message.targets]
    if isinstance(message, Action):
        return [message.target]
    if isinstance(message, Definition):
        return [one.key for of in (message.configuration.critical, message.configuration.targets) for one in of]
    return []


def definition_of(domain: str) -> str:
    """The definition that an instance is of, by the instance's name; empty where it is a domain of its own."""
    return domain.rpartition("@")[0]
