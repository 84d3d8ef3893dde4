"""Throughput of workloads from the pages of a window: all pods of a workload, or nothing.

Pages come from exporters, or from the meters of all nodes.  Pure.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Protocol

from msgspec import Struct

from services.sampler.scrape.parser import CounterSeries, ScrapedPage
from services.sampler.scrape.window import Increase, PageWindow
from services.sampler.workloads import Parts, Workloads

ONE_PAGE = "seen on one page so far; a window needs two"
_NOT_COUNTED = "not counted anew within the window"


class PageSource(Protocol):
    """Whose pages are read."""

    url: str
    window: PageWindow
    page: ScrapedPage
    """The newest one."""


class Throughput(Struct, frozen=True):
    """What workloads sent in one window."""

    rates: dict[str, int]
    """kbit/s, over all pods."""
    recent: dict[str, int]
    """The same since the page before the last."""
    pods: dict[str, int]
    """How many pods ``rates`` covers."""
    missing: dict[str, str]
    """Why a workload is in none of these."""


def combine_pages(
    workloads: Workloads, answered: Collection[PageSource], unknown: Iterable[tuple[PageSource, str]], end: int
) -> Throughput:
    """Combine the pages of the window that ends at ``end``.

    Args:
        workloads: the configured ones.
        answered: whose newest page belongs to ``end``.
        unknown: why the pages of others, or too few of them, are not known.
        end: UTC ns.
    """
    missing: dict[str, str] = {}
    parts = workloads.parts
    for source, why in unknown:
        missing |= dict.fromkeys(source.window.workloads("throughput"), why)
        missing |= dict.fromkeys(source.page.unmetered, why)
    whole: list[tuple[CounterSeries, Increase]] = []
    recent: list[tuple[CounterSeries, Increase]] = []
    for source in answered:
        missing |= {key: f"{source.url}: {why}" for key, why in source.page.unmetered.items()}
        missing |= dict.fromkeys(source.page.unsettled, f"{source.url}: the page shows a series twice")
        present = source.window.workloads("throughput")
        for key in present:
            doubt = source.window.explain_unreliable("throughput", key, end)
            if doubt is not None:
                missing[key] = f"{source.url}: {doubt}"
        if present:
            whole += source.window.increases().items()
            recent += source.window.increases(2).items()
    missing = parts.expand_reasons(missing)
    whole, recent = by_part(whole, parts), by_part(recent, parts)
    rates, pods = measure_throughput(whole, missing)
    missing |= {key: _NOT_COUNTED for series, _ in whole if (key := series.workload) not in {*rates, *missing}}
    absent = set(workloads.measured_senders) - {*rates, *missing}
    missing |= dict.fromkeys(absent, "no page has a series of the throughput counter for it")
    return Throughput(rates, measure_throughput(recent, missing)[0], pods, missing)


def by_part(increases: Iterable[tuple[CounterSeries, Increase]], parts: Parts) -> list[tuple[CounterSeries, Increase]]:
    """The series by what they count for: one on a node may count for several, or for none any more."""
    increases = list(increases)
    if not parts.split:
        return increases
    return [
        (series._replace(workload=name), added) for series, added in increases for name in parts.expand(series.workload)
    ]


def measure_throughput(
    increases: Iterable[tuple[CounterSeries, Increase]], partly: Collection[str] = ()
) -> tuple[dict[str, int], dict[str, int]]:
    """Throughput (kbit/s) and number of pods by workload, over all its pods.

    Args:
        increases: of each series.
        partly: workloads with a pod that is not measured.  They are left out, and so are those with a pod
            without a new count.
    """
    rates: dict[str, float] = defaultdict(float)
    pods: dict[str, set[str]] = defaultdict(set)
    unknown = set(partly)
    for series, added in increases:
        if series.kind != "throughput":
            continue
        if added.seconds <= 0:
            unknown.add(series.workload)
            continue
        rates[series.workload] += added.counts[0] * 8 / 1000 / added.seconds
        for label, value in series.labels:
            if label == "pod":
                pods[series.workload].add(value)
    throughput = {key: round(rate) for key, rate in rates.items() if key not in unknown}
    return throughput, {key: len(pods[key]) for key in throughput if pods[key]}
