"""Whether limits hold: what a target sends is compared with the limit that was in force.  Pure.

Nothing in a cluster reports that a limit is not enforced: a bandwidth manager that is off, an agent that hangs, or
traffic that takes a way around it all look like a limit that holds.  But what a target sends over its limit, for
longer than bursts, a patch and a queue explain, shows it.

    over      it sent more than the limit by a tenth and 250 kbit/s, over the last period
    overrun   it has been over for four seconds, without a break

Limits whose target does not want more cannot be judged, and need not be.  A source that measures throughput over its
whole window is judged only once the window lies after the limit's last change.
"""

from collections.abc import Mapping, Sequence

from schemas.domain import Domain, Target
from schemas.messages import Overrun, Sample, ShieldMemory
from services.control.observation import Observation

_SHARE = 1.1
_SLACK_KBIT = 250
LONG_NS = 4 * 10**9
"""Longer than a patch, the agent's reaction, the drain of a queue and one more period take together."""
_NEAR = 0.9
"""A target that sends this share of its limit fills it."""


def allows(limit: int, sent: int) -> bool:
    """Whether a limit explains what was sent; both kbit/s."""
    return sent <= limit * _SHARE + _SLACK_KBIT


def fills(target: Target, sample: Sample, limit: int) -> bool:
    """Whether a target filled its limit (kbit/s, in its scope); False where that is not known."""
    for one in sample.targets:
        if one.target == target.key:
            sent = one.throughput if one.recent is None else one.recent
            pods = one.pods if target.scope == "per-pod" else 1
            return sent is not None and bool(pods) and sent >= _NEAR * limit * (pods or 1)
    return False


def follow_overruns(
    domain: Domain, since: Mapping[str, int], limits: Sequence[ShieldMemory], sample: Sample, seen: Observation
) -> tuple[dict[str, int], tuple[Overrun, ...]]:
    """Compare what every target sent with its limit.

    Args:
        domain: whose targets.
        since: by target, since when it has been over its limit without a break, ns.
        limits: in force before this sample, in the order of the targets.
        sample: what was measured.
        seen: the same, as policies see it.

    Returns:
        ``since`` after this sample, and the overruns.
    """
    over: dict[str, int] = {}
    overruns = []
    for number, target in enumerate(domain.targets):
        sent, known = seen.recent_by_target[number], limits[number]
        # The usual case first: this is part of every step.
        if sent is None or allows(known.limit, sent):
            continue
        limit = known.limit
        if target.scope == "per-pod":
            pods = seen.pods[number]
            if not pods or allows(limit * pods, sent):
                continue
            limit *= pods
        key = target.key
        is_recent = any(one.target == key and one.recent is not None for one in sample.targets)
        if not is_recent and known.since > sample.start:
            continue
        began = over[key] = since.get(key, sample.end - sample.period)
        if sample.end - began >= LONG_NS:
            overruns.append(Overrun(target=key, sent=sent, limit=limit, since=began))
    return over, tuple(overruns)
