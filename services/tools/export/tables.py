"""The columns of the exported tables, and where a row has each one's value from."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from schemas.link import LinkEstimate
from schemas.messages import CriticalMeasure, Decision, Sample, TargetDecision, TargetMeasure

Type = Literal["time", "text", "integer", "number", "yes or no"]
Row = tuple[Any, ...]
Measure = CriticalMeasure | TargetMeasure | None


class Column(Struct, frozen=True):
    """One column."""

    name: str
    kind: Type
    unit: str
    """Empty for what has none."""
    meaning: str
    source: str | Callable[[Any, Any], Any] = ""
    """A field of the message, by default of the column's name; with a dot before it a field of the part that the row
    is about, where it has that field; or what computes the value from message and part."""

    def read(self, message: Any, part: Any) -> Any:
        """The value in the row of a part of a message."""
        source = self.source or self.name
        if not isinstance(source, str):
            return source(message, part)
        return getattr(part, source[1:], None) if source.startswith(".") else getattr(message, source)


class Table(Struct, frozen=True):
    """One table."""

    name: str
    row: str
    """What a row is."""
    columns: tuple[Column, ...]
    parts: Callable[[Any], Sequence[Any]]
    """The parts of a message that have a row each."""

    def rows(self, message: Any) -> Iterator[Row]:
        """The rows of a message."""
        for part in self.parts(message):
            yield tuple(column.read(message, part) for column in self.columns)


def _measures(sample: Sample) -> Sequence[Measure]:
    return [*sample.critical, *sample.targets] or [None]


def _role(_: Sample, one: Measure) -> str | None:
    return None if one is None else "critical" if isinstance(one, CriticalMeasure) else "target"


def _workload(_: Sample, one: Measure) -> str | None:
    return one.target if isinstance(one, TargetMeasure) else getattr(one, "workload", None)


def _missing(_: Sample, one: Measure) -> str | None:
    return one.throughput_missing if isinstance(one, TargetMeasure) else getattr(one, "missing", None)


def _estimate(name: str) -> Callable[[Decision, TargetDecision], int | None]:
    def read(decision: Decision, _: TargetDecision) -> int | None:
        link: LinkEstimate | None = decision.link
        return None if link is None else int(getattr(link, name))

    return read


_ID, _DOMAIN = Column("id", "text", "", "of the message"), Column("domain", "text", "", "name of the domain")
SAMPLES = Table(
    "samples",
    "a workload or target in a sample; a sample without any has one row",
    (
        Column("end", "time", "UTC", "end of the signal window"),
        Column("start", "time", "UTC", "its start"),
        Column("period_s", "number", "s", "time from one sample to the next", lambda sample, _: sample.period / 1e9),
        _ID,
        _DOMAIN,
        Column("source", "text", "", "what measured"),
        Column("no_data", "text", "", "why the whole window has no data"),
        Column("role", "text", "", "critical or target", _role),
        Column("workload", "text", "", "key of the workload or target", _workload),
        Column("p95_s", "number", "s", "95th percentile of the latency over the window", ".p95"),
        Column("jitter_s", "number", "s", "Q75 - Q25 of the latency over the window", ".jitter"),
        Column("median_s", "number", "s", "median of the latency over the last period", ".recent_p50"),
        Column("observations", "integer", "", "latencies that these rest on", ".observations"),
        Column("lost", "number", "packets", "lost in the window", ".lost"),
        Column("throughput_kbit", "integer", "kbit/s", "over the window", ".throughput"),
        Column("recent_kbit", "integer", "kbit/s", "throughput over the last period", ".recent"),
        Column("pods", "integer", "", "of the target", ".pods"),
        Column("missing", "text", "", "why its latency, or a target's throughput, is missing", _missing),
    ),
    _measures,
)
DECISIONS = Table(
    "decisions",
    "a target in a decision",
    (
        Column("end", "time", "UTC", "end of the sample's window"),
        Column("expires", "time", "UTC", "no actuator applies it later"),
        _ID,
        _DOMAIN,
        Column("sample", "text", "", "id of the sample that it answers"),
        Column("epoch", "time", "UTC", "end of the epoch's first sample"),
        Column("seq", "integer", "", "number of the step in its epoch"),
        Column("policy", "text", "", "name and version"),
        Column("target", "text", "", "key of the target", ".target"),
        Column("limit_kbit", "integer", "kbit/s", "the limit, in the target's scope", ".limit"),
        Column("was_kbit", "integer", "kbit/s", "the limit before", ".was"),
        Column("proposal_kbit", "integer", "kbit/s", "what the policy asked for", ".proposal"),
        Column("rule", "text", "", "the shield's rule that decided", ".rule"),
        Column("reason", "text", "", "the policy's, in words"),
        Column("stress", "number", "of the SLO", "the worse of jitter and P95; 1 is exactly at the SLO"),
        Column("violated", "yes or no", "", "whether an SLO was broken"),
        Column("fault", "text", "", "why the policy did not decide"),
        Column(
            "safe_kbit", "integer", "kbit/s", "the policy's estimate of the largest safe total load", _estimate("safe")
        ),
        Column("expected_kbit", "integer", "kbit/s", "the critical load that it expects", _estimate("expected")),
        Column("margin_kbit", "integer", "kbit/s", "what it keeps free for bursts", _estimate("margin")),
        Column("definition", "integer", "", "revision of the domain's definition"),
    ),
    lambda decision: decision.targets,
)
ACTIONS = Table(
    "actions",
    "an action",
    (
        Column("applied", "time", "UTC", "when the last patch was made"),
        Column("sampled", "time", "UTC", "end of the sample's window"),
        Column("decided", "time", "UTC", "when it was decided"),
        _ID,
        _DOMAIN,
        Column("target", "text", "", "key of the target"),
        Column("cause", "text", "", "decision, drift, new-pod, rescale, dead-man, start or restore"),
        Column("outcome", "text", "", "applied, unchanged, skipped, failed or dry-run"),
        Column("limit_kbit", "integer", "kbit/s", "the limit that was set", "limit"),
        Column("was_kbit", "integer", "kbit/s", "the limit found before", "was"),
        Column("decision", "text", "", "id of the decision that caused it"),
        Column(
            "pods_applied",
            "integer",
            "",
            "Pods on which it was applied",
            lambda action, _: sum(pod.outcome == "applied" for pod in action.pods),
        ),
        Column("pods", "integer", "", "Pods that it was for", lambda action, _: len(action.pods)),
        Column("reason", "text", "", "in words"),
    ),
    lambda action: [action],
)
TABLES: dict[str, Table] = {"sample": SAMPLES, "decision": DECISIONS, "action": ACTIONS}
"""By kind of message."""
