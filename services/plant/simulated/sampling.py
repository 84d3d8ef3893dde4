"""Samples of the simulated plant, built as the sampler builds them from pages.

    model -> counters -> (pages, read at times of their own) -> sample

A page of the exporter has the round trips, and a page of the meter, or of the kubelet, the bytes that pods sent.
``SignalTraits`` says how often, how late and how reliably each is there; ``signal_profiles.py`` has the sets of
them that clusters have.
"""

from collections import Counter, deque
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from msgspec import Struct

from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from services.common.histogram import increase, quantile, summarize
from services.plant.interface import BUCKETS, Counters, Pod

_NS = 10**9
NO_PAGE = "the exporter does not answer"


class ByteCounts(Struct, frozen=True):
    """Where the bytes that pods sent are counted."""

    every: tuple[float, float] = (0.0, 0.0)
    """How often each pod's count is renewed, seconds: at random between these two.  0: whenever a page is read."""
    stamped: bool = False
    """Whether the page says when they were counted."""


class SignalTraits(Struct, frozen=True):
    """How measurements come about; times are seconds."""

    period: float = 0.5
    """From one sample to the next."""
    window: float = 2.0
    """What a sample averages over."""
    scrape: float | None = None
    """How often counters are read; None: at each sample.  A Prometheus of its own reads out of step."""
    lag: float = 0.03
    """From the end of a window to the decision."""
    throughput: ByteCounts | None = ByteCounts()
    """None: nothing measures throughput."""
    probe_hz: int | None = None
    """Probes a second of each critical workload; None: as many as the scenario has."""
    blind: bool = False
    """Whether nobody probes, so that workloads with long-lived flows show no latency at all."""
    gaps: float = 0.0
    """Share of pages that do not arrive in time."""
    target_gain: float = 1.0
    """Measured throughput of targets, as a multiple of the true one."""
    critical_gain: float = 1.0
    """Measured throughput of critical workloads, as a multiple of the true one."""
    throughput_noise: float = 0.0
    """Standard deviation of a measured throughput, as a share of it."""


class _Pages(NamedTuple):
    """A page of each kind, read at one time."""

    at: int
    counters: Counters
    sent: dict[str, tuple[int, int]] | None
    """By sender, when its bytes were counted (UTC ns), and how many there were; None: the page did not arrive."""


class SampleBuilder:
    """Keeps the pages of one window, and builds samples from them."""

    def __init__(self, domain: Domain, traits: SignalTraits, pods: Sequence[Pod], seed: int) -> None:
        """Build the samples of one domain, whose best-effort pods these are."""
        self._domain = domain
        self._traits = traits
        self._targets = {pod.name: pod.target for pod in pods}
        self._replicas = Counter(pod.target for pod in pods)
        self._random = Random(f"signal {seed}")  # noqa: S311 - gaps, not secrets
        self._counted: dict[str, tuple[int, int]] = {}
        self._readings: deque[_Pages] = deque()
        self._missed = False

    def next_count_s(self) -> float:
        """In how many seconds the count of a sender is renewed."""
        assert self._traits.throughput is not None
        return self._random.uniform(*self._traits.throughput.every)

    def count(self, sender: str, now: int, counters: Counters) -> None:
        """Renew the count of one sender, where counts are not renewed at each reading."""
        self._counted[sender] = now, counters.sent[sender]

    def read(self, now: int, counters: Counters) -> None:
        """Read the pages at ``now``, UTC ns."""
        gaps = self._traits.gaps
        self._missed = bool(gaps) and self._random.random() < gaps
        if self._missed:
            return
        counts = self._traits.throughput
        sent: dict[str, tuple[int, int]] | None = None
        if counts is not None and not (gaps and self._random.random() < gaps):
            sent = dict(self._counted) if counts.every[1] else {key: (now, n) for key, n in counters.sent.items()}
        self._readings.append(_Pages(now, counters, sent))
        oldest = now - round((self._traits.window + 2 * (self._traits.scrape or 0) + 1) * _NS)
        while self._readings[0].at < oldest:
            self._readings.popleft()

    def build(self, end: int, blind: str = "") -> Sample:
        """The sample of the window that ends at ``end``, UTC ns; ``blind`` is why nothing can be measured."""
        traits, domain = self._traits, self._domain
        start, period = end - round(traits.window * _NS), round(traits.period * _NS)
        inside = [reading for reading in self._readings if reading.at >= start]
        # Read at each sample, the last two readings lie one period apart.
        fresh = traits.scrape is None
        why = blind or (NO_PAGE if fresh and self._missed else "")
        why = why or ("" if len(inside) > 1 else f"{len(inside)} readings in the window, 2 needed")
        if why:
            return Sample(domain.name, start, end, period, "simulation", no_data=why)
        sent = self._rates(inside)
        recent = self._rates(inside[-2:]) if fresh else {}
        targets = tuple(
            TargetMeasure(one.key, sent.get(one.key), recent.get(one.key), self._replicas[one.key])
            for one in domain.targets
        )
        critical = tuple(self._measure(one.key, inside, sent, recent, fresh=fresh) for one in domain.critical)
        return Sample(domain.name, start, end, period, "simulation", critical, targets)

    def _measure(
        self, key: str, inside: list[_Pages], sent: dict[str, int], recent: dict[str, int], *, fresh: bool
    ) -> CriticalMeasure:
        old, before, new = (reading.counters.latency[key] for reading in (inside[0], inside[-2], inside[-1]))
        if self._traits.blind:
            missing = "no observations in the window"
            return CriticalMeasure(key, throughput=sent.get(key), recent=recent.get(key), missing=missing)
        seen = summarize(BUCKETS, increase(old.counts, new.counts))
        return CriticalMeasure(
            workload=key,
            jitter=seen.jitter,
            p95=seen.p95,
            observations=int(seen.observations),
            lost=new.lost - old.lost,
            throughput=sent.get(key),
            recent=recent.get(key),
            recent_p50=quantile(0.5, BUCKETS, increase(before.counts, new.counts)) if fresh else None,
        )

    def _rates(self, inside: list[_Pages]) -> dict[str, int]:
        """What each workload sent between the first and the last of some readings, kbit/s; without those not known."""
        pages = [reading.sent for reading in inside if reading.sent is not None]
        # A page that does not arrive leaves its pods unknown.
        if len(pages) < 2 or inside[-1].sent is None:
            return {}
        counts = self._traits.throughput
        times = [reading.at for reading in inside if reading.sent is not None]
        rates: dict[str, float] = {}
        unknown = set()
        for sender, (at, total) in pages[-1].items():
            key = self._targets.get(sender, sender)
            first = pages[0].get(sender)
            if first is None:
                unknown.add(key)
                continue
            ns = at - first[0] if counts is not None and counts.stamped else times[-1] - times[0]
            if ns <= 0:
                unknown.add(key)
                continue
            rates[key] = rates.get(key, 0.0) + (total - first[1]) * 8 * 1_000_000 / ns
        return {key: self._distort(key, rate) for key, rate in rates.items() if key not in unknown}

    def _distort(self, key: str, rate: float) -> int:
        """A throughput as a wrong or noisy meter reports it."""
        traits = self._traits
        rate *= traits.target_gain if key in self._replicas else traits.critical_gain
        if traits.throughput_noise:
            rate *= max(1 + self._random.gauss(0, traits.throughput_noise), 0.0)
        return round(rate)
