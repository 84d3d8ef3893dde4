"""How a domain stands, in the words of its resource's status.  Pure.

Measured figures have two digits: a status that follows every flicker would be written all the time.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import floor, log10
from typing import Any, Literal

import msgspec
from msgspec import Struct

from schemas.domain import Critical, Domain, Target
from schemas.messages import Action, CriticalMeasure, Decision, Sample
from schemas.resource_status import (
    Condition,
    ConditionType,
    CriticalStatus,
    LimitStatus,
    RefusedWorkload,
    ResourceStatus,
)
from schemas.units import Duration, Rate
from services.resources.fleet_status import InstanceFacts, count_standings, describe_share, pick_worst

_LONGEST_TEXT = 1024
_MOST_REFUSED = 50
_FOLLOWED = 15 * 10**9
"""How long the other services may take to follow a definition, ns; more than clocks differ by."""
Truth = Literal["True", "False", "Unknown"]
Finding = tuple[Truth, str, str]
"""A condition's status, its reason in a word, and its message."""


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of one domain at one time."""

    generation: int
    """Of the resource."""
    domain: Domain | None
    """What holds; None: no generation of the resource could be used yet."""
    refusal: str | None = None
    """Why the newest generation does not hold."""
    turned_away: Mapping[str, str] = {}
    """By key, workloads that would join by their label and do not, and why."""
    is_open: bool = False
    """Whether workloads may join."""
    pause: str | None = None
    """Why a person paused the domain."""
    bus_trouble: str | None = None
    """Why nothing could be read from the bus."""
    sample: Sample | None = None
    """The newest."""
    decision: Decision | None = None
    """The newest."""
    actions: Mapping[str, Action] = {}
    """The newest report on each target, by its key."""
    revision: int = 0
    """Of the definition on the bus; 0: it is not there yet."""
    revised: int = 0
    """When the bus stored it, UTC ns."""
    instances: tuple[InstanceFacts, ...] = ()
    """Of a definition with ``per``: its instances."""
    now: int
    """UTC ns."""


def build_status(facts: Facts, before: ResourceStatus | None) -> ResourceStatus:
    """The status that follows from the facts; a condition that stays as it was ``before`` keeps its time."""
    domain, decision = facts.domain, facts.decision
    is_template = domain is not None and domain.is_template
    judge_all = _judge_instances if is_template else _judge_domain
    findings: dict[ConditionType, Finding] = {"Ready": _is_ready(facts), **judge_all(facts)}
    counts = count_standings(facts.instances)
    reason = decision.reason if decision is not None else ", ".join(f"{one.count:,} {one.state}" for one in counts)
    critical = [] if domain is None else [_measure(one, facts) for one in domain.critical]
    targets = () if domain is None else tuple(_describe_target(one, facts) for one in domain.targets)
    used = _read_throughputs(facts)
    worst = max(critical, key=lambda one: one[1], default=None)
    limits = [facts.actions[one.key].limit for one in (domain.targets if domain else ()) if one.key in facts.actions]
    return ResourceStatus(
        observed_generation=facts.generation,
        state=_summarize_instances(facts, findings) if is_template else _summarize(facts, findings),
        policy=decision.policy if decision is not None else "",
        p95=worst[0].p95 if worst is not None else "",
        objective=worst[0].p95_objective if worst is not None else "",
        jitter=worst[0].jitter if worst is not None else "",
        limit=str(Rate(sum(limits))) if limits else "",
        use=str(_round_rate(sum(used.values()))) if used else "",
        reason=reason[:_LONGEST_TEXT],
        critical=tuple(one for one, _ in critical),
        targets=targets,
        instances=counts,
        worst=pick_worst(facts.instances),
        refused=tuple(
            RefusedWorkload(key, why[:_LONGEST_TEXT]) for key, why in sorted(facts.turned_away.items())[:_MOST_REFUSED]
        ),
        conditions=_date(findings, before.conditions if before is not None else (), facts),
    )


def read_status(tree: Any) -> ResourceStatus | None:
    """A status that was written before, with or without the Nones of ``encode_status``.

    None where it is another version's, or a person's.
    """
    if isinstance(tree, Mapping):
        tree = {key: value for key, value in tree.items() if value is not None}
    try:
        return msgspec.convert(tree, ResourceStatus)
    except msgspec.ValidationError:
        return None


def encode_status(status: ResourceStatus) -> dict[str, Any]:
    """A status as a merge patch has it: what is absent is removed."""
    fields: dict[str, Any] = {field.encode_name: None for field in msgspec.structs.fields(ResourceStatus)}
    return fields | dict(msgspec.json.decode(msgspec.json.encode(status)))


def _date(
    findings: Mapping[ConditionType, Finding], before: Iterable[Condition], facts: Facts
) -> tuple[Condition, ...]:
    known = {one.type: one for one in before}
    at = datetime.fromtimestamp(facts.now // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return tuple(
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message[:_LONGEST_TEXT],
            last_transition_time=known[kind].last_transition_time
            if kind in known and known[kind].status == status
            else at,
            observed_generation=facts.generation,
        )
        for kind, (status, reason, message) in findings.items()
    )


def _is_ready(facts: Facts) -> Finding:
    if facts.refusal is not None:
        held = "; the definition before it holds" if facts.domain is not None else ""
        return "False", "Refused", f"{facts.refusal}{held}"
    if facts.domain is None and facts.is_open:
        return "False", "NoTarget", f"no workload has joined by its label yet{_describe_turned_away(facts)}"
    if facts.domain is None:
        return "Unknown", "Waiting", "the definition was not looked at yet"
    if who := _who_does_not_follow(facts, facts.domain):
        return "False", "NotFollowed", f"{who}; /readyz of that service says why"
    return "True", "Accepted", f"the definition is in use{_describe_turned_away(facts)}"


def _who_does_not_follow(facts: Facts, domain: Domain) -> str:
    """Which service goes on under the definition before this one, as a service does that refuses it; empty: none."""
    decision, sample, due = facts.decision, facts.sample, facts.revised + _FOLLOWED
    if not facts.revision or domain.is_template:
        return ""
    if decision is not None and decision.end > due and decision.definition < facts.revision:
        return f"the decision service decides under revision {decision.definition}, and not {facts.revision}"
    if sample is not None and sample.end > due and sample.no_data is None:
        measured = {one.workload for one in sample.critical}
        if missing := [one.key for one in domain.critical if one.key not in measured]:
            return f"the sampler does not measure {', '.join(missing)} of revision {facts.revision}"
    return ""


def _describe_turned_away(facts: Facts) -> str:
    number = len(facts.turned_away)
    return f"; {number} workload{'s do' if number != 1 else ' does'} not join: see status.refused" if number else ""


def _judge_domain(facts: Facts) -> dict[ConditionType, Finding]:
    return {
        "Blind": _is_blind(facts),
        "Violated": _is_violated(facts),
        "Paused": _is_paused(facts),
        "Enforced": _is_enforced(facts),
    }


def _judge_instances(facts: Facts) -> dict[ConditionType, Finding]:
    """The conditions of a definition with ``per``: one bad instance is enough, and is named."""
    found: dict[ConditionType, Finding] = {}
    without = sum(one.standing == "NoCriticalPod" for one in facts.instances)
    measured: Finding = ("False", "Measured", "every instance is measured")
    if without == len(facts.instances):
        measured = ("Unknown", "NoCriticalPod", "no critical Pod runs yet: the fail-safe limits hold")
    elif without:
        text = f"every instance with a critical Pod is measured; {without:,} of {len(facts.instances):,} have none"
        measured = ("False", "Measured", text)
    for kind, standing, when_bad, when_good in (
        ("Blind", "Blind", ("True", "NoData"), measured),
        (
            "Violated",
            "Violated",
            ("True", "ObjectiveExceeded"),
            ("False", "WithinObjectives", "every instance that is measured meets its objectives"),
        ),
        ("Enforced", "NotEnforced", ("False", "NotEnforced"), ("True", "InForce", "every target has its limit")),
    ):
        text = describe_share(facts.instances, standing)  # type: ignore[arg-type]
        finding = (*when_bad, text) if text else when_good
        if facts.bus_trouble is not None:
            finding = ("Unknown", "BusUnavailable", facts.bus_trouble)
        elif not facts.instances:
            finding = ("Unknown", "NoInstance", "no Pod of its workloads runs on a node yet")
        found[kind] = finding  # type: ignore[index,assignment]
    return found | {"Paused": _is_paused(facts)}


def _summarize_instances(facts: Facts, findings: Mapping[ConditionType, Finding]) -> str:
    """The word for the column: how the worst instance stands, unless a person paused all."""
    if findings["Paused"][0] == "True":
        return "Paused"
    return pick_worst(facts.instances)[0].state if facts.instances else "Waiting"


def _is_blind(facts: Facts) -> Finding:
    domain, sample = facts.domain, facts.sample
    if facts.bus_trouble is not None:
        return "Unknown", "BusUnavailable", facts.bus_trouble
    if domain is None or sample is None:
        return "Unknown", "NoSample", "nothing was measured yet"
    age = facts.now - sample.end
    if age > domain.dead_man:
        # No number of seconds: it would change all the time.
        return "True", "NoSample", f"no sample for more than {domain.dead_man}"
    if sample.no_data is not None:
        return "True", "NoData", sample.no_data
    for one in sample.critical:
        why = one.why_unusable(domain.min_observations)
        if why is not None:
            return "True", "NoData", f"{one.workload}: {why}"
    return "False", "Measured", "every critical workload is measured"


def _is_violated(facts: Facts) -> Finding:
    if facts.decision is None or _is_blind(facts)[0] != "False":
        return "Unknown", "Blind", "nothing is measured"
    if facts.decision.violated:
        return "True", "ObjectiveExceeded", "a critical workload does not meet its objective"
    return "False", "WithinObjectives", "every critical workload meets its objectives"


def _is_paused(facts: Facts) -> Finding:
    if facts.pause is not None:
        return "True", "Annotation", facts.pause
    for action in _actions(facts):
        if action.paused:
            return "True", "TargetPaused", f"{action.target}: {action.reason}"
    return "False", "Active", "limits follow the decisions"


def _is_enforced(facts: Facts) -> Finding:
    domain, decision, actions = facts.domain, facts.decision, _actions(facts)
    if facts.bus_trouble is not None:
        return "Unknown", "BusUnavailable", facts.bus_trouble
    if domain is None or len(actions) < len(domain.targets):
        return "Unknown", "Waiting", "not every target has had a limit yet"
    for overrun in decision.overruns if decision is not None else ():
        return "False", "NotEnforced", f"{overrun.target} sends more than its limit: {Rate(overrun.limit)}"
    for action in actions:
        if trouble := _trouble(action):
            reason = "DryRun" if action.outcome == "dry-run" else "PatchFailed"
            return "False", "Paused" if action.paused else reason, f"{action.target}: {trouble}"
    return "True", "InForce", "every target has its limit"


def _summarize(facts: Facts, findings: Mapping[ConditionType, Finding]) -> str:
    """The word for the column: of what is wrong, what a person has to know first."""
    if facts.domain is None:
        return "Refused" if facts.refusal is not None else "Waiting"
    states = (("Paused", "True", "Paused"), ("Blind", "True", "Blind"), ("Enforced", "False", "NotEnforced"))
    for kind, status, word in states:
        if findings[kind][0] == status:  # type: ignore[index]
            return word
    if findings["Violated"][0] == "True":
        return "Violated"
    return "Waiting" if "Unknown" in {finding[0] for finding in findings.values()} else "Holds"


def _actions(facts: Facts) -> list[Action]:
    targets = facts.domain.targets if facts.domain is not None else ()
    return [facts.actions[one.key] for one in targets if one.key in facts.actions]


def _trouble(action: Action) -> str:
    """Why a target's limit is not what was decided; empty where it is."""
    if action.paused or action.outcome in ("failed", "dry-run"):
        return action.reason
    return "a part of its Pods has another limit" if action.partial else ""


