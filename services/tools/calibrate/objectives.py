"""Objectives on latency: what every critical workload keeps while there is no queue, with room above it.

Whether a workload *needs* that little latency, nobody can see on a link.  The proposal is the tightest objective that
best effort alone can break, because without a queue the workload keeps it.
"""

from collections.abc import Sequence
from math import floor, log10

from schemas.units import Duration
from services.tools.calibrate.proposal import Confidence, Figure
from services.tools.calibrate.queue import QueueHistory, quantile_of
from services.tools.calibrate.readings import DomainReadings
from services.tools.common.formatting import format_ms

_ROOM = 2.0
"""Objective as a multiple of what is usual without a queue."""
_RARE = 0.99
"""Quantile over the windows that is usual."""
_UNSTEADY = 4.0
"""How many times the median the usual value is where something else than a queue delays."""
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
"""What an objective is rounded up to, within each power of ten."""
_LEAST_S = 0.0005
"""Hosts' own timers break a tighter objective."""
_MOST_S = 60.0
"""A latency of more is a fault of what measures it."""
_FEW, _SOME, _MANY = 20, 100, 1000
"""Windows without a queue: fewer than the first tell nothing, from the others on confidence is medium and high."""


def propose_objectives(of: DomainReadings, queues: QueueHistory) -> list[Figure]:
    """Propose P95 and jitter of every critical workload."""
    figures = []
    for i, one in enumerate(of.domain.critical):
        for setting, configured in (("p95", one.p95), ("jitter", one.jitter)):
            values = [getattr(reading.latency[i], setting) for reading in queues.clean]
            figures.append(propose_objective(setting, one.key, configured, values, queues))
    return figures


def propose_objective(
    setting: str, key: str, configured: Duration, values: Sequence[float], queues: QueueHistory
) -> Figure:
    """One objective, from its values (seconds) in windows without a queue."""

    def propose(value: Duration | None, confidence: Confidence, why: str, **facts: float) -> Figure:
        return Figure(
            setting=setting,  # type: ignore[arg-type]
            key=key,
            value=value,
            configured=configured,
            confidence=confidence,
            why=why,
            facts=facts,
        )

    if queues.always_full:
        return propose(None, "none", "the link was full all the time: latency without a queue was never seen")
    if len(values) < _FEW:
        return propose(None, "none", f"{len(values)} windows without a queue, {_FEW} needed")
    usual = quantile_of(values, _RARE)
    if usual > _MOST_S:
        return propose(None, "none", f"without a queue it was {format_ms(usual)} ms: no link delays by that much")
    seconds = max(_ROOM * usual, _LEAST_S)
    power = 10.0 ** floor(log10(seconds))
    step = next(one for one in _STEPS if seconds <= one * power * (1 + 1e-9))
    value = Duration(round(step * power * 1e9))
    confidence: Confidence = "high" if len(values) >= _MANY else "medium" if len(values) >= _SOME else "low"
    why = f"without a queue it was at most {format_ms(usual)} ms in {_RARE:.0%} of {len(values)} windows: twice that"
    facts = {"windows": float(len(values)), "median": quantile_of(values, 0.5), "q99": usual}
    if queues.episodes and setting == "p95":
        shown = min(one.p95 for one in queues.episodes)
        facts["queue_p95"] = shown
        why += f"; the least queue showed at {format_ms(shown)} ms"
    elif not queues.episodes:
        why += "; what a queue does to it was never seen"
        confidence = "low" if confidence == "low" else "medium"
    if usual > _UNSTEADY * facts["median"]:
        confidence = "low"
        why += f"; half of them are below {format_ms(facts['median'])} ms: its host stalls, or some probes are slow"
    if len(queues.brief) > len(values):
        confidence = "low"
        why += f"; in {len(queues.brief)} windows all workloads' latency rose for less than half a sample"
    return propose(value, confidence, why, **facts)
