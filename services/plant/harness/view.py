"""Shows the runs to a person: a live view on a terminal, a few plain lines elsewhere."""

from collections.abc import Sequence
from math import log10
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.plant.harness.run import ScenarioRun
from services.plant.interface import Second
from services.plant.score import is_bad

_BARS = "▁▂▃▄▅▆▇█"
_LINE_EVERY_S = 15.0
"""How often a line is printed where there is no terminal, seconds."""
_LOW_S, _HIGH_S = 0.0003, 0.1
"""Latencies at the two ends of a bar, seconds; the scale between them is logarithmic."""


class RunView(Protocol):
    """Shows the runs as they go."""

    def __enter__(self) -> "RunView":
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, at: float) -> None:
        """Show the runs' state, ``at`` seconds after the start."""

    def say(self, text: str) -> None:
        """Show a step of set-up or cleanup."""

    def show_page(self, address: str) -> None:
        """Show where a browser can watch."""


def select_view(console: Console, runs: Sequence[ScenarioRun]) -> RunView:
    """Choose the view for this console."""
    return TerminalView(console, runs) if console.is_terminal else LogView(console, runs)


class LogView:
    """Prints a line every 15 s, for logs: bad seconds and best effort of each run."""

    def __init__(self, console: Console, runs: Sequence[ScenarioRun]) -> None:
        """Print to ``console``."""
        self._console = console
        self._runs = runs
        self._due = _LINE_EVERY_S

    def __enter__(self) -> "LogView":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clean up."""

    def say(self, text: str) -> None:
        """Print the text."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def show_page(self, address: str) -> None:
        """Print the address."""
        self.say(f"Watch it in a browser: {address}")

    def show(self, at: float) -> None:
        """Print a line if one is due."""
        if at < self._due:
            return
        self._due = (at // _LINE_EVERY_S + 1) * _LINE_EVERY_S
        parts = []
        for run in self._runs:
            goodput = f"{sum(run.seconds[-1].goodput.values()) / 1000:.1f}" if run.seconds else "-"
            parts.append(f"{run.title}: SLO broken {run.count_bad_seconds()} s, best effort {goodput} Mbit/s")
        seconds = self._runs[0].scenario.seconds
        self.say(f"{min(at, seconds):3.0f} of {seconds:.0f} s  {'; '.join(parts)}")


class TerminalView:
    """Shows a table of the runs, their latency over time, and the last decisions and actions."""

    def __init__(self, console: Console, runs: Sequence[ScenarioRun]) -> None:
        """Draw on ``console``."""
        self._runs = runs
        self._console = console
        self._note, self._title = "", "Sluice"
        self._at = 0.0
        self._margin = max(len(run.title) for run in runs) + 1
        self._screen = Screen(self, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "TerminalView":
        """Start the live display."""
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the live display."""
        self._screen.__exit__(None, None, None)

    def say(self, text: str) -> None:
        """Show the text in the heading."""
        self._note = text

    def show_page(self, address: str) -> None:
        """Show the address above the table until the end: a small window cuts what is below."""
        self._title = f"Sluice, in a browser: {address}"

    def show(self, at: float) -> None:
        """Move the clock; the display is drawn from the runs themselves."""
        self._at = at

    def __rich__(self) -> RenderableType:
        """Draw the display; rich calls it at each refresh."""
        slo = self._runs[0].domain.critical[0]
        table = Table(box=None, expand=True, header_style="bold", pad_edge=False)
        table.add_column("", no_wrap=True)
        p95_slo, jitter_slo = f"p95\n<{slo.p95.seconds * 1e3:g} ms", f"jitter\n<{slo.jitter.seconds * 1e3:g} ms"
        for name in (p95_slo, jitter_slo, "\nlost", "\nscanner", "\nlimit", "best\neffort", "bad\ns"):
            table.add_column(name, justify="right")
        for run in self._runs:
            table.add_row(Text(run.title, style="bold"), *_render_cells(run))
        parts: list[RenderableType] = [self._render_heading(), table, Text()]
        legend = "each second's p95 (log, 0.3 to 100 ms), below it best effort"
        parts.append(Text(" " * self._margin + legend, style="dim", no_wrap=True, overflow="ellipsis"))
        for run in self._runs:
            parts += self._render_history(run)
        parts.append(Text())
        for run in self._runs:
            parts += self._render_last_messages(run)
        return Panel(Group(*parts), title=Text(self._title), border_style="cyan")

    def _render_heading(self) -> RenderableType:
        """The time, the critical loads at this time, and a progress bar; before the start, the note."""
        scenario = self._runs[0].scenario
        if self._at <= 0:
            return Text(self._note, style="bold")
        apps = scenario.apps
        for event in scenario.events:
            if event.at <= self._at:
                apps = apps.with_loads(event.loads, event.capacity)
        loads = ", ".join(f"{one.workload.partition('/')[2]} {one.load / 1000:g}M" for one in apps.critical)
        at = min(self._at, scenario.seconds)
        text = f"{at:.0f} of {scenario.seconds:.0f} s  {loads} on {apps.capacity / 1000:g}M"
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=3)
        grid.add_column(ratio=1)
        grid.add_row(Text(text, style="bold"), ProgressBar(total=scenario.seconds, completed=at))
        return grid

    def _render_history(self, run: ScenarioRun) -> list[Text]:
        """A bar for each second's latency, coloured by whether an SLO was broken; below it one for best effort."""
        latency, effort = Text(run.title.ljust(self._margin)), Text(" " * self._margin)
        latency.stylize("bold")
        room = max(self._console.width - self._margin - 5, 10)
        for second in run.seconds[-room:]:
            p95, _, _ = find_worst(second)
            share = None if p95 is None else log10(max(p95, _LOW_S) / _LOW_S) / log10(_HIGH_S / _LOW_S)
            latency.append(_bar(share), style="red" if is_bad(second, run.domain) else "green")
            effort.append(_bar(sum(second.goodput.values()) / second.capacity), style="cyan")
        return [latency, effort]

    def _render_last_messages(self, run: ScenarioRun) -> list[Text]:
        decision, action = run.decision, run.action
        lines = []
        if decision is not None:
            rules = "/".join(dict.fromkeys(target.rule for target in decision.targets))
            lines.append(f"{run.title.ljust(self._margin)}decides: {decision.reason} [{rules}]")
        if action is not None:
            took = f", {(action.applied - action.sampled) / 1e6:.0f} ms" if action.applied and action.sampled else ""
            was = "none" if action.was is None else f"{action.was / 1000:.1f}M"
            change = f"{action.target.partition('/')[2]} {was} -> {action.limit / 1000:.1f}M, {action.outcome}{took}"
            lines.append(f"{' ' * self._margin}acts:    {change}")
        return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _render_cells(run: ScenarioRun) -> list[Text]:
    """The run's row of the table: its last second, and its bad seconds so far."""
    if not run.seconds:
        return [Text("-", style="dim")] * 7
    second = run.seconds[-1]
    p95, jitter, lost = find_worst(second)
    slo = run.domain.critical[0]
    scanner = next((one for key, one in second.critical.items() if key.endswith("/safety-scanner")), None)
    limits = second.limits.values()
    limit = "none" if None in limits else f"{sum(one or 0 for one in limits) / 1000:.1f}M"
    bad = run.count_bad_seconds()
    cells = [
        ("nothing" if value is None else f"{value * 1e3:.1f} ms", value is not None and value <= most.seconds)
        for value, most in ((p95, slo.p95), (jitter, slo.jitter))
    ]
    cells.append((str(lost), lost == 0))
    if scanner is None:
        cells.append(("-", True))
    else:
        cells.append((f"{scanner.throughput / 1000:.1f}M", scanner.throughput >= 0.95 * scanner.load))
    return [
        *(Text(text, style="green" if good else "bold red") for text, good in cells),
        Text(limit),
        Text(f"{sum(second.goodput.values()) / 1000:.1f}M", style="cyan"),
        Text(str(bad), style="bold red" if bad else "green"),
    ]


def find_worst(second: Second) -> tuple[float | None, float | None, int]:
    """Find the worst P95 and jitter over the critical workloads, seconds (None: no reply), and all losses."""
    worst: list[float | None] = []
    for values in ([one.p95 for one in second.critical.values()], [one.jitter for one in second.critical.values()]):
        known = [value for value in values if value is not None]
        worst.append(max(known) if known and len(known) == len(values) else None)
    return worst[0], worst[1], sum(one.lost for one in second.critical.values())


def _bar(share: float | None) -> str:
    return "!" if share is None else _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
