"""The live table of ``sluice tap --live``: latency against its SLO, and what best effort gets, by domain."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from schemas.domain import Critical, Target
from schemas.messages import Action, CriticalMeasure
from services.tools.common.formatting import RULES, mbit, ms, per_pod, pods_told
from services.tools.tap.state import NEAR, DomainView, View

_BLOCKS = "▁▂▃▄▅▆▇█"
_SILENT_S = 5.0
_LINES_AROUND = 6
_WIDE = 130
_CURVE = 14


def table(view: View, now: float, size: tuple[int, int], trouble: str | None) -> RenderableType:
    """All domains: in full where they fit, otherwise one line each.

    Args:
        view: what is known.
        now: seconds by this process's clock.
        size: columns and lines there are.
        trouble: why the bus cannot be read at the moment.
    """
    width, height = size
    domains = view.worst_first()
    panels = [_panel(one, now, wide=width >= _WIDE) for one in domains]
    body: list[RenderableType] = [panel for panel, _ in panels]
    if sum(lines for _, lines in panels) + 1 > height:
        shown = max(height - _LINES_AROUND, 1)
        body = [_compact(domains[:shown], now)]
        if len(domains) > shown:
            body.append(Text(f"and {len(domains) - shown} more domains that stand no worse", style="dim"))
    return Group(*body, _foot(view, trouble))


def _foot(view: View, trouble: str | None) -> Text:
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in view.counts.items() if kind != "dead")
    foot = Text(f"{counts}   ", style="dim")
    if view.dead is not None:
        foot.append(f"{view.counts['dead']:,} put aside, last: {view.dead.reason}   ", style="yellow")
    foot.append(trouble or "Ctrl-C ends", style="bold red" if trouble else "dim")
    return foot


def _state(one: DomainView, now: float) -> tuple[str, str]:
    """How a domain stands, in a word, and its colour."""
    if one.decision is None:
        return "nothing decided yet", "yellow"
    if now - one.seen > _SILENT_S:
        return f"silent for {now - one.seen:.0f} s", "yellow"
    if one.decision.violated:
        return "SLO broken", "red"
    if one.decision.stress is None:
        return "blind", "yellow"
    return "within its SLOs", "green"


def _panel(one: DomainView, now: float, *, wide: bool) -> tuple[Panel, int]:
    """One domain in full, and how many lines that takes."""
    state, colour = _state(one, now)
    halves = (_critical(one), _effort(one))
    rows: list[RenderableType] = list(halves)
    lines = sum(half.row_count + 1 for half in halves)
    if wide:
        grid = Table.grid(expand=True, padding=(0, 3))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*halves)
        rows, lines = [grid], max(half.row_count + 1 for half in halves)
    if one.decision is not None:
        rows.append(Text(_reason(one), style="italic", overflow="ellipsis", no_wrap=True))
    title = Text.assemble((one.name, "bold"), "  ", (state, colour))
    broken = f"{one.violated:,} of {one.samples:,} windows broke an SLO, {one.blind:,} blind"
    panel = Panel(Group(*rows), title=title, title_align="left", subtitle=broken, subtitle_align="right")
    return panel, lines + (one.decision is not None) + 2


def _reason(one: DomainView) -> str:
    assert one.decision is not None
    rules = dict.fromkeys(target.rule for target in one.decision.targets if target.rule != "none")
    shield = f"; shield: {', '.join(RULES[rule] for rule in rules)}" if rules else ""
    return f"{one.decision.policy}: {one.decision.reason}{shield}"


def _critical(one: DomainView) -> Table:
    found = _plain(("critical", 8), ("jitter/SLO", 10), ("P95/SLO ms", 10), ("", _CURVE), ("lost", 4), ("seen", 4))
    slos = {critical.key: critical for critical in one.domain.critical} if one.domain else {}
    curve = _curve(list(one.stress.values)[-_CURVE:], 1.0)
    for measure in one.measures():
        slo = slos.get(measure.workload)
        lost = Text("-" if measure.lost is None else f"{measure.lost:g}", style="red" if measure.lost else "")
        if measure.missing is not None:
            figures = [Text(measure.missing, style="yellow"), Text("")]
        else:
            figures = [_against(measure, slo, "jitter"), _against(measure, slo, "p95")]
        found.add_row(_name(measure.workload), *figures, curve, lost, str(measure.observations))
        curve = Text("")
    return found


def _name(key: str) -> str:
    """Without the namespace: the domain tells where."""
    return key.rpartition("/")[2]


def _against(measure: CriticalMeasure, slo: Critical | None, figure: str) -> Text:
    value: float | None = getattr(measure, figure)
    if slo is None or value is None:
        return Text(ms(value))
    most = getattr(slo, figure) / 1e9
    colour = "red" if value > most else "yellow" if value > NEAR * most else "green"
    return Text.assemble((f"{ms(value):>5}", colour), f" / {ms(most)}")


def _effort(one: DomainView) -> Table:
    found = _plain(("best effort", 8), ("limit", 6), ("", _CURVE), ("goodput", 7), ("last action", 8))
    bounds = {target.key: target for target in one.domain.targets} if one.domain else {}
    each = per_pod(one.domain)
    for key in one.targets():
        series = one.limits.get(key)
        values = list(series.values)[-_CURVE:] if series else []
        curve = _curve(values, _most(bounds.get(key), values))
        action = one.actions.get(key)
        told = Text("-", style="dim")
        if action is not None:
            colour = {"applied": "green", "unchanged": "dim", "failed": "red"}.get(action.outcome, "yellow")
            told = Text(_done(action), style=colour)
        limit = mbit(values[-1]) + ("/pod" if key in each else "") if values else "-"
        found.add_row(_name(key), limit, curve, mbit(one.throughput(key)), told)
    return found


def _done(action: Action) -> str:
    cause = "" if action.cause == "decision" else f"{action.cause}: "
    return cause + (pods_told(action) or action.outcome)


def _most(target: Target | None, values: Sequence[float | None]) -> float:
    return float(target.max) if target is not None else max([value for value in values if value is not None], default=1)


def _plain(*columns: tuple[str, int]) -> Table:
    """A table without lines; its columns never get narrower than they say."""
    found = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for column, width in columns:
        found.add_column(column, no_wrap=True, overflow="ellipsis", min_width=width)
    return found


def _compact(domains: Sequence[DomainView], now: float) -> Table:
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for column in ("domain", "state", "latency / SLO", "", "limit", "goodput"):
        found.add_column(column, no_wrap=True)
    found.add_column("last reason", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in domains:
        state, colour = _state(one, now)
        stress = one.decision.stress if one.decision else None
        limits = [series.values[-1] or 0 for series in one.limits.values()]
        sent = [rate for target in one.targets() if (rate := one.throughput(target)) is not None]
        found.add_row(
            one.name,
            Text(state, style=colour),
            "-" if stress is None else f"{stress:.2f}",
            _curve(list(one.stress.values)[-20:], 1.0),
            "per pod" if per_pod(one.domain) else mbit(sum(limits)) if limits else "-",
            mbit(sum(sent)) if sent else "-",
            _reason(one) if one.decision else "",
        )
    return found


def _curve(values: Sequence[float | None], full: float) -> Text:
    """A small curve; red above ``full``, a dot where there is no value."""
    curve = Text()
    for value in values:
        if value is None:
            curve.append("·", style="yellow")
        else:
            level = min(int(value / full * (len(_BLOCKS) - 1)), len(_BLOCKS) - 1) if full else 0
            curve.append(_BLOCKS[max(level, 0)], style="red" if value > full else "cyan")
    return curve
