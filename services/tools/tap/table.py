"""The live table of ``sluice tap --live``: latency against its SLO, and what best effort gets, by domain."""

from collections.abc import Sequence

from rich import box, console
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from schemas.domain import Critical
from schemas.messages import CriticalMeasure
from services.tools.common.formatting import RULES, describe_outcome, format_ms, format_rate, per_pod_targets
from services.tools.tap.state import NEAR, BusStatus, DomainStatus, Group, State, group_instances
from services.tools.tap.view import HELP, LiveView

_BLOCKS = "▁▂▃▄▅▆▇█"
_LINES_AROUND = 6
_LEAST_PANEL = 4
"""Lines that any domain takes in full, at least."""
_GROUP_LINES = 4
"""Around the rows of the table of definitions."""
_COLOURS: dict[State, str] = {
    "broken": "red",
    "blind": "yellow",
    "silent": "yellow",
    "waiting": "yellow",
    "uncritical": "dim",
}
_WORDS: dict[State, str] = {
    "broken": "SLO broken",
    "near": "near their SLOs",
    "good": "within their SLOs",
    "uncritical": "without a critical Pod",
}
"""Where a state is not its own word."""
_WIDE = 130
_CURVE = 14
_LONGEST_NAME = 60


def build_table(
    status: BusStatus, now: float, size: tuple[int, int], failure: str | None, view: LiveView | None = None
) -> RenderableType:
    """Build the table of all domains: in full where they fit, otherwise one line each.

    Args:
        status: what is known.
        now: seconds by this process's clock.
        size: columns and lines there are.
        failure: why the bus cannot be read now.
        view: what a person chose to see; without it, all domains, the worst first.
    """
    width, height = size
    view = view or LiveView()
    domains = view.select(status, now)
    # A thousand panels that nobody sees would take seconds.
    fits = len(domains) * _LEAST_PANEL < height
    panels = [_build_panel(one, now, wide=width >= _WIDE) for one in domains] if fits else []
    body: list[RenderableType] = [panel for panel, _ in panels]
    if not fits or sum(lines for _, lines in panels) + 1 > height:
        body = _build_overview(domains, now, height)
    if view.help:
        keys = Table.grid(padding=(0, 2))
        for key, meaning in HELP:
            keys.add_row(Text(key, style="bold"), meaning)
        body.insert(0, Panel(keys, title="Keys", title_align="left", border_style="cyan"))
    elif not domains and status.domains:
        body = [Text("no domain passes the filter", style="yellow")]
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in status.counts.items() if kind != "dead")
    foot = Text(f"{counts}   ", style="dim")
    if status.dead is not None:
        foot.append(f"{status.counts['dead']:,} put aside, last: {status.dead.reason}   ", style="yellow")
    foot.append(failure or view.describe(), style="bold red" if failure else "dim")
    return console.Group(*body, foot)


def _describe_state(one: DomainStatus, now: float) -> tuple[str, str]:
    """Describe a domain's state in a few words, with its colour."""
    state = one.judge(now)
    words = {
        "waiting": "nothing decided yet",
        "silent": f"silent for {now - one.seen:.0f} s",
        "broken": "SLO broken",
        "blind": "blind",
        "uncritical": "no critical Pod",
    }
    return words.get(state, "within its SLOs"), _COLOURS.get(state, "green")


