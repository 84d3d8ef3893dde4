"""The sampler's own metrics on ``/metrics``."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

samples = Counter(
    "sluice_sampler_samples",
    "Windows sampled, by whether control can act on them: data, blind; uncritical where no critical Pod is.",
    ["domain", "outcome"],
)
dropped = Counter("sluice_sampler_dropped", "Samples given up because the bus did not take them in time.", ["domain"])
skipped = Counter("sluice_sampler_skipped_windows", "Windows not measured because the one before took too long.")
measuring = Histogram(
    "sluice_sampler_measure_seconds",
    "How long the source took to measure one window.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
delay = Histogram(
    "sluice_sampler_delay_seconds",
    "From the end of the window to the bus's acknowledgement.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
acknowledged = Gauge("sluice_sampler_window_end_seconds", "End of the last window acknowledged by the bus.", ["domain"])
observations = Gauge("sluice_sampler_observations", "Latencies in the last window.", ["workload"])
latency = Gauge("sluice_sampler_latency_seconds", "In the last window; NaN without data.", ["workload", "figure"])


def forget_workloads(keys: Iterable[str]) -> None:
    """Show critical workloads no longer."""
    for key in keys:
        for gauge, labels in ((observations, [key]), (latency, [key, "jitter"]), (latency, [key, "p95"])):
            gauge.remove(*labels)
