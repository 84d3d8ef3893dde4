"""Says when too little is measured, what to switch on against it, and when buckets are too coarse.

Shown by the exporter's ``/readyz`` while it runs, and by ``sluice check`` before.  Pure, but for what
``Blindness`` is given to look at.
"""

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from schemas.config import Config
from schemas.domain import Critical
from services.sampler.resolution import too_coarse

COARSE = 0.25
"""A bucket around the SLO that is wider than this share of it hides a violation, or makes one up."""

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
    """How many latencies each critical workload has had since the start."""

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


def what_to_switch_on(config: Config) -> list[str]:
    """What keeps critical workloads from being measured under this configuration, and the remedy for each."""
    if config.signal.preset in _OTHERS:
        return [f"signal.preset {config.signal.preset}: {_OTHERS[config.signal.preset]}"]
    exporter = config.exporter
    seconds = config.signal.window.seconds
    probed: dict[str, float] = {}
    for probe in exporter.probes:
        rate = (probe.rate if probe.udp else 0.0) + (probe.tcp_rate if probe.tcp else 0.0)
        probed[probe.key] = probed.get(probe.key, 0.0) + rate
    advice = []
    for domain in config.domains:
        for one in domain.critical:
            expected = int(probed.get(one.key, 0.0) * seconds)
            if expected < domain.min_observations:
                advice.append(_advice(one, expected, domain.min_observations, seconds, followed=bool(exporter.relay)))
    return advice


def _advice(critical: Critical, expected: int, needed: int, seconds: float, *, followed: bool) -> str:
    rate = needed / seconds
    if expected:
        have = f"{critical.key}: its probe gives {expected} observations per window of {seconds:g} s, {needed} needed"
        remedy = f"raise its rate to at least {rate:.0f} a second"
    else:
        flows = "opens at least that many connections" if followed else "is probed"
        have = f"{critical.key}: blind unless it {flows}: {needed} observations per window of {seconds:g} s are needed"
        remedy = (
            "run the echo sidecar beside it (sluice echo --udp 7007 --tcp 7007) and add it to exporter.probes "
            f"with a rate of at least {rate:.0f} a second"
        )
    return f"{have}; {remedy}"


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
                why = too_coarse(bounds, slo.seconds, COARSE) if bounds else None
                if why:
                    wrong.append(f"{one.key}: {figure}: {whose}{why}")
    return wrong
