"""How the instances of one definition stand, in the words of its resource's status.  Pure.

A thousand instances do not fit into a status: it counts them by state, and names the ten that stand worst.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import Action, Decision
from schemas.resource_status import InstanceStatus, StateCount
from schemas.units import Rate

_WORST = 10
_LONGEST_REASON = 256
Standing = Literal["Violated", "NotEnforced", "Blind", "Waiting", "Holds", "NoCriticalPod"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)
"""How an instance may stand, the worst first."""


class InstanceFacts(Struct, frozen=True, kw_only=True):
    """What is known of one instance at one time: little, because there may be a thousand."""

    on: str
    """The node, or the value of the label."""
    standing: Standing
    stress: float | None = None
    """The worst ratio of a latency to its objective; None where nothing is measured."""
    limit: int | None = None
    """The limits in force added up, kbit/s; None before the first."""
    reason: str = ""
    """Why it stands so."""


def judge_instance(
    domain: Domain,
    on: str,
    decision: Decision | None,
    actions: Mapping[str, Action],
    now: int,
    *,
    without_critical: bool = False,
) -> InstanceFacts:
    """Judge an instance of a definition.

    Args:
        domain: the definition.
        on: the node, or the value of the label.
        decision: the last; None before the first.
        actions: the last report on each target, by its key.
        now: UTC ns.
        without_critical: whether no critical Pod is there, so that nothing can be measured.
    """
    limit = sum(action.limit for action in actions.values()) if actions else None
    if decision is None:
        return InstanceFacts(on=on, standing="Waiting", limit=limit, reason="nothing was decided yet")
    standing, reason = _find_standing(domain, decision, actions, now)
    if standing == "Blind" and without_critical and not _is_late(domain, decision, now):
        standing, reason = "NoCriticalPod", "no critical Pod is there, so the fail-safe limit holds"
    stress = None if standing == "Blind" else decision.stress
    return InstanceFacts(on=on, standing=standing, stress=stress, limit=limit, reason=reason)


def _find_standing(domain: Domain, decision: Decision, actions: Mapping[str, Action], now: int) -> tuple[Standing, str]:
    if _is_late(domain, decision, now):
        # No number of seconds: it would change all the time.
        return "Blind", f"no decision for more than {domain.dead_man}"
    if decision.violated:
        return "Violated", decision.reason
    if trouble := _find_trouble(decision, actions):
        return "NotEnforced", trouble
    if decision.stress is None:
        return "Blind", decision.reason
    return ("Holds" if len(actions) >= len(domain.targets) else "Waiting"), decision.reason


def _is_late(domain: Domain, decision: Decision, now: int) -> bool:
    return now - decision.end > domain.dead_man


def _find_trouble(decision: Decision, actions: Mapping[str, Action]) -> str:
    """Find why a target does not have the limit that was decided; empty where all have."""
    for overrun in decision.overruns:
        return f"{overrun.target} sends more than its limit: {Rate(overrun.limit)}"
    for key, action in actions.items():
        if action.paused or action.outcome in ("failed", "dry-run"):
            return f"{key}: {action.reason}"
        if action.partial:
            return f"{key}: a part of its Pods has another limit"
    return ""


def count_standings(instances: Sequence[InstanceFacts]) -> tuple[StateCount, ...]:
    """Count the instances by how they stand, the worst first; only what occurs."""
    counts = Counter(one.standing for one in instances)
    return tuple(StateCount(standing, counts[standing]) for standing in STANDINGS if counts[standing])


def pick_worst(instances: Sequence[InstanceFacts]) -> tuple[InstanceStatus, ...]:
    """Pick the instances that stand worst, in words; of those that stand alike, by latency and name."""
    ranked = sorted(instances, key=lambda one: (STANDINGS.index(one.standing), -(one.stress or 0.0), one.on))
    return tuple(
        InstanceStatus(
            on=one.on,
            state=one.standing,
            stress="" if one.stress is None else f"{one.stress:.0%}",
            limit="" if one.limit is None else str(Rate(one.limit)),
            reason=one.reason[:_LONGEST_REASON],
        )
        for one in ranked[:_WORST]
    )


def describe_share(instances: Sequence[InstanceFacts], standing: Standing) -> str:
    """Say how many instances stand so, and of the worst of them where it is and why; empty where none does."""
    found = [one for one in instances if one.standing == standing]
    if not found:
        return ""
    (worst,) = pick_worst(found)[:1]
    return f"{len(found):,} of {len(instances):,} instances; {worst.on}: {worst.reason}"
