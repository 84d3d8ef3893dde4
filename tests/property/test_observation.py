"""The figures observed in a sample, compared with their plain definitions."""

import math
from typing import TypeVar

import hypothesis.strategies as st
from hypothesis import example, given

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from schemas.units import Rate
from services.control.observation import Observer

S = 10**9
M = TypeVar("M", CriticalMeasure, TargetMeasure)
_LATENCY = st.one_of(st.floats(0, 0.01), st.sampled_from([None, math.nan, math.inf, -1.0, -0.0, 0.002]))
_RATE = st.one_of(st.none(), st.integers(-3, 50_000))
_WORKLOADS = ("default/a", "default/b")
_TARGETS = ("default/x", "default/y")
_DOMAIN = Domain(
    "cell",
    tuple(Critical(key.partition("/")[2]) for key in _WORKLOADS),
    (
        Target(deployment="x", min=Rate(1_000), max=Rate(9_000), fail_safe=Rate(2_000)),
        Target(deployment="y", min=Rate(1_000), max=Rate(9_000), fail_safe=Rate(2_000), scope="per-pod"),
    ),
    "proportional",
    min_observations=10,
)

_measures = st.one_of(st.permutations(_WORKLOADS), st.lists(st.sampled_from(_WORKLOADS), max_size=4)).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                CriticalMeasure,
                st.just(name),
                jitter=_LATENCY,
                p95=_LATENCY,
                observations=st.sampled_from([9, 10, 500]),
                lost=st.sampled_from([None, 0.0, 0.0, 1.5, math.nan, math.inf, -1.0]),
                throughput=_RATE,
                missing=st.sampled_from([None, None, None, "gone"]),
                recent=_RATE,
                recent_p50=st.one_of(st.none(), st.floats(0, 0.01)),
            )
            for name in names
        )
    )
)
_sent = st.one_of(st.permutations(_TARGETS), st.lists(st.sampled_from(_TARGETS), max_size=4)).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(TargetMeasure, st.just(name), throughput=_RATE, recent=_RATE, pods=st.sampled_from([None, 0, 3]))
            for name in names
        )
    )
)
_samples = st.builds(
    lambda window, critical, targets, no_data: Sample("cell", 0, window, S // 2, "test", critical, targets, no_data),
    st.sampled_from([2 * S, 2 * S, 2 * S, S // 4, 0, -S]),
    _measures,
    _sent,
    st.sampled_from([None, None, None, "", "nobody knows"]),
)


def _find(keys: tuple[str, ...], measures: tuple[M, ...], names: list[str]) -> list[M | None]:
    """The measure of each workload: of those with its name, the one at its own position, else the first."""
    places = [
        i if names[i : i + 1] == [key] else names.index(key) if key in names else None for i, key in enumerate(keys)
    ]
    return [None if place is None else measures[place] for place in places]


def _usable(one: CriticalMeasure | None) -> bool:
    if one is None or one.missing is not None or one.jitter is None or one.p95 is None or one.observations < 10:
        return False
    return all(math.isfinite(figure) and figure >= 0 for figure in (one.jitter, one.p95))


def _last(one: CriticalMeasure | TargetMeasure) -> int | None:
    return one.throughput if one.recent is None else one.recent


def _sums(measures: list[CriticalMeasure | TargetMeasure | None]) -> tuple[int | None, int | None]:
    known = [one for one in measures if one is not None and one.throughput is not None and one.throughput >= 0]
    if len(known) < len(measures):
        return None, None
    rates = [one.throughput or 0 for one in known]
    lasts = [
        rate if one.recent is None or one.recent < 0 else one.recent for one, rate in zip(known, rates, strict=True)
    ]
    return sum(rates), sum(lasts)


@given(_samples)
@example(Sample("cell", 0, 2 * S, S // 2, "test", no_data=""))
def test_every_figure_equals_its_definition(sample: Sample) -> None:
    """Worst ratios, sums and reasons, whatever the sampler's order, and whatever is missing."""
    seen = Observer(_DOMAIN).observe(sample)
    critical = _find(_WORKLOADS, sample.critical, [one.workload for one in sample.critical])
    effort = _find(_TARGETS, sample.targets, [one.target for one in sample.targets])
    possible = 0 < sample.period <= sample.end

    blind = sample.no_data is not None or not possible or not all(_usable(one) for one in critical)
    assert (seen.missing is not None) is blind
    if sample.no_data:
        assert seen.missing == sample.no_data
    assert (seen.window, seen.period) == ((sample.end, sample.period) if possible else (1, 1))
    lost = sum(
        one.lost for one in critical if one and one.lost is not None and math.isfinite(one.lost) and one.lost > 0
    )
    assert seen.lost == lost
    assert (seen.critical_throughput, seen.critical_recent) == _sums(list(critical))
    assert (seen.target_throughput, seen.target_recent) == _sums(list(effort))
    lasts = [None if one is None else _last(one) for one in effort]
    assert seen.recent_by_target == tuple(rate if rate is not None and rate >= 0 else None for rate in lasts)
    assert seen.pods == tuple(None if one is None else one.pods for one in effort)
    if blind:
        assert (seen.jitter, seen.p95, seen.medians, seen.stress, seen.violated) == (0, 0, None, None, lost > 0)
        assert seen.queued
        return
    usable = [one for one in critical if one is not None]
    jitter = max((one.jitter or 0) * 500 for one in usable)
    p95 = max((one.p95 or 0) * 500 for one in usable)
    assert (seen.jitter, seen.p95, seen.stress) == (jitter, p95, max(jitter, p95))
    assert seen.violated is (max(jitter, p95) > 1 or lost > 0)
    medians = [one.recent_p50 for one in usable if one.recent_p50 is not None]
    each = tuple(median * 500 for median in medians) if len(medians) == len(usable) else None
    assert seen.medians == each
    assert seen.shared_p95 == min((one.p95 or 0) * 500 for one in usable)
    assert seen.queued is (each is None or min(each) > 0.5 or lost > 0)
