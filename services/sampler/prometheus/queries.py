"""What Prometheus is asked: one PromQL text per figure, for all workloads of all domains at once.

A text in ``signal.prometheus.queries`` takes the place of the one below.  It may use the same
placeholders (a plain dollar sign is written ``$$``), and must keep the labels that ``$by`` names,
throughput those that the throughput counter names.
"""

import re
from collections.abc import Iterable
from string import Template

from schemas.config import Figure, Signal
from services.sampler.workloads import Workloads

_BUCKETS = "sum by ($by, le) (rate(${metric}_bucket{$select}[$window]))"

DEFAULTS: dict[Figure, str] = {
    "jitter": f"histogram_quantile(0.75, {_BUCKETS}) - histogram_quantile(0.25, {_BUCKETS})",
    "p95": f"histogram_quantile(0.95, {_BUCKETS})",
    "observations": "sum by ($by) (increase(${metric}_count{$select}[$window]))",
    "scraped": "min by ($by) (timestamp(${metric}_count{$select}))",
    "buckets": "count by ($by, le) (${metric}_bucket{$select})",
    "lost": "sum by ($by) (increase(${lost}{$select}[$window]))",
    "throughput": "sum by (namespace, pod, workload) (rate(${throughput}{$senders}[$window]))",
}
"""``scraped`` is when each workload was last scraped, Unix seconds; throughput is in bytes a second."""

_NEEDED: tuple[Figure, ...] = ("jitter", "p95", "observations")


def queries_of(signal: Signal, workloads: Workloads) -> dict[Figure, str]:
    """The queries that this signal asks; a figure that nothing measures has none.

    Raises:
        ValueError: a text has a placeholder that there is none for, or a figure that no sample can
            do without is switched off; names the figure.
    """
    names = workloads.names
    texts: dict[Figure, str] = {**DEFAULTS, **signal.prometheus.queries}
    if not names.lost and "lost" not in signal.prometheus.queries:
        texts["lost"] = ""
    if not names.throughput and "throughput" not in signal.prometheus.queries:
        texts["throughput"] = ""
    values = {
        "metric": names.metric,
        "lost": names.lost,
        "throughput": names.throughput,
        "window": f"{signal.window // 1_000_000}ms",
        "by": ", ".join(filter(None, (names.namespace, names.workload))),
        "select": _select(workloads),
        "senders": _matcher("namespace", (key.partition("/")[0] for key in workloads.senders)),
    }
    for figure in _NEEDED:
        if not texts[figure]:
            raise ValueError(f"query {figure!r}: cannot be empty, no sample can do without it")
    return {figure: _fill(figure, text, values) for figure, text in texts.items() if text}


def _fill(figure: Figure, text: str, values: dict[str, str]) -> str:
    try:
        return Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${name}" for name in values)
        raise ValueError(f"query {figure!r}: unknown placeholder: {error}; there are {known}") from None


def _select(workloads: Workloads) -> str:
    """Only the series of the critical workloads: elsewhere in the cluster there may be thousands."""
    names = workloads.names
    keys = [key.partition("/") for key in workloads.critical]
    matchers = [f"{label}={_quoted(value)}" for label, value in names.matchers.items()]
    if names.namespace:
        matchers.append(_matcher(names.namespace, (namespace for namespace, _, _ in keys)))
    matchers.append(_matcher(names.workload, (name for _, _, name in keys)))
    return ",".join(matchers)


def _matcher(label: str, values: Iterable[str]) -> str:
    return f"{label}=~{_quoted('|'.join(re.escape(value) for value in sorted(set(values))))}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
