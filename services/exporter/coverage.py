"""Says when too little is measured, what to switch on against it, and when buckets are too coarse.

Shown by the exporter's ``/readyz`` while it runs, and by ``sluice check`` before.  Pure, but for what
``Blindness`` is given to look at.
"""

from collections import deque
from collections.abc import Mapping
from math import ceil
from typing import Protocol

from schemas.config import Config, Signal
from schemas.domain import Critical
from services.common.histogram import check_resolution
from services.exporter.metrics import matches, series_of

COARSE = 0.25
"""A bucket around the SLO that is wider than this share of it hides a violation, or makes one up."""

MARGIN = 1.2
"""Probes come irregularly: where a window has just enough on average, a good many have too few."""

DEFAULT_BOUNDS = {
    "netobserv": (0.005,),
    "obi": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
}
"""The buckets that exporters of others come with, seconds, where they are known; of NetObserv the first."""

_OTHERS = {
    "netobserv": "switch on the agent's feature FlowRTT and the metric workload_rtt_seconds",
    "obi": "switch on its feature stats_tcp_rtt, and mind that the histogram is filled when a connection closes: "
    "long-lived connections give nothing",
    "cilium-health": "it measures between nodes and by default once a minute: far too seldom for a signal window",
}
"""What to know of the exporters of others, by preset."""


class Counted(Protocol):
    """How many latencies that the signal takes each critical workload has had since the start."""

    @property
    def observations(self) -> Mapping[str, int]:
        """By ``namespace/workload``."""


class Blindness:
    """Compares each workload's observations over the signal window with what its domain needs."""

    def __init__(self, config: Config, counted: Counted) -> None:
        """Look at ``counted`` from now on."""
        self._window = config.signal.window.seconds
        self._needed = {one.key: domain.min_observations for domain in config.domains for one in domain.critical}
        self._counted = counted
        self._past: deque[tuple[float, dict[str, int]]] = deque()

    def look(self, now: float) -> str | None:
        """Why somebody is blind at ``now`` (monotonic, seconds); None where all see."""
        self._past.append((now, dict(self._counted.observations)))
        while len(self._past) > 1 and self._past[1][0] <= now - self._window:
            self._past.popleft()
        before, after = self._past[0][1], self._past[-1][1]
        blind = [
            f"{workload}: {after[workload] - before[workload]} observations, {needed} needed"
            for workload, needed in sorted(self._needed.items())
            if after[workload] - before[workload] < needed
        ]
        return "blind: " + "; ".join(blind) if blind else None


def matchers_of(signal: Signal) -> Mapping[str, str]:
    """The labels that the sampler asks our series for; none where it reads somebody else's."""
    return signal.matchers if signal.preset == "hubble" else {}


def what_to_switch_on(config: Config) -> list[str]:
    """What keeps critical workloads from being measured under this configuration, and the remedy for each."""
    if config.signal.preset in _OTHERS:
        return [f"signal.preset {config.signal.preset}: {_OTHERS[config.signal.preset]}"]
    seconds = config.signal.window.seconds
    advice = []
    for domain in config.domains:
        for one in domain.critical:
            expected = int(_probed(config, one) * seconds)
            if expected < MARGIN * domain.min_observations:
                advice.append(_advice(config, one, expected, domain.min_observations))
    return advice


def _probed(config: Config, critical: Critical) -> float:
    """How many probes of a workload a second the signal takes."""
    matchers = matchers_of(config.signal)
    total = 0.0
    for probe in config.exporter.probes:
        if probe.key == critical.key:
            udp, tcp = (matches(matchers, series_of(probe, protocol)) for protocol in ("udp", "tcp"))
            total += probe.rate * (probe.udp is not None and udp) + probe.tcp_rate * (probe.tcp is not None and tcp)
    return total


def _advice(config: Config, critical: Critical, expected: int, needed: int) -> str:
    seconds, probed = config.signal.window.seconds, any(probe.key == critical.key for probe in config.exporter.probes)
    rate = f"at least {ceil(MARGIN * needed / seconds)} a second"
    if expected:
        have = f"its probe gives {expected} observations per window of {seconds:g} s, {needed} needed"
        return f"{critical.key}: {have} in every one, and probes come irregularly; raise its rate to {rate}"
    followed = config.exporter.relay is not None and matchers_of(config.signal).get("source") != "probe"
    flows = "opens at least that many connections" if followed else "is probed"
    have = f"blind unless it {flows}: {needed} observations per window of {seconds:g} s are needed"
    if probed:
        remedy = f"its probes are left out by signal.matchers: take them in, with a rate of {rate}"
    else:
        remedy = (
            "run the echo sidecar beside it (sluice echo --udp 7007 --tcp 7007) and add it to exporter.probes "
            f"with a rate of {rate}"
        )
    return f"{critical.key}: {have}; {remedy}"


def coarse_preset(config: Config) -> list[str]:
    """Why the buckets that an exporter writes are too coarse for an SLO, for each critical workload.

    Of others the default ones are known; a metric of another name was made with buckets of its own.
    """
    signal = config.signal
    if signal.preset == "hubble":
        bounds, whose = config.exporter.buckets or (), ""
    else:
        bounds = DEFAULT_BOUNDS.get(signal.preset, ()) if signal.metric is None else ()
        whose = f"with the buckets that {signal.preset} comes with, "
    wrong = []
    for domain in config.domains:
        for one in domain.critical:
            for figure, slo in (("P95", one.p95), ("jitter", one.jitter)):
                why = check_resolution(bounds, slo.seconds, COARSE) if bounds else None
                if why:
                    wrong.append(f"{one.key}: {figure}: {whose}{why}")
    return wrong
