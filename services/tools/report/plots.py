"""A report's plots: latency against its SLO above, limits and what was sent below, on one time axis.

Plotly draws them in the browser.  Colours on the page's background (text, axes, grid) are set
by the page's style sheet, which has a light and a dark ground; those of the curves suit both.
"""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from services.tools.common.formatting import format_ms, format_rate
from services.tools.common.time_options import to_datetime
from services.tools.report.downsampling import Curve
from services.tools.report.incidents import Incident
from services.tools.report.statistics import DomainStatistics

COLOURS = ("#2f81f7", "#d9730d", "#1a9e8f", "#9a6bdb", "#c2418f", "#7d8590")
"""Each has a contrast of at least 3:1 against white and against the dark ground."""
_BROKEN = "rgba(219, 68, 55, 0.18)"
_UNSEEN = "rgba(128, 128, 128, 0.22)"
_FAILED = "#db4437"
_SHADES = 120
"""More shaded incidents than this are one colour from afar, and slow to draw."""
_HEIGHT = 720
_THINNEST_NS = 10**8
_TICKS = [part * 10**power for power in range(-3, 5) for part in (1, 3)]
"""Milliseconds; Plotly's own ticks leave the zeros out."""
_TICK_TEXTS = [f"{tick:g}" for tick in _TICKS]
_AXES = {1: "", 2: "2", 3: "3"}
"""By row, what its axes' names end in."""


def build_figure(statistics: DomainStatistics) -> str:
    """Build one domain's plots as JSON for ``Plotly.newPlot``."""
    shown = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.31, 0.25, 0.44])
    # Plotly is slow at adding shapes one by one.
    shapes = [*_build_shades(statistics.broken.kept, _BROKEN), *_build_shades(statistics.gaps.kept, _UNSEEN)]
    labels = []
    critical = statistics.domain.critical if statistics.domain is not None else ()
    for row, curves, name in ((1, statistics.p95, "P95"), (2, statistics.jitter, "jitter")):
        shown.add_traces(list(_plot_latencies(curves, name)), rows=row, cols=1)
        for slo in sorted({getattr(one, name.lower()) / 1e6 for one in critical}):
            axes = {"xref": f"x{_AXES[row]} domain", "yref": f"y{_AXES[row]}"}
            line = {"color": _FAILED, "width": 1.5, "dash": "dash"}
            shapes.append({"type": "line", **axes, "x0": 0, "x1": 1, "y0": slo, "y1": slo, "line": line})
            label = {"text": f"SLO {slo:g} ms", **axes, "x": 0.002, "xanchor": "left", "yanchor": "bottom"}
            # On a logarithmic axis shapes are placed by value, and texts by its logarithm.
            labels.append(label | {"y": log10(slo), "showarrow": False, "font": {"size": 11}})
    shown.add_traces(list(_plot_rates(statistics)), rows=3, cols=1)
    for row, name in ((1, "P95"), (2, "jitter")):
        shown.update_yaxes(type="log", row=row, col=1, title=f"{name}, ms", tickvals=_TICKS, ticktext=_TICK_TEXTS)
    shown.update_yaxes(rangemode="tozero", row=3, col=1, title="Mbit/s")
    shown.update_layout(
        shapes=shapes,
        annotations=labels,
        height=_HEIGHT,
        margin={"l": 60, "r": 20, "t": 34, "b": 40},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": COLOURS[5], "activecolor": COLOURS[0]},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 12},
        legend={"orientation": "h", "y": -0.1, "groupclick": "togglegroup"},
        hovermode="x unified",
        template="none",
    )
    # Whatever is in it, the JSON is inside a script element.
    text: str = shown.to_json()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plot_latencies(curves: Mapping[str, Curve], name: str) -> Iterator[go.Scatter]:
    for number, (workload, curve) in enumerate(curves.items()):
        yield go.Scatter(
            x=_list_times(curve),
            y=[max(point.high * 1000, 0.001) for point in curve.points],
            name=escape(workload),
            legendgroup=f"critical {workload}",
            showlegend=name == "P95",
            mode="lines",
            line={"color": COLOURS[number % len(COLOURS)], "width": 1.6},
            hovertemplate=f"%{{y:.3g}} ms {name}",
        )


