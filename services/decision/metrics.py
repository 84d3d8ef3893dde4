"""What the decision service counts and measures.  Only what is worth a series per domain has one."""

from collections.abc import Callable, Iterator, Sequence
from math import nan

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from schemas.domain import Domain, Target
from schemas.messages import Decision, Sample
from services.control.observation import fills

steps = Counter("sluice_decision_steps", "Samples answered with a decision")
stale = Counter("sluice_decision_stale", "Samples that were dealt with before, or came too late")
conflicts = Counter("sluice_decision_conflicts", "Decisions that another replica had taken first")
caught_up = Counter("sluice_decision_caught_up", "Samples looked up because they were delivered to another replica")
faults = Counter("sluice_decision_faults", "Steps at which the fallback stood in for the policy")
overruled = Counter(
    "sluice_decision_overruled",
    "Targets' limits that the shield made other than the policy proposed, by the rule that decided",
    ["domain", "rule"],
)
unknown = Counter("sluice_decision_unknown", "Samples of domains that are not configured")
at_limit = Gauge(
    "sluice_target_at_limit_seconds", "How long a target has filled its limit without a break", ["domain", "target"]
)
starved = Gauge(
    "sluice_target_starved_seconds",
    "How long a target has filled a limit that is its configured minimum",
    ["domain", "target"],
)
lag = Histogram(
    "sluice_decision_lag_seconds",
    "From the end of a sample's window to its decision on the bus",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
lessons = Counter(
    "sluice_link_lessons",
    "What samples taught about the bottleneck, but for those that taught nothing",
    ["domain", "lesson"],
)
_NOTHING_NEW = frozenset({"steady", "settles", "waits"})
"""Lessons that are not counted."""


def count_decision(decision: Decision) -> None:
    """Count a decision that is on the bus."""
    steps.inc()
    faults.inc(decision.fault is not None)
    if decision.link is not None and decision.link.lesson not in _NOTHING_NEW:
        lessons.labels(decision.domain, decision.link.lesson).inc()
    for target in decision.targets:
        if target.limit != target.proposal:
            overruled.labels(decision.domain, target.rule).inc()


class LastDecisions(Collector):
    """Every domain's last decision as gauges, built at each scrape."""

    def __init__(self, last: Callable[[], Iterator[Decision]]) -> None:
        """``last`` is called at each scrape."""
        self._last = last

    def collect(self) -> Iterator[Metric]:
        """Build the gauges."""
        limit = GaugeMetricFamily("sluice_decision_limit_kbit", "Limit decided", labels=["domain", "target"])
        stress = GaugeMetricFamily(
            "sluice_decision_stress_ratio", "Worst ratio of a latency figure to its objective", labels=["domain"]
        )
        for decision in self._last():
            for target in decision.targets:
                limit.add_metric([decision.domain, target.target], target.limit)
            stress.add_metric([decision.domain], nan if decision.stress is None else decision.stress)
        yield limit
        yield stress
        yield from self._collect_links()

    def _collect_links(self) -> Iterator[Metric]:
        """What the policies know of their bottlenecks; of a domain whose policy was not asked, nothing."""
        safe = GaugeMetricFamily(
            "sluice_link_safe_load_kbit",
            "Largest total load that builds up no queue, as far as is known",
            labels=["domain"],
        )
        expected = GaugeMetricFamily("sluice_link_expected_load_kbit", "Critical load to come", labels=["domain"])
        margin = GaugeMetricFamily("sluice_link_margin_kbit", "Load that is kept free for bursts", labels=["domain"])
        headroom = GaugeMetricFamily(
            "sluice_link_headroom_kbit", "What the safe load leaves for best effort", labels=["domain"]
        )
        met = GaugeMetricFamily(
            "sluice_link_met_seconds", "When a queue last showed where the safe load ends, Unix time", labels=["domain"]
        )
        for decision in self._last():
            link, labels = decision.link, [decision.domain]
            if link is None:
                continue
            safe.add_metric(labels, link.safe)
            expected.add_metric(labels, link.expected)
            margin.add_metric(labels, link.margin)
            headroom.add_metric(labels, link.headroom)
            if link.met:
                met.add_metric(labels, link.met / 1e9)
        yield from (safe, expected, margin, headroom, met)


class PressureGauges:
    """How long one domain's targets have filled their limits.

    One that fills its configured minimum for long gets too little, and no agent is at fault.
    """

    def __init__(self, domain: Domain) -> None:
        """Begin at zero."""
        self._full: dict[str, int] = {}
        self._starved: dict[str, int] = {}
        """Since when a target has filled its limit, and one that is its minimum: ends of samples, UTC ns."""
        self._gauges: list[tuple[Target, Gauge, Gauge]] = []
        self._domain = domain
        self.define(domain.targets)

    def define(self, targets: Sequence[Target]) -> None:
        """Show these targets from now on; those that stay go on."""
        kept = {target.key for target in targets}
        for gone in [target.key for target, _, _ in self._gauges if target.key not in kept]:
            self._full.pop(gone, None)
            self._starved.pop(gone, None)
            for gauge in (at_limit, starved):
                gauge.remove(self._domain.name, gone)
        self._gauges = [
            (target, at_limit.labels(self._domain.name, target.key), starved.labels(self._domain.name, target.key))
            for target in targets
        ]

    def follow(self, sample: Sample, decision: Decision) -> None:
        """Take the next sample, and the decision on it, which has the limits that were in force."""
        for (target, full, starved), decided in zip(self._gauges, decision.targets, strict=True):
            is_full = fills(target, sample, decided.was)
            if is_full is None:
                # Not known, and neither a stretch's end nor 0 seconds.
                full.set(nan)
                starved.set(nan)
                continue
            for since, gauge, holds in (
                (self._full, full, is_full),
                (self._starved, starved, is_full and decided.was <= target.min),
            ):
                if not holds:
                    since.pop(target.key, None)
                gauge.set((sample.end - since.setdefault(target.key, sample.end)) / 1e9 if holds else 0)
