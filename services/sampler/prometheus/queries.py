"""The PromQL queries: one per figure, for all workloads of all domains at once.

A text in ``signal.prometheus.queries`` replaces the default below.  It may use the same placeholders (a
plain dollar sign is written ``$$``), and must keep the labels that ``$by`` names; ``throughput`` must keep
those that tell workloads apart.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from string import Template
from typing import NamedTuple

from schemas.config import Figure, Signal
from services.sampler.workloads import SENDER_NODE, PlacedParts, Workloads, is_plain

_BUCKETS = "sum by ($by, le) (rate(${metric}_bucket{$select}[$window]))"

_DOUBTS: tuple[Figure, ...] = ("resets", "returns", "appeared")
"""They are about what the built-in ``observations`` counts."""

DEFAULTS: dict[Figure, str] = {
    "jitter": f"histogram_quantile(0.75, {_BUCKETS}) - histogram_quantile(0.25, {_BUCKETS})",
    "p95": f"histogram_quantile(0.95, {_BUCKETS})",
    "observations": "sum by ($by) (increase(${metric}_count{$select}[$window]))",
    "scraped": "min by ($by) (timestamp(${metric}_count{$select}))",
    "buckets": "count by ($by, le) (${metric}_bucket{$select})",
    "resets": "sum by ($by) (resets(${metric}_bucket{$select}[$window]))",
    "returns": (
        "max by ($by) (resets(${metric}_count{$select}[$long]) "
        "* (1 + (${metric}_count{$select} >= bool max_over_time(${metric}_count{$select}[$long]))))"
    ),
    "appeared": (
        "sum by ($by) (min_over_time(${metric}_count{$select}[$window]) unless ${metric}_count{$select} offset $window)"
    ),
    "lost": "sum by ($by) (increase(${lost}{$select}[$window]))",
    "throughput": "sum by ($sent_by) (rate(${throughput}{$senders}[$window]))",
}
"""``scraped`` is when each workload was last scraped, Unix seconds; throughput is in bytes a second.