def _measure(one: Critical, facts: Facts) -> tuple[CriticalStatus, float]:
    """A critical workload's status, and how close it is to its objectives: above 1 is a violation."""
    measures = facts.sample.critical if facts.sample is not None else ()
    found = next((measure for measure in measures if measure.workload == one.key), CriticalMeasure(one.key))
    p95, jitter = found.p95, found.jitter
    status = CriticalStatus(
        namespace=one.namespace,
        workload=one.workload,
        p95_objective=str(one.p95),
        jitter_objective=str(one.jitter),
        p95="" if p95 is None else _write_seconds(p95),
        jitter="" if jitter is None else _write_seconds(jitter),
        missing=(found.missing or "")[:_LONGEST_TEXT],
    )
    return status, max((p95 or 0.0) / one.p95.seconds, (jitter or 0.0) / one.jitter.seconds)


def _describe_target(target: Target, facts: Facts) -> LimitStatus:
    action = facts.actions.get(target.key)
    sent = _read_throughputs(facts).get(target.key)
    parts = facts.decision.targets if facts.decision is not None else ()
    return LimitStatus(
        target=target.key,
        limit="" if action is None else str(Rate(action.limit)),
        use="" if sent is None else str(_round_rate(sent)),
        rule=next((part.rule for part in parts if part.target == target.key), ""),
        trouble="" if action is None else _trouble(action)[:_LONGEST_TEXT],
    )


def _read_throughputs(facts: Facts) -> dict[str, int]:
    measures = facts.sample.targets if facts.sample is not None else ()
    return {one.target: one.throughput for one in measures if one.throughput is not None}


def _round_rate(kbit: int) -> Rate:
    return Rate(_two_digits(kbit))


def _two_digits(number: float) -> int:
    """A whole number of at most two digits that are not zero."""
    return int(round(number, 1 - floor(log10(number)))) if number >= 1 else 0


def _write_seconds(seconds: float) -> str:
    """A latency of two digits: ``1.8ms``, ``250us``."""
    return f"{_two_digits(seconds * 1e6) / 1000:g}ms" if seconds >= 1e-3 else str(Duration(_two_digits(seconds * 1e9)))
