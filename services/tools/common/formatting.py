"""Messages in words, for people: one line each."""

from collections import Counter
from collections.abc import Mapping, Sequence

from schemas.domain import Critical, Domain
from schemas.messages import (
    Action,
    CriticalMeasure,
    DeadLetter,
    Decision,
    Message,
    Sample,
    TargetDecision,
    decode,
)
from services.tools.common.recording import Line

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


def read(line: Line) -> Message:
    """The line's message.

    Raises:
        InvalidMessage: it is not what its kind promises.
    """
    if line.kind == "sample":
        return decode(Sample, line.payload)
    if line.kind == "decision":
        return decode(Decision, line.payload)
    return decode(Action, line.payload) if line.kind == "action" else decode(DeadLetter, line.payload)


def sentence(message: Message, domains: Mapping[str, Domain]) -> str:
    """What a message says; ``domains`` gives the SLOs that are known."""
    if isinstance(message, Sample):
        return _sample(message, domains.get(message.domain))
    if isinstance(message, Decision):
        return _decision(message)
    if isinstance(message, Action):
        return _action(message)
    return _dead(message)


def _sample(sample: Sample, domain: Domain | None) -> str:
    if sample.no_data is not None:
        return f"no data: {sample.no_data}"
    slos = {} if domain is None else {critical.key: critical for critical in domain.critical}
    return "; ".join(measured(measure, slos.get(measure.workload)) for measure in sample.critical)


def measured(measure: CriticalMeasure, slo: Critical | None) -> str:
    """One workload's latency beside its SLO."""
    name = short(measure.workload)
    lost = f", {measure.lost:g} lost" if measure.lost else ""
    if measure.missing is not None:
        return f"{name} {measure.missing}{lost}"
    jitter = ms(measure.jitter) + (f" of {ms(slo.jitter / 1e9)}" if slo else "")
    p95 = ms(measure.p95) + (f" of {ms(slo.p95 / 1e9)}" if slo else "")
    return f"{name} jitter {jitter} ms, P95 {p95} ms{lost}"


def _decision(decision: Decision) -> str:
    targets = ", ".join(moved(target) for target in decision.targets)
    fault = f" [{decision.fault}]" if decision.fault else ""
    return f"{targets}: {decision.reason}{fault}"


def moved(target: TargetDecision) -> str:
    """What became of one target's limit."""
    name = short(target.target)
    if target.limit == target.was:
        told = f"{name} stays {mbit(target.limit)}"
    else:
        told = f"{name} {mbit(target.was)} -> {mbit(target.limit)}"
    return told if target.rule == "none" else f"{told} ({target.rule}, {mbit(target.proposal)} asked)"


def _action(action: Action) -> str:
    done = pods_told(action) or action.outcome
    cause = "" if action.cause == "decision" else f" ({action.cause})"
    after = ""
    if action.applied is not None and action.sampled is not None:
        after = f", {(action.applied - action.sampled) / 1e6:.0f} ms after the window"
    return f"{short(action.target)} {mbit(action.limit)} {done}{cause}{after}: {action.reason}"


def pods_told(action: Action) -> str:
    """On how many Pods it had which outcome; empty without Pods."""
    counts = Counter(pod.outcome for pod in action.pods)
    return " and ".join(f"{outcome} on {count} pod{'s' if count > 1 else ''}" for outcome, count in counts.items())


def _dead(letter: DeadLetter) -> str:
    return f"{letter.service} put aside {letter.subject} {letter.seq or ''}: {letter.reason}"


def short(key: str) -> str:
    """A workload without the namespace ``default``."""
    return key.removeprefix("default/")


def ms(seconds: float | None) -> str:
    """A latency in milliseconds, to three digits; without the unit."""
    return "-" if seconds is None else f"{seconds * 1000:.3g}"


def mbit(kbit: float | None) -> str:
    """A rate in Mbit/s, a small one in kbit/s."""
    if kbit is None:
        return "-"
    return f"{kbit:.0f}k" if 0 < kbit < 1000 else f"{kbit / 1000:.1f}M"


def per_pod(domain: Domain | None) -> frozenset[str]:
    """Targets whose limit holds for each of their Pods: it is not what all of them may send together."""
    return frozenset(target.key for target in domain.targets if target.scope == "per-pod") if domain else frozenset()


def workloads_of(message: Message) -> Sequence[str]:
    """Every workload and target that a message speaks of, ``namespace/name``."""
    if isinstance(message, Sample):
        return [one.workload for one in message.critical] + [one.target for one in message.targets]
    if isinstance(message, Decision):
        return [one.target for one in message.targets]
    if isinstance(message, Action):
        return [message.target]
    return []