``resets`` is how often a bucket fell in the window.  ``returns`` is how often a count fell in ten windows, twice as
much where it is back at the greatest height of these.  ``appeared`` is what new series had counted when they were first
scraped, which no rate shows.  See `counter_doubts`.
"""

_LONG = 10
"""Windows for which a counter that fell is watched: coming back to its height, it never restarted."""
_REQUIRED: tuple[Figure, ...] = ("jitter", "p95", "observations")


class QueryPart(NamedTuple):
    """A query on some of the workloads."""

    text: str
    keys: frozenset[str] | None = None
    """The critical workloads that it is about, of throughput the namespaces; None: all."""


def split_query(figure: Figure, signal: Signal, workloads: Workloads, fits: Callable[[str], bool]) -> list[QueryPart]:
    """Split a figure's query into parts that are short enough, each on some of the workloads.

    A part that cannot be split any more may still be too long.

    Args:
        figure: whose query.
        signal: has the texts.
        workloads: all of them.
        fits: whether a text is short enough.
    """
    of_namespaces = figure == "throughput"
    keys = workloads.critical
    if of_namespaces:
        keys = tuple(dict.fromkeys(key.partition("/")[0] for key in workloads.senders))

    def split(chosen: tuple[str, ...]) -> list[QueryPart]:
        some = {"namespaces": chosen} if of_namespaces else {"critical": chosen}
        text = build_queries(signal, workloads, **some)[figure]
        if fits(text) or len(chosen) == 1:
            return [QueryPart(text, frozenset(chosen))]
        half = len(chosen) // 2
        return split(chosen[:half]) + split(chosen[half:])

    parts = split(keys)
    # A text of one's own that names no workload stays the same.
    return (
        parts
        if len({part.text for part in parts}) == len(parts)
        else [QueryPart(build_queries(signal, workloads)[figure])]
    )


def build_queries(
    signal: Signal,
    workloads: Workloads,
    *,
    critical: Collection[str] | None = None,
    namespaces: Collection[str] | None = None,
) -> dict[Figure, str]:
    """The PromQL of each figure; a figure that nothing measures has none.

    Args:
        signal: has the texts.
        workloads: all of them.
        critical: ask for these critical workloads only.
        namespaces: ask for senders in these namespaces only.

    Raises:
        ValueError: a text has an unknown placeholder, or a required figure is switched off; names the figure.
    """
    names = workloads.names
    texts: dict[Figure, str] = {**DEFAULTS, **signal.prometheus.queries}
    if not names.lost and "lost" not in signal.prometheus.queries:
        texts["lost"] = ""
    if not names.throughput and "throughput" not in signal.prometheus.queries:
        texts["throughput"] = ""
    if "observations" in signal.prometheus.queries:
        texts |= {figure: signal.prometheus.queries.get(figure, "") for figure in _DOUBTS}
    # Only the critical workloads' series: a cluster may have thousands of others.
    keys = [key.partition("/") for key in (workloads.critical if critical is None else critical)]
    if not is_plain(names.metric) and any(figure not in signal.prometheus.queries for figure in texts if texts[figure]):
        raise ValueError(f"signal.metric: {names.metric!r} needs quotation marks: give signal.prometheus.queries")
    values = {
        "metric": names.metric,
        "lost": names.lost,
        "throughput": names.throughput,
        "window": f"{signal.window // 1_000_000}ms",
        "long": f"{_LONG * signal.window // 1_000_000}ms",
        **_select_series(workloads, keys, namespaces),
    }
    queries: dict[Figure, str] = {}
    for figure, text in texts.items():
        if not text and figure in _REQUIRED:
            raise ValueError(f"query {figure!r}: cannot be empty, no sample can do without it")
        try:
            queries[figure] = Template(text).substitute(values)
        except (KeyError, ValueError) as error:
            known = ", ".join(f"${name}" for name in values)
            raise ValueError(f"query {figure!r}: unknown placeholder: {error}; there are {known}") from None
    return {figure: query for figure, query in queries.items() if query}


def _select_series(
    workloads: Workloads, keys: Sequence[tuple[str, str, str]], namespaces: Collection[str] | None
) -> dict[str, str]:
    """The placeholders that say which series are asked for, and by which labels they are added up."""
    names = workloads.names
    matchers = [f"{_name(label)}={_quote(value)}" for label, value in names.matchers.items()]
    if names.namespace:
        matchers.append(_match_any(names.namespace, (namespace for namespace, _, _ in keys)))
    matchers.append(_match_any(names.workload, (name for _, _, name in keys)))
    senders = _match_any("namespace", namespaces or (key.partition("/")[0] for key in workloads.senders))
    if names.interface:
        # A counter without interfaces has none of another name.
        senders += f",interface=~{_quote(re.escape(names.interface) + '|')}"
    by, sent_by = [names.namespace, names.workload], ["namespace", "pod", "workload"]
    if isinstance(workloads.parts, PlacedParts):
        matchers.append(_match_any(names.node, workloads.parts.nodes))
        senders += f",{_match_any(SENDER_NODE, workloads.parts.nodes)}"
        if workloads.parts.are_single:
            by.append(names.node)
            sent_by.append(SENDER_NODE)
    return {
        "by": ", ".join(_name(label) for label in by if label),
        "sent_by": ", ".join(sent_by),
        "select": ",".join(matchers),
        "senders": senders,
    }


def _match_any(label: str, values: Iterable[str]) -> str:
    return f"{_name(label)}=~{_quote('|'.join(re.escape(value) for value in sorted(set(values))))}"


def _name(label: str) -> str:
    """A label's name; in quotation marks where it needs them, as Prometheus 3 takes them."""
    return label if is_plain(label) and ":" not in label else _quote(label)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
