"""What the page's JSON API takes and gives.  ``openapi.py`` makes its document from these types.

Times are milliseconds since 1970 in UTC, latencies milliseconds, rates kbit/s.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

State = Literal["broken", "unenforced", "blind", "silent", "paused", "waiting", "near", "good", "uncritical"]
"""How a domain fares, the most urgent first.  The last one: no critical Pod is there, so nothing can be measured."""
SeriesKind = Literal["p95", "jitter", "limit", "sent", "safe", "expected", "shadow"]
MarkKind = Literal["raise", "lower", "cut", "no-data", "fault", "applied", "failed", "autonomous", "paused"]
Text = Annotated[str, Meta(max_length=4096)]
Milliseconds = Annotated[float, Meta(ge=0, le=4.6e12)]


class ApiView(Struct, frozen=True, omit_defaults=True, gc=False):
    """The base of all answers."""


class Problem(ApiView, frozen=True):
    """Why a request was not answered."""

    error: str
    """In words."""


class LatencyView(ApiView, frozen=True):
    """The figure of a critical workload that is closest to its objective, or beyond it."""

    workload: str
    """``namespace/workload``."""
    value: float
    """Milliseconds."""
    objective: float | None = None
    """Milliseconds; absent where the configuration is not known."""


class TargetView(ApiView, frozen=True):
    """One best-effort target now."""

    target: str
    """``namespace/deployment``."""
    limit: int | None = None
    """What was decided, kbit/s."""
    sent: int | None = None
    """What it sent, kbit/s."""
    per_pod: bool = False
    """Whether the limit holds for each pod."""
    in_charge: str = ""
    """Who sets the limit: the policy, the fail-safe limit, or somebody else."""
    paused: bool = False
    """Whether somebody else's value is in force."""
    note: str = ""
    """Why it is paused, failed, or not enforced."""


class TrailPoint(Struct, frozen=True, array_like=True, gc=False):
    """One window in a small curve."""

    time: float
    stress: float | None
    """The worst ratio of a latency figure to its objective."""
    limit: float | None
    """Of all targets together, kbit/s."""
    sent: float | None
    """By all targets together, kbit/s."""


class DomainView(ApiView, frozen=True):
    """One domain now."""

    name: str
    state: State
    reason: str
    """Why it is in this state; and what the policy made of the last sample."""
    time: float = 0
    """End of the last window, ms."""
    stress: float | None = None
    """The worst ratio of a latency figure to its objective."""
    p95: LatencyView | None = None
    jitter: LatencyView | None = None
    limit: int | None = None
    """Of all targets together, kbit/s; absent where one holds for each pod."""
    sent: int | None = None
    """By all targets together, kbit/s."""
    headroom: int | None = None
    """What the policy takes the bottleneck to leave for best effort, kbit/s."""
    policy: str = ""
    """Name and version."""
    in_charge: str = ""
    targets: list[TargetView] = []
    trail: list[TrailPoint] = []
    """The last windows; only in the whole overview, not in its updates."""


class SourceView(ApiView, frozen=True):
    """Where messages come from: the bus, or a recording."""

    id: str
    """``live``, or the id of a recording."""
    title: str
    begin: float | None = None
    """The first message that is still there, ms."""
    end: float | None = None
    messages: int | None = None
    problems: list[str] = []
    """What could not be read of a recording."""


class Overview(ApiView, frozen=True):
    """All domains, the worst first."""

    source: SourceView
    now: float
    """The server's clock, or the time that was asked for; ms."""
    domains: list[DomainView]
    failure: str | None = None
    """Why the bus cannot be read now."""
    counts: dict[str, int] = {}
    """Domains by state."""


class CriticalSettings(ApiView, frozen=True):
    """A critical workload and its objectives, ms."""

    workload: str
    p95: float
    jitter: float


class TargetSettings(ApiView, frozen=True):
    """A target and its bounds, kbit/s."""

    target: str
    min: int
    max: int
    fail_safe: int
    per_pod: bool = False


class DomainSettings(ApiView, frozen=True):
    """A domain's configuration."""

    policy: str
    critical: list[CriticalSettings]
    targets: list[TargetSettings]
    parameters: dict[str, Any] = {}
    shadow: list[str] = []
    capacity: int | None = None
    """kbit/s."""


class Series(ApiView, frozen=True):
    """One curve: ``v[i]`` at ``t[i]``."""

    kind: SeriesKind
    name: str
    """The workload, the target, or the shadow policy."""
    t: list[float]
    v: list[float | None]
    """Milliseconds for ``p95`` and ``jitter``, kbit/s for the others."""


class Span(ApiView, frozen=True):
    """A stretch of time in which an objective was broken, or nothing was known."""

    begin: float
    end: float
    what: str
    """The figure, or the reason."""
    worst: float = 0
    """The largest ratio of a figure to its objective."""


