"""Builds one domain's sample from what a source measured.  Pure.

Nothing is left out silently: a figure that is not known is None, with its reason.
"""

from schemas.config import Signal
from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from services.common.histogram import explain_coarseness
from services.common.redaction import hide_passwords
from services.sampler.source import LatencyStats, Measurements

WIDEST_BUCKET = 0.5
"""A histogram cannot judge an SLO that lies inside a bucket wider than this share of it."""
_LONGEST_S = 50.0
"""No histogram of network latency in seconds has a bound like that."""


def build_sample(domain: Domain, signal: Signal, end: int, measured: Measurements) -> Sample:
    """The sample of one domain.

    Args:
        domain: whose workloads to include.
        signal: what measured, and how often.
        end: end of the window, UTC ns.
        measured: all domains together.
    """
    why_unknown = {
        key: hide_passwords(why) for key, why in measured.throughput_missing.items() if key not in measured.throughput
    }
    name_of = domain.name_part if domain.on else str
    critical = []
    for one in domain.critical:
        name = name_of(one.key)
        stats = measured.latency.get(name, LatencyStats(missing="not measured"))
        missing = None if stats.missing is None else hide_passwords(stats.missing)
        if missing is None and stats.bounds is not None:
            for figure, slo in (("P95", one.p95), ("jitter", one.jitter)):
                coarse = explain_coarseness(stats.bounds, slo / 1e9, WIDEST_BUCKET)
                if coarse is not None:
                    missing = f"buckets too coarse for {figure}: {coarse}{_suggest_unit(stats.bounds, slo.seconds)}"
                    break
        measure = CriticalMeasure(
            workload=one.key,
            jitter=None if missing else stats.jitter,
            p95=None if missing else stats.p95,
            observations=stats.observations,
            lost=stats.lost,
            throughput=measured.throughput.get(name),
            recent=measured.recent.get(name),
            recent_p50=None if missing else measured.recent_p50.get(name),
            missing=missing,
            throughput_missing=why_unknown.get(name),
        )
        critical.append(measure)
    targets = tuple(
        TargetMeasure(
            target=target.key,
            throughput=measured.throughput.get(name),
            recent=measured.recent.get(name),
            pods=measured.pods.get(name),
            throughput_missing=why_unknown.get(name),
        )
        for target in domain.targets
        for name in (name_of(target.key),)
    )
    return Sample(
        domain=domain.name,
        start=measured.start,
        end=end,
        period=int(signal.period),
        source=signal.source,
        critical=tuple(critical),
        targets=targets,
    )


def _suggest_unit(bounds: tuple[float, ...], slo: float) -> str:
    """The unit in which the buckets would fit the SLO; empty where there is none."""
    if bounds[-1] < _LONGEST_S:
        return ""
    for unit, name, seconds in (
        ("ms", "milliseconds", 1e-3),
        ("us", "microseconds", 1e-6),
        ("ns", "nanoseconds", 1e-9),
    ):
        if explain_coarseness(tuple(bound * seconds for bound in bounds), slo, WIDEST_BUCKET) is None:
            return f"; they look like {name}: set signal.unit: {unit}"
    return ""


def explain_blindness(domain: Domain, sample: Sample) -> str | None:
    """Why control will not act on a sample; None when it will."""
    if sample.no_data is not None:
        return sample.no_data
    for measure in sample.critical:
        why = measure.why_unusable(domain.min_observations)
        if why is not None:
            return f"{measure.workload}: {why}"
    return None