def _build_overview(domains: Sequence[DomainStatus], now: float, height: int) -> list[RenderableType]:
    """Build one line for each definition with instances, and below it one for each domain while there is room."""
    groups = [group for group in group_instances(domains, now) if group.size > 1]
    # The worst instances matter more than the last definitions.
    kept = groups[: max((height - _LINES_AROUND - _GROUP_LINES) // 3, 0)]
    shown = max(height - _LINES_AROUND - (len(kept) + _GROUP_LINES if kept else 0), 1)
    body: list[RenderableType] = [_build_group_table(kept)] if kept else []
    body.append(_build_compact_table(domains[:shown], now))
    if len(domains) > shown:
        body.append(Text(f"and {len(domains) - shown} more domains in no worse state", style="dim"))
    return body


def _build_group_table(groups: Sequence[Group]) -> Table:
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    found.add_column("definition", no_wrap=True, overflow="ellipsis", max_width=_LONGEST_NAME)
    for column in ("instances", "worst", "limits", "goodput"):
        found.add_column(column, no_wrap=True, justify="right")
    found.add_column("how they fare", no_wrap=True, overflow="ellipsis", ratio=1)
    for group in groups:
        states = [
            Text(f"{count:,} {_WORDS.get(state, state)}", style=_COLOURS.get(state, "green"))
            for state, count in group.counts.items()
        ]
        stress = group.worst.decision.stress if group.worst.decision else None
        found.add_row(
            group.definition,
            f"{group.size:,}",
            "-" if stress is None else f"{stress:.2f}",
            "per pod" if per_pod_targets(group.worst.domain) else format_rate(group.limit),
            format_rate(group.sent),
            Text(", ").join(states),
        )
    return found


def _build_panel(one: DomainStatus, now: float, *, wide: bool) -> tuple[Panel, int]:
    """Build one domain in full; return it and the lines it takes."""
    state, colour = _describe_state(one, now)
    halves = (_build_critical_table(one), _build_target_table(one))
    rows: list[RenderableType] = list(halves)
    lines = sum(half.row_count + 1 for half in halves)
    if wide:
        grid = Table.grid(expand=True, padding=(0, 3))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*halves)
        rows, lines = [grid], max(half.row_count + 1 for half in halves)
    if one.decision is not None:
        rows.append(Text(_describe_reason(one), style="italic", overflow="ellipsis", no_wrap=True))
    # A long name would push the state out.
    name = one.name if len(one.name) <= _LONGEST_NAME else f"{one.name[: _LONGEST_NAME - 1]}…"
    title = Text.assemble((name, "bold"), "  ", (state, colour))
    broken = f"{one.violated:,} of {one.samples:,} windows broke an SLO, {one.blind:,} blind"
    panel = Panel(console.Group(*rows), title=title, title_align="left", subtitle=broken, subtitle_align="right")
    return panel, lines + (one.decision is not None) + 2


def _describe_reason(one: DomainStatus) -> str:
    assert one.decision is not None
    rules = dict.fromkeys(target.rule for target in one.decision.targets if target.rule != "none")
    shield = f"; shield: {', '.join(RULES[rule] for rule in rules)}" if rules else ""
    return f"{one.decision.policy}: {one.decision.reason}{shield}"


def _build_critical_table(one: DomainStatus) -> Table:
    found = _new_table(("critical", 8), ("jitter/SLO", 10), ("P95/SLO ms", 10), ("", _CURVE), ("lost", 4), ("seen", 4))
    slos = {critical.key: critical for critical in one.domain.critical} if one.domain else {}
    curve = _draw_curve(list(one.stress.values)[-_CURVE:], 1.0)
    for measure in one.measures():
        slo = slos.get(measure.workload)
        lost = Text("-" if measure.lost is None else f"{measure.lost:g}", style="red" if measure.lost else "")
        if measure.missing is not None:
            figures = [Text(measure.missing, style="yellow"), Text("")]
        else:
            figures = [_format_against_slo(measure, slo, "jitter"), _format_against_slo(measure, slo, "p95")]
        found.add_row(_short_name(measure.workload), *figures, curve, lost, str(measure.observations))
        curve = Text("")
    return found


def _short_name(key: str) -> str:
    """Leave out the namespace: the domain implies it."""
    return key.rpartition("/")[2]


def _format_against_slo(measure: CriticalMeasure, slo: Critical | None, figure: str) -> Text:
    value: float | None = getattr(measure, figure)
    if slo is None or value is None:
        return Text(format_ms(value))
    most = getattr(slo, figure) / 1e9
    colour = "red" if value > most else "yellow" if value > NEAR * most else "green"
    return Text.assemble((f"{format_ms(value):>5}", colour), f" / {format_ms(most)}")


def _build_target_table(one: DomainStatus) -> Table:
    found = _new_table(("best effort", 8), ("limit", 6), ("", _CURVE), ("goodput", 7), ("last action", 8))
    bounds = {target.key: target for target in one.domain.targets} if one.domain else {}
    each = per_pod_targets(one.domain)
    for key in one.targets():
        series = one.limits.get(key)
        values = list(series.values)[-_CURVE:] if series else []
        most = max([value for value in values if value is not None], default=1)
        curve = _draw_curve(values, float(bounds[key].max) if key in bounds else most)
        action = one.actions.get(key)
        outcome = Text("-", style="dim")
        if action is not None:
            colour = {"applied": "green", "unchanged": "dim", "failed": "red"}.get(action.outcome, "yellow")
            cause = "" if action.cause == "decision" else f"{action.cause}: "
            outcome = Text(cause + describe_outcome(action), style=colour)
        limit = format_rate(values[-1]) + ("/pod" if key in each else "") if values else "-"
        found.add_row(_short_name(key), limit, curve, format_rate(one.throughput(key)), outcome)
    return found


def _new_table(*columns: tuple[str, int]) -> Table:
    """Build a table without lines, whose columns have these least widths."""
    found = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for column, width in columns:
        found.add_column(column, no_wrap=True, overflow="ellipsis", min_width=width)
    return found


def _build_compact_table(domains: Sequence[DomainStatus], now: float) -> Table:
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for column in ("domain", "state", "latency / SLO", "", "limit", "goodput"):
        found.add_column(column, no_wrap=True)
    found.add_column("last reason", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in domains:
        state, colour = _describe_state(one, now)
        stress = one.decision.stress if one.decision else None
        found.add_row(
            one.name,
            Text(state, style=colour),
            "-" if stress is None else f"{stress:.2f}",
            _draw_curve(list(one.stress.values)[-20:], 1.0),
            "per pod" if per_pod_targets(one.domain) else format_rate(one.limit),
            format_rate(one.sent),
            _describe_reason(one) if one.decision else "",
        )
    return found


def _draw_curve(values: Sequence[float | None], full: float) -> Text:
    """Draw a small curve: red above ``full``, a dot where there is no value."""
    curve = Text()
    for value in values:
        if value is None:
            curve.append("·", style="yellow")
        else:
            level = min(int(value / full * (len(_BLOCKS) - 1)), len(_BLOCKS) - 1) if full else 0
            curve.append(_BLOCKS[max(level, 0)], style="red" if value > full else "cyan")
    return curve
