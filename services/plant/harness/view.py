"""What a person sees while the runs go on: a live view on a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from math import log10
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.plant.harness.run import Run
from services.plant.interface import CriticalSecond, Second
from services.plant.score import is_bad

_BARS = "▁▂▃▄▅▆▇█"
_LOW_S, _HIGH_S = 0.0003, 0.1
"""Latencies at the two ends of a bar, seconds; between them the scale is logarithmic."""


class View(Protocol):
    """Shows the runs as they go."""

    def __enter__(self) -> "View":
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, at: float, fresh: Sequence[Sequence[Second]]) -> None:
        """Show how things stand ``at`` so many seconds after the start; ``fresh`` are each run's new seconds."""

    def say(self, text: str) -> None:
        """Tell what happens before and after."""


def view_of(console: Console, runs: Sequence[Run]) -> View:
    """The view that suits the console."""
    return TerminalView(console, runs) if console.is_terminal else LineView(console, runs)


class LineView:
    """One line a second and run."""

    def __init__(self, console: Console, runs: Sequence[Run]) -> None:
        """Print to ``console``."""
        self._console = console
        self._runs = runs
        self._width = max((len(run.title) for run in runs), default=0)

    def __enter__(self) -> "LineView":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clear."""

    def say(self, text: str) -> None:
        """Print it."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def show(self, at: float, fresh: Sequence[Sequence[Second]]) -> None:
        """Print the new seconds."""
        for run, seconds in zip(self._runs, fresh, strict=True):
            for second in seconds:
                offset = (second.start - (run.started or 0)) / 1e9
                self.say(f"{offset:5.0f} s  {run.title:<{self._width}}  {_line(run, second)}")


def _line(run: Run, second: Second) -> str:
    p95, jitter, lost = worst(second)
    limit = _limit(second)
    verdict = "SLO BROKEN" if is_bad(second, run.domain) else "ok"
    return (
        f"p95 {_ms(p95):>8}  jitter {_ms(jitter):>8}  lost {lost:3d}  "
        f"limit {limit:>9}  best effort {_mbit(sum(second.goodput.values())):>5} Mbit/s  {verdict}"
    )


def worst(second: Second) -> tuple[float | None, float | None, int]:
    """The worst P95 and jitter over the critical workloads, seconds (None: nothing came back), and all losses."""
    all_critical = second.critical.values()
    p95 = [one.p95 for one in all_critical]
    jitter = [one.jitter for one in all_critical]
    return _max(p95), _max(jitter), sum(one.lost for one in all_critical)


def _max(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) and known else None


def _ms(seconds: float | None) -> str:
    return "nothing" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _mbit(kbit: float) -> str:
    return f"{kbit / 1000:.1f}"


def _limit(second: Second) -> str:
    limits = list(second.limits.values())
    return "none" if None in limits else f"{sum(limit or 0 for limit in limits) / 1000:.1f}M"