def _plot_rates(statistics: DomainStatistics) -> Iterator[go.Scatter]:
    targets = list(dict.fromkeys([*statistics.limits, *statistics.goodput]))
    for number, target in enumerate(targets):
        colour = COLOURS[(number + 2) % len(COLOURS)]
        name = escape(target)
        if target in statistics.limits:
            curve = statistics.limits[target]
            yield go.Scatter(
                x=_list_times(curve),
                y=[point.last / 1000 for point in curve.points],
                name=f"{name}: limit a pod" if target in statistics.per_pod else f"{name}: limit",
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv"},
                hovertemplate="%{y:.1f} Mbit/s limit",
            )
        if target in statistics.goodput:
            curve = statistics.goodput[target]
            yield go.Scatter(
                x=_list_times(curve),
                y=[point.mean / 1000 for point in curve.points],
                name=f"{name}: sent",
                mode="lines",
                line={"color": colour, "width": 1.2, "dash": "dot"},
                hovertemplate="%{y:.1f} Mbit/s sent",
            )
    for curve, name, dash in (
        (statistics.safe, "safe total load", "dash"),
        (statistics.expected, "critical load to come", "dot"),
        (statistics.margin, "kept free", "dashdot"),
        (statistics.headroom, "left for best effort", "longdash"),
    ):
        if curve.points:
            yield go.Scatter(
                x=_list_times(curve),
                y=[point.last / 1000 for point in curve.points],
                name=name,
                mode="lines",
                line={"color": COLOURS[5], "width": 1.4, "dash": dash},
                hovertemplate=f"%{{y:.1f}} Mbit/s {name}",
            )
    for outcome, symbol, colour in (("applied", "circle", COLOURS[5]), ("failed", "x", _FAILED)):
        found = [patch for patch in statistics.patches if patch.outcome == outcome]
        if found:
            yield go.Scatter(
                x=[to_datetime(patch.time) for patch in found],
                y=[patch.limit / 1000 for patch in found],
                name=f"patch {outcome}",
                mode="markers",
                marker={"color": colour, "size": 4 if outcome == "applied" else 9, "symbol": symbol},
                hovertext=[
                    escape(f"{patch.target} {format_rate(patch.limit)} {outcome} ({patch.cause})") for patch in found
                ],
                hoverinfo="text",
            )


def _build_shades(incidents: Iterable[Incident], colour: str) -> Iterator[dict[str, Any]]:
    for incident in sorted(incidents, key=lambda incident: incident.begin - incident.end)[:_SHADES]:
        begin, end = to_datetime(incident.begin), to_datetime(max(incident.end, incident.begin + _THINNEST_NS))
        for axis in _AXES.values():
            yield {
                "type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": colour,
                "xref": f"x{axis}", "yref": f"y{axis} domain", "x0": begin, "x1": end, "y0": 0, "y1": 1,
            }  # fmt: skip


def _list_times(curve: Curve) -> list[Any]:
    return [to_datetime(point.time) for point in curve.points]


def describe_plots(statistics: DomainStatistics) -> str:
    """Describe the plots in words, for those who cannot see them."""
    texts = []
    for workload, curve in statistics.p95.items():
        low, high = min(point.low for point in curve.points), max(point.high for point in curve.points)
        texts.append(f"{workload}: P95 from {format_ms(low)} to {format_ms(high)} ms")
    for target, curve in statistics.limits.items():
        low, high = min(point.low for point in curve.points), max(point.high for point in curve.points)
        texts.append(f"{target}: limit from {format_rate(low)} to {format_rate(high)}")
    if points := statistics.safe.points:
        low, high = min(point.low for point in points), max(point.high for point in points)
        texts.append(f"safe total load from {format_rate(low)} to {format_rate(high)}")
    return "; ".join(texts)
