"""A report's page: the facts in sentences and tables, the plots, and everything they need, in one file."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from services.tools.audit.auditor import Findings
from services.tools.common.formatting import RULES, mbit, short
from services.tools.common.time_options import clock
from services.tools.report.incidents import Spell
from services.tools.report.plots import described, figure
from services.tools.report.statistics import DomainFacts, Facts

_PLOTS = 12
_WORST = 0.05
_SELDOM = 0.01


@dataclass(frozen=True)
class Told:
    """Where the facts come from."""

    source: str
    made: str
    """When, and by which build."""
    begin: int
    end: int
    """UTC ns."""


def page(facts: Facts, findings: Findings, told: Told, problems: Sequence[str]) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    filters: dict[str, Any] = {"clock": clock, "time": lambda ns: clock(ns)[11:], "mbit": mbit, "rate": rate}
    environment.filters |= filters | {"short": short, "span": span}
    template = importlib.resources.files("services.tools.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    domains = facts.domains
    return environment.from_string(template).render(
        told=told,
        domains=domains,
        plotted=domains[:_PLOTS],
        figures={one.name: Markup(figure(one)) for one in domains[:_PLOTS]},  # noqa: S704 - escaped for its place
        described=described,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
        findings=findings,
        facts=facts,
        problems=problems,
        rules=RULES,
        verdict=verdict,
        sentences=sentences,
        answer=answer,
        mean_sent=mean_sent,
        mean_limit=mean_limit,
        percentiles=percentiles,
    )


def verdict(domains: Sequence[DomainFacts]) -> tuple[str, str]:
    """How it went, in a word for the style sheet and in a sentence."""
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


def sentences(one: DomainFacts) -> list[str]:
    """One domain's summary for somebody who runs a plant."""
    return [text for text in (_within(one), _answered(one), _effort(one), _limits(one), _blind(one)) if text]


def _within(one: DomainFacts) -> str:
    if one.share_within is None:
        return "No window had data, so nobody can say how the critical applications fared."
    if not one.violated:
        return f"The critical applications were within their latency limits in all {one.windows - one.blind:,} windows."
    worst = one.broken.worst
    assert worst is not None
    spells = f"{one.broken.count} time{'s' if one.broken.count > 1 else ''}"
    much = f", at worst {worst.worst:.1f} times the limit ({worst.what}, {clock(worst.begin)[11:19]})"
    return (
        f"The critical applications were within their latency limits in {one.share_within:.1%} of the windows; "
        f"{spells} they were not{much if worst.worst > 1 else ''}."
    )


def _answered(one: DomainFacts) -> str:
    if not one.answered:
        return ""
    times = sorted(one.answered)
    return (
        f"Lower bandwidth limits were in force {span(round(median(times)))} after the first measurement that showed it"
        f"{f' (at worst {span(times[-1])})' if len(times) > 1 else ''}."
    )


def _effort(one: DomainFacts) -> str:
    sent, limit = mean_sent(one), mean_limit(one)
    if sent is None:
        return ""
    allowed = "" if limit is None else f", of {rate(limit)} that they were allowed"
    if one.per_pod:
        allowed = f"; the limit of {' and '.join(short(key) for key in sorted(one.per_pod))} holds for each pod"
    return f"The best-effort applications sent {rate(sent)} on average{allowed}."


def _limits(one: DomainFacts) -> str:
    if not one.changed:
        return ""
    failed = one.outcomes["failed"]
    how = f"{failed:,} patches failed" if failed else "no patch failed"
    minutes = (one.last - one.first) / 60e9
    pace = f", {one.changed / minutes:.0f} a minute" if minutes > 0 else ""
    return f"Limits moved {one.changed:,} times{pace}; {one.pods:,} pod annotations were written, and {how}."


def _blind(one: DomainFacts) -> str:
    if not one.blind:
        return ""
    return f"In {one.blind:,} of {one.windows:,} windows there was no data; not knowing never raises a limit."


def mean_sent(one: DomainFacts) -> float | None:
    """What all targets sent together, kbit/s."""
    return _mean(one.goodput)


def mean_limit(one: DomainFacts) -> float | None:
    """The limits of all targets together, kbit/s; None where one holds for each pod, and there is no such sum."""
    return None if one.per_pod else _mean(one.limits)


def rate(kbit: float | None) -> str:
    """A rate with its unit."""
    if kbit is None:
        return "-"
    return f"{kbit:.0f} kbit/s" if 0 < kbit < 1000 else f"{kbit / 1000:.1f} Mbit/s"


def _mean(curves: Any) -> float | None:
    means = []
    for curve in curves.values():
        count = sum(point.count for point in curve.points)
        means.append(sum(point.total for point in curve.points) / count)
    return sum(means) if means else None


def answer(spell: Spell) -> str:
    """How long it took until a lower limit was in force."""
    return span(spell.answered) if spell.answered is not None else "-"


def percentiles(times: Sequence[int]) -> tuple[str, str, str]:
    """Median, 95th percentile and maximum, for people."""
    if not times:
        return "-", "-", "-"
    ranked = sorted(times)
    return span(round(median(ranked))), span(ranked[min(int(len(ranked) * 0.95), len(ranked) - 1)]), span(ranked[-1])


def span(ns: int) -> str:
    """A stretch of time for people."""
    seconds = ns / 1e9
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
