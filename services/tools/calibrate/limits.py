"""Bounds of the targets' limits: from the capacity, the critical load, and what each target sent."""

from collections.abc import Sequence
from typing import Any, Literal

from schemas.domain import Target
from schemas.units import Rate
from services.tools.calibrate.capacity import Capacity, round_down
from services.tools.calibrate.proposal import Confidence, Figure, least
from services.tools.calibrate.queue import QueueHistory, Span, quantile_of
from services.tools.calibrate.readings import DomainReadings, Reading
from services.tools.common.formatting import format_duration, format_rate

_KEPT = 0.95
"""Share of the lowest capacity that fail-safe limits and the highest critical load fill together."""
_QUIET = 0.05
"""Quantile of the critical load beside which a maximum has room."""
_ROOMY, _LEFT = 1.2, 0.1
"""A target that had so many times its highest rate as its limit, in more of the clean samples, wanted no more."""
_TWICE = 2
_HUNDREDTH = 100
_HOUR, _DAY = 3600.0, 86_400.0


def propose_limits(of: DomainReadings, queues: QueueHistory, capacity: Capacity) -> list[Figure]:
    """Propose maximum, fail-safe limit and minimum of every target."""
    critical = [one.critical for one in of.readings if one.critical is not None]
    peak = max(critical, default=None)
    quiet = int(quantile_of(critical, _QUIET)) if critical else None
    seconds = (of.last - of.first) / 1e9
    length: Confidence = "high" if seconds >= _DAY else "medium" if seconds >= _HOUR else "low"
    figures: list[Figure] = []
    weights = sum(target.weight for target in of.domain.targets)
    for i, target in enumerate(of.domain.targets):
        pods = max((one.pods[i] or 0 for one in of.readings), default=0) if target.scope == "per-pod" else 1
        why = queues.always_full and "the link was full all the time: it squeezed what all workloads wanted to send"
        if not pods:
            why = "the limit is per pod, and the recording does not say how many pods there were"
        if why:
            figures += [_propose(target, setting, None, "none", why) for setting in ("max", "fail_safe", "min")]
            continue
        most = propose_maximum(of, i, queues.clean, capacity, quiet, pods)
        room = None
        if peak is not None and capacity.lowest is not None:
            room = max(_KEPT * capacity.lowest - peak, 0.0) * target.weight / weights / pods
        safe = propose_fail_safe(of, i, most, room, least(length, capacity.figure.confidence))
        figures += [most, safe, propose_minimum(target, most, safe)]
    return figures


def _propose(
    target: Target,
    setting: Literal["max", "fail_safe", "min"],
    value: Rate | None,
    confidence: Confidence,
    why: str,
    **evidence: Any,
) -> Figure:
    """The figure of one of a target's settings, beside what is configured; ``evidence`` is its spans and facts."""
    return Figure(
        setting=setting,
        key=target.key,
        value=value,
        configured=getattr(target, setting),
        confidence=confidence,
        why=why,
        **evidence,
    )


def propose_maximum(
    of: DomainReadings, i: int, clean: Sequence[Reading], capacity: Capacity, quiet: int | None, pods: int
) -> Figure:
    """A maximum: twice what the target sent if it never wanted more, else what the quiet link has room for."""
    target = of.domain.targets[i]

    used = max((rate for one in of.readings if (rate := one.sent[i]) is not None), default=0)
    limits = [limit * pods for one in clean if one.sent[i] is not None and (limit := one.limits[i]) is not None]
    roomy = sum(limit >= _ROOMY * used for limit in limits)
    if used and roomy > _LEFT * len(limits):
        why = f"it never sent more than {format_rate(used)}, though it had room for more in {roomy} samples: twice that"
        value = min(_TWICE * used, capacity.known or _TWICE * used)
        return _propose(target, "max", round_down(value / pods, 2), "medium", why, facts={"sent": float(used)})
    if capacity.known is None or quiet is None or capacity.figure.bound:
        missing = "the capacity is not known" if quiet is not None else "the critical load was not measured"
        return _propose(target, "max", None, "none", f"it takes what it gets, and {missing}")
    wants = "it used all that it was allowed" if limits else "no limits were recorded, so it may want more than it sent"
    why = f"{wants}; beside a quiet critical load of {format_rate(quiet)} the link has room for that"
    room = max(capacity.known - quiet, 1) / pods
    confidence = capacity.figure.confidence if limits else least("low", capacity.figure.confidence)
    return _propose(target, "max", round_down(room, 2), confidence, why, facts={"critical_quiet": float(quiet)})


def propose_fail_safe(of: DomainReadings, i: int, most: Figure, room: float | None, confidence: Confidence) -> Figure:
    """The target's share of what is left beside the highest critical load."""
    target = of.domain.targets[i]
    peaks = [(one.critical, one.end) for one in of.readings if one.critical is not None]
    if room is None:
        return _propose(target, "fail_safe", None, "none", "capacity and critical load are not both known")
    peak, end = max(peaks)
    at = (end - of.first) / 1e9
    value = round_down(max(min(room, int(most.value or target.max)), 1), 2)
    why = (
        f"beside the highest critical load, {format_rate(peak)}, {_KEPT:.0%} of the least capacity leaves that; "
        f"a load that did not occur in these {format_duration(of.last - of.first)} is not in it"
    )
    shown = (Span(max(at - 1, 0.0), at),)
    return _propose(target, "fail_safe", value, confidence, why, spans=shown, facts={"critical_peak": float(peak)})


def propose_minimum(target: Target, most: Figure, safe: Figure) -> Figure:
    """The configured minimum, unless the fail-safe limit is lower: no recording says what a target can live on."""
    ceiling = int(safe.value or target.fail_safe)
    value = Rate(min(int(target.min), ceiling))
    why = "a recording cannot tell what a target can live on: the configured one is kept"
    if value < target.min:
        why = "the configured one is more than what is left beside the highest critical load"
        value = Rate(min(max(int(most.value or target.max) // _HUNDREDTH, 1), ceiling))
    return _propose(target, "min", value, "low", why)
