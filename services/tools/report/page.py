"""A report's page: the facts in sentences and tables, the plots, and everything they need, in one file."""

import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from services.tools.audit.auditor import Findings
from services.tools.common.formatting import (
    RULES,
    format_duration,
    format_pair,
    format_rate,
    format_rate_with_unit,
    short_name,
)
from services.tools.common.time_options import format_time
from services.tools.report.groups import group_domains
from services.tools.report.incidents import Incident
from services.tools.report.plots import build_figure, describe_plots
from services.tools.report.statistics import DomainStatistics, ReportStatistics

_PLOTS = 12
_WORST = 0.05
_SELDOM = 0.01
_OVERRUNS = 5
_INSTANCES = 10
"""Instances of a definition that are not folded."""


@dataclass(frozen=True)
class Heading:
    """What the page is about."""

    source: str
    """The recording's name, or the servers."""
    made: str
    """When the page was made, and by which build."""
    begin: int
    end: int
    """UTC ns."""


def render_page(statistics: ReportStatistics, findings: Findings, heading: Heading, problems: Sequence[str]) -> str:
    """Render the whole page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    filters: dict[str, Any] = {
        "format_time": format_time,
        "time_of_day": lambda ns: format_time(ns)[11:],
        "format_rate": format_rate,
        "format_rate_with_unit": format_rate_with_unit,
    }
    environment.filters |= filters | {"short_name": short_name, "format_duration": format_duration}
    template = importlib.resources.files("services.tools.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    domains = statistics.domains
    return environment.from_string(template).render(
        heading=heading,
        domains=domains,
        groups=group_domains(domains),
        worst_instances=_INSTANCES,
        plotted=domains[:_PLOTS],
        figures={one.name: Markup(build_figure(one)) for one in domains[:_PLOTS]},  # noqa: S704 - escaped for its place
        describe_plots=describe_plots,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
        findings=findings,
        statistics=statistics,
        problems=problems,
        rules=RULES,
        judge=judge,
        summarize=summarize,
        format_response=format_response,
        mean_sent=mean_sent,
        mean_limit=mean_limit,
        format_percentiles=format_percentiles,
        format_pair=format_pair,
    )


def judge(domains: Sequence[DomainStatistics]) -> tuple[str, str]:
    """Judge how it went: a class of the style sheet, and a sentence."""
    windows, broken, blind = (sum(getattr(one, name) for one in domains) for name in ("windows", "violated", "blind"))
    if windows == blind:
        return "unknown", "Nothing was measured"
    share = broken / (windows - blind)
    if broken == 0:
        return "good", "Latency stayed within its limits all the time"
    if share <= _SELDOM:
        return "good", "Latency was within its limits almost all the time"
    if share <= _WORST:
        return "fair", f"Latency was over its limits {share:.1%} of the time"
    return "bad", f"Latency was over its limits {share:.0%} of the time"


def summarize(one: DomainStatistics) -> Iterator[str]:
    """Summarize one domain in sentences for somebody who runs a plant."""
    fared = "The critical applications were within their latency limits in"
    if one.share_within is None:
        yield "No window had data, so nobody can say how the critical applications fared."
    elif not one.violated:
        yield f"{fared} all {one.windows - one.blind:,} windows."
    else:
        worst = one.broken.worst
        assert worst is not None
        often = f"{one.broken.count} time{'s' if one.broken.count > 1 else ''}"
        much = f", at worst {worst.worst:.1f} times the limit ({worst.what}, {format_time(worst.begin)[11:19]})"
        yield f"{fared} {one.share_within:.1%} of the windows; {often} they were not{much if worst.worst > 1 else ''}."
    if times := sorted(one.response_times):
        at_worst = f" (at worst {format_duration(times[-1])})" if len(times) > 1 else ""
        response = format_duration(round(median(times)))
        yield f"Lower bandwidth limits were in force {response} after the first measurement that showed it{at_worst}."
    sent, limit = mean_sent(one), mean_limit(one)
    if sent is not None:
        allowed = "" if limit is None else f", of {format_rate_with_unit(limit)} that they were allowed"
        if one.per_pod:
            targets = " and ".join(short_name(key) for key in sorted(one.per_pod))
            allowed = f"; the limit of {targets} holds for each pod"
        yield f"The best-effort applications sent {format_rate_with_unit(sent)} on average{allowed}."
    yield from _describe_link(one)
    yield from _describe_enforcement(one)
    if one.changed:
        failed = one.outcomes["failed"]
        minutes = (one.last - one.first) / 60e9
        pace = f", {one.changed / minutes:.0f} a minute" if minutes > 0 else ""
        patches = f"{failed:,} patches failed" if failed else "no patch failed"
        yield f"Limits moved {one.changed:,} times{pace}; {one.pods:,} pod annotations were written, and {patches}."
    if one.blind:
        yield f"In {one.blind:,} of {one.windows:,} windows there was no data; not knowing never raises a limit."


def _describe_link(one: DomainStatistics) -> Iterator[str]:
    """Describe what was learned of the bottleneck."""
    if one.safe.points:
        low, high = min(point.low for point in one.safe.points), max(point.high for point in one.safe.points)
        now, met = one.safe.points[-1].last, sum(one.lessons[lesson] for lesson in ("touched", "crossed", "fell"))
        text = f"The link was found to carry {format_rate_with_unit(now)} in all without a queue at the end"
        times = f"{met:,} time{'s' * (met != 1)}"
        yield f"{text} (from {format_rate(low)} to {format_rate(high)}); its end was met {times}."


def _describe_enforcement(one: DomainStatistics) -> Iterator[str]:
    """Describe which limits were not enforced, and which were filled."""
    for overrun, until in list(one.overruns.values())[-_OVERRUNS:]:
        much = f"{format_rate_with_unit(overrun.sent)}, over its limit of {format_rate_with_unit(overrun.limit)},"
        seconds = f"for {format_duration(until - overrun.since)} from {format_time(overrun.since)[11:19]}"
        cause = "unless that was UDP, which is counted before the limit"
        yield f"The limit of {short_name(overrun.target)} was not enforced: it sent {much} {seconds}, {cause}."
    for key, count in one.filled.items():
        if count:
            least = one.starved[key] / one.judged[key]
            minimum = f", and in {least:.0%} that was its minimum" if least >= _SELDOM else ""
            yield f"In {count / one.judged[key]:.0%} of the windows {short_name(key)} filled its limit{minimum}."


def mean_sent(*domains: DomainStatistics) -> float | None:
    """Return what all targets of these domains sent together on average, kbit/s."""
    known = [mean for one in domains if (mean := _sum_of_averages(one.goodput)) is not None]
    return sum(known) if known else None


def mean_limit(*domains: DomainStatistics) -> float | None:
    """Return the mean of all targets' limits together, kbit/s; None where one holds for each pod."""
    known = [mean for one in domains if (mean := _sum_of_averages(one.limits)) is not None]
    return sum(known) if known and not any(one.per_pod for one in domains) else None


def _sum_of_averages(curves: Any) -> float | None:
    averages = []
    for curve in curves.values():
        count = sum(point.count for point in curve.points)
        averages.append(sum(point.total for point in curve.points) / count)
    return sum(averages) if averages else None


def format_response(incident: Incident) -> str:
    """Format how long it took until a lower limit was in force."""
    return format_duration(incident.response) if incident.response is not None else "-"


def format_percentiles(times: Sequence[int]) -> tuple[str, str, str]:
    """Format median, 95th percentile and maximum of durations in ns."""
    if not times:
        return "-", "-", "-"
    ranked = sorted(times)
    return (
        format_duration(round(median(ranked))),
        format_duration(ranked[min(int(len(ranked) * 0.95), len(ranked) - 1)]),
        format_duration(ranked[-1]),
    )