class LimitMark(ApiView, frozen=True):
    """A decision that moved a limit, or an action."""

    t: float
    kind: MarkKind
    id: str
    """Of the decision or the action."""
    target: str
    limit: int
    """kbit/s."""
    text: str
    """In words."""


class DomainHistory(ApiView, frozen=True):
    """One domain over a stretch of time."""

    name: str
    series: list[Series]
    broken: list[Span]
    blind: list[Span]
    marks: list[LimitMark]
    begin: float = 0
    end: float = 0
    settings: DomainSettings | None = None
    """Absent where the configuration is not known, and in updates."""
    now: DomainView | None = None
    """The domain at the end of that time."""
    rough: bool = False
    """Whether these are a few windows of many: what lies between them, such as a broken objective, is left out."""


class ActionView(ApiView, frozen=True):
    """One action, as the search finds it."""

    t: float
    id: str
    domain: str
    target: str
    cause: str
    outcome: str
    limit: int
    reason: str
    was: int | None = None
    decision: str | None = None
    """Id of its decision."""
    pods: int = 0


class Actions(ApiView, frozen=True):
    """What a search found, the newest first."""

    actions: list[ActionView]
    searched: int
    """How many actions there were in that time."""
    more: bool = False
    """Whether older ones were left out."""


class Link(ApiView, frozen=True):
    """A message that belongs to a story."""

    kind: Literal["sample", "decision", "action"]
    id: str
    title: str
    json: str
    """The message's bytes as text: their integers are too long for JavaScript."""
    t: float


class Story(ApiView, frozen=True):
    """Sample, decision and actions that belong together, in ``sluice explain``'s words."""

    domain: str
    title: str
    lines: list[str]
    links: list[Link]
    decision: str | None = None
    previous: str | None = None
    """Id of the decision before."""
    next: str | None = None
    """Id of the decision after."""
    t: float = 0


class PolicyView(ApiView, frozen=True):
    """A policy that a what-if may choose."""

    name: str
    version: str
    parameters: dict[str, Any]
    """With their defaults."""
    meanings: dict[str, str] = {}
    """What each parameter is for."""


class Policies(ApiView, frozen=True):
    """All policies."""

    policies: list[PolicyView]


class Sources(ApiView, frozen=True):
    """The bus and all recordings that the page can show."""

    sources: list[SourceView]
    uploads: bool
    """Whether a recording may be sent."""
    largest: int
    """Bytes of a recording that may be sent."""
    build: str
    """Version of Sluice."""


class Objective(ApiView, frozen=True, forbid_unknown_fields=True):
    """Other objectives for a critical workload, ms."""

    workload: Text
    p95: Annotated[float, Meta(gt=0, le=60_000)] | None = None
    jitter: Annotated[float, Meta(gt=0, le=60_000)] | None = None


class WhatIf(ApiView, frozen=True, forbid_unknown_fields=True):
    """What would another policy have decided on the samples of that time?"""

    domain: Text
    source: Text = "live"
    since: Milliseconds | None = None
    until: Milliseconds | None = None
    policy: Text | None = None
    """Name; the recorded one without it."""
    parameters: dict[str, Any] = {}
    objectives: Annotated[list[Objective], Meta(max_length=256)] = []


class PolicyFigures(ApiView, frozen=True):
    """What one policy set; rates are sums over the targets, kbit/s."""

    title: str
    samples: int
    broken: int
    """Windows in which an objective was broken: a fact of the record, by the objectives asked for."""
    blind: int
    mean: float | None
    lowest: int | None
    highest: int | None
    changes: int
    cuts: int
    shielded: int
    above: float | None = None
    """Share of the samples on which its limits were above the recorded ones."""
    below: float | None = None


class WhatIfAnswer(ApiView, frozen=True):
    """The limits that would have been set, beside those that were."""

    policy: str
    recorded: list[Series]
    """By target."""
    replayed: list[Series]
    measured: list[Series]
    """P95 and jitter, as they were."""
    figures: list[PolicyFigures]
    objectives: list[CriticalSettings]
    broken: list[Span]
    """By the objectives asked for."""
    caveat: str
    """What a replay cannot know."""
    took: float
    """Seconds."""


class OverviewUpdate(ApiView, frozen=True):
    """An event ``overview``: the domains that changed since the last one."""

    now: float
    published: float
    """When the bus stored the oldest message in it, ms; 0 where no message made the change."""
    domains: list[DomainView]
    failure: str | None = None
    removed: list[str] = []
    """Domains that are defined no more."""


class HistoryUpdate(ApiView, frozen=True):
    """An event ``history``: what is new of the domain that the page shows."""

    now: float
    published: float
    """As in ``OverviewUpdate``."""
    history: DomainHistory
