"""The columns of the exported tables, and the rows that a message becomes."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from msgspec import Struct

from schemas.messages import Action, Decision, Sample

Type = Literal["time", "text", "integer", "number", "yes or no"]
Row = tuple[Any, ...]


class Column(Struct, frozen=True):
    """One column."""

    name: str
    kind: Type
    unit: str
    """Empty for what has none."""
    meaning: str


class Table(Struct, frozen=True):
    """One table."""

    name: str
    row: str
    """What a row is."""
    columns: tuple[Column, ...]
    rows: Callable[[Any], Iterator[Row]]
    """Makes the rows of a message."""


_ID, _DOMAIN = Column("id", "text", "", "of the message"), Column("domain", "text", "", "name of the domain")


def _samples(sample: Sample) -> Iterator[Row]:
    head = (sample.end, sample.start, sample.period / 1e9, sample.id, sample.domain, sample.source, sample.no_data)
    for one in sample.critical:
        latency = (one.p95, one.jitter, one.recent_p50, one.observations, one.lost)
        yield (*head, "critical", one.workload, *latency, one.throughput, one.recent, None, one.missing)
    for target in sample.targets:
        rates = (target.throughput, target.recent, target.pods, target.throughput_missing)
        yield (*head, "target", target.target, None, None, None, None, None, *rates)
    if not sample.critical and not sample.targets:
        yield (*head, None, None, None, None, None, None, None, None, None, None, None)


def _decisions(decision: Decision) -> Iterator[Row]:
    link = decision.link
    estimate = (None, None, None) if link is None else (link.safe, link.expected, link.margin)
    for one in decision.targets:
        yield (
            *(decision.end, decision.expires, decision.id, decision.domain, decision.sample, decision.epoch),
            *(decision.seq, decision.policy, one.target, one.limit, one.was, one.proposal, one.rule, decision.reason),
            *(decision.stress, decision.violated, decision.fault, *estimate, decision.definition),
        )


def _actions(action: Action) -> Iterator[Row]:
    pods = sum(pod.outcome == "applied" for pod in action.pods), len(action.pods)
    yield (
        *(action.applied, action.sampled, action.decided, action.id, action.domain, action.target, action.cause),
        *(action.outcome, action.limit, action.was, action.decision, *pods, action.reason),
    )


SAMPLES = Table(
    "samples",
    "a workload or target in a sample; a sample without any has one row",
    (
        Column("end", "time", "UTC", "end of the signal window"),
        Column("start", "time", "UTC", "its start"),
        Column("period_s", "number", "s", "time from one sample to the next"),
        _ID,
        _DOMAIN,
        Column("source", "text", "", "what measured"),
        Column("no_data", "text", "", "why the whole window has no data"),
        Column("role", "text", "", "critical or target"),
        Column("workload", "text", "", "key of the workload or target"),
        Column("p95_s", "number", "s", "95th percentile of the latency over the window"),
        Column("jitter_s", "number", "s", "Q75 - Q25 of the latency over the window"),
        Column("median_s", "number", "s", "median of the latency over the last period"),
        Column("observations", "integer", "", "latencies that these rest on"),
        Column("lost", "number", "packets", "lost in the window"),
        Column("throughput_kbit", "integer", "kbit/s", "over the window"),
        Column("recent_kbit", "integer", "kbit/s", "throughput over the last period"),
        Column("pods", "integer", "", "of the target"),
        Column("missing", "text", "", "why its latency, or a target's throughput, is missing"),
    ),
    _samples,
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
        Column("target", "text", "", "key of the target"),
        Column("limit_kbit", "integer", "kbit/s", "the limit, in the target's scope"),
        Column("was_kbit", "integer", "kbit/s", "the limit before"),
        Column("proposal_kbit", "integer", "kbit/s", "what the policy asked for"),
        Column("rule", "text", "", "the shield's rule that decided"),
        Column("reason", "text", "", "the policy's, in words"),
        Column("stress", "number", "of the SLO", "the worse of jitter and P95; 1 is exactly at the SLO"),
        Column("violated", "yes or no", "", "whether an SLO was broken"),
        Column("fault", "text", "", "why the policy did not decide"),
        Column("safe_kbit", "integer", "kbit/s", "the policy's estimate of the largest safe total load"),
        Column("expected_kbit", "integer", "kbit/s", "the critical load that it expects"),
        Column("margin_kbit", "integer", "kbit/s", "what it keeps free for bursts"),
        Column("definition", "integer", "", "revision of the domain's definition"),
    ),
    _decisions,
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
        Column("limit_kbit", "integer", "kbit/s", "the limit that was set"),
        Column("was_kbit", "integer", "kbit/s", "the limit found before"),
        Column("decision", "text", "", "id of the decision that caused it"),
        Column("pods_applied", "integer", "", "Pods on which it was applied"),
        Column("pods", "integer", "", "Pods that it was for"),
        Column("reason", "text", "", "in words"),
    ),
    _actions,
)
TABLES: dict[str, Table] = {"sample": SAMPLES, "decision": DECISIONS, "action": ACTIONS}
"""By kind of message."""