class TerminalView:
    """A table of the runs, their latency over time, and what the decision service says."""

    def __init__(self, console: Console, runs: Sequence[Run]) -> None:
        """Draw on ``console``."""
        self._runs = runs
        self._console = console
        self._note = ""
        self._at = 0.0
        self._margin = max(len(run.title) for run in runs) + 1
        self._screen = Screen(console=console, get_renderable=self._picture, refresh_per_second=4, transient=True)

    def __enter__(self) -> "TerminalView":
        """Take the screen."""
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._screen.__exit__(None, None, None)

    def say(self, text: str) -> None:
        """Show it in the heading."""
        self._note = text

    def show(self, at: float, fresh: Sequence[Sequence[Second]]) -> None:
        """The picture is drawn from the runs themselves."""
        self._at = at

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [self._heading(), self._table(), Text()]
        legend = "each second's p95 (log, 0.3 to 100 ms), below it best effort"
        parts.append(Text(" " * self._margin + legend, style="dim", no_wrap=True, overflow="ellipsis"))
        for run in self._runs:
            parts += self._history(run)
        parts += [Text(), *(line for run in self._runs if run.controlled for line in self._reason(run))]
        return Panel(Group(*parts), title="Sluice", border_style="cyan")

    def _heading(self) -> RenderableType:
        scenario = self._runs[0].scenario
        if self._at <= 0:
            return Text(self._note, style="bold")
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(ratio=3)
        line.add_column(ratio=1)
        line.add_row(
            Text(f"{min(self._at, scenario.seconds):.0f} of {scenario.seconds:.0f} s  {self._phase()}", style="bold"),
            ProgressBar(total=scenario.seconds, completed=min(self._at, scenario.seconds)),
        )
        return line

    def _phase(self) -> str:
        """The critical loads of this moment."""
        apps = self._runs[0].scenario.apps
        for event in self._runs[0].scenario.events:
            if event.at <= self._at:
                apps = apps.with_loads(event.loads, event.capacity)
        loads = ", ".join(f"{one.workload.partition('/')[2]} {one.load / 1000:g}M" for one in apps.critical)
        return f"{loads} on {apps.capacity / 1000:g}M"

    def _table(self) -> Table:
        slo = self._runs[0].domain.critical[0]
        shown = Table(box=None, expand=True, header_style="bold", pad_edge=False)
        shown.add_column("", no_wrap=True)
        for name in (
            f"p95\n<{slo.p95.seconds * 1e3:g} ms",
            f"jitter\n<{slo.jitter.seconds * 1e3:g} ms",
            "\nlost",
            "\nscanner",
            "\nlimit",
            "best\neffort",
            "bad\ns",
        ):
            shown.add_column(name, justify="right")
        for run in self._runs:
            shown.add_row(Text(run.title, style="bold"), *self._cells(run))
        return shown

    def _cells(self, run: Run) -> list[Text]:
        if not run.seconds:
            return [Text("-", style="dim")] * 7
        second = run.seconds[-1]
        p95, jitter, lost = worst(second)
        slo = run.domain.critical[0]
        tcp = [one for key, one in second.critical.items() if key.endswith("/safety-scanner")]
        bad = run.bad_seconds()
        return [
            Text(_ms(p95), style=_style(p95 is not None and p95 <= slo.p95.seconds)),
            Text(_ms(jitter), style=_style(jitter is not None and jitter <= slo.jitter.seconds)),
            Text(str(lost), style=_style(lost == 0)),
            Text(f"{_mbit(tcp[0].throughput)}M" if tcp else "-", style=_style(_whole(tcp))),
            Text(_limit(second)),
            Text(f"{_mbit(sum(second.goodput.values()))}M", style="cyan"),
            Text(str(bad), style=_style(bad == 0)),
        ]

    def _history(self, run: Run) -> list[Text]:
        latency, effort = Text(run.title.ljust(self._margin)), Text(" " * self._margin)
        latency.stylize("bold")
        room = max(self._console.width - self._margin - 5, 10)
        for second in run.seconds[-room:]:
            p95, _, _ = worst(second)
            latency.append(_log_bar(p95), style="red" if is_bad(second, run.domain) else "green")
            effort.append(_bar(sum(second.goodput.values()) / second.capacity), style="cyan")
        return [latency, effort]

    def _reason(self, run: Run) -> list[Text]:
        decision, action = run.decision, run.action
        lines = []
        if decision is not None:
            rules = "/".join(dict.fromkeys(target.rule for target in decision.targets))
            lines.append(f"{run.title.ljust(self._margin)}decides: {decision.reason} [{rules}]")
        if action is not None:
            took = (
                "" if not (action.applied and action.sampled) else f", {(action.applied - action.sampled) / 1e6:.0f} ms"
            )
            was = "none" if action.was is None else f"{action.was / 1000:.1f}M"
            name = action.target.partition("/")[2]
            lines.append(
                f"{' ' * self._margin}acts:    {name} {was} -> {action.limit / 1000:.1f}M, {action.outcome}{took}"
            )
        return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _whole(tcp: Sequence[CriticalSecond]) -> bool:
    return all(one.throughput >= 0.95 * one.load for one in tcp)


def _style(good: bool) -> str:
    return "green" if good else "bold red"


def _log_bar(p95: float | None) -> str:
    if p95 is None:
        return "!"
    return _bar((log10(max(p95, _LOW_S)) - log10(_LOW_S)) / (log10(_HIGH_S) - log10(_LOW_S)))


def _bar(share: float) -> str:
    return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
