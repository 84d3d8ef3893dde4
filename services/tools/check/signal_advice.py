"""Finds which critical workloads the exporter would measure too rarely or too coarsely, and the remedy.  Pure."""

from math import ceil

from schemas.config import Config
from schemas.exporter import Probe
from services.common.histogram import explain_coarseness
from services.exporter.coverage import matchers_of
from services.exporter.metrics import has_labels, probe_series
from services.sampler.workloads import PRESETS

COARSE = 0.25
"""A bucket around the SLO that is wider than this share of it hides a violation, or makes one up."""
MARGIN = 1.2
"""Probes come irregularly: where a window has just enough on average, many windows have too few."""


def suggest_probes(config: Config) -> list[str]:
    """What keeps critical workloads from being measured under this configuration, and the remedy for each."""
    signal = config.signal
    if PRESETS[signal.preset].hint:
        return [f"signal.preset {signal.preset}: {PRESETS[signal.preset].hint}"]
    advice, seconds, matchers = [], signal.window.seconds, matchers_of(signal)
    probes_of: dict[str, list[Probe]] = {}
    for probe in config.exporter.probes:
        probes_of.setdefault(probe.key, []).append(probe)
    for domain in config.domains:
        needed = domain.min_observations
        rate = f"at least {ceil(MARGIN * needed / seconds)} a second"
        for one in domain.critical:
            probes = probes_of.get(one.key, [])
            per_second = 0.0
            for probe in probes:
                udp, tcp = (has_labels(probe_series(probe, protocol), matchers) for protocol in ("udp", "tcp"))
                per_second += probe.rate * (probe.udp is not None and udp)
                per_second += probe.tcp_rate * (probe.tcp is not None and tcp)
            expected = int(per_second * seconds)
            if expected >= MARGIN * needed:
                continue
            if expected:
                have = f"its probe gives {expected} observations per window of {seconds:g} s, {needed} needed"
                remedy = f"in every one, and probes come irregularly; raise its rate to {rate}"
                advice.append(f"{one.key}: {have} {remedy}")
                continue
            followed = config.exporter.relay is not None and matchers.get("source") != "probe"
            flows = "opens at least that many connections" if followed else "is probed"
            have = f"blind unless it {flows}: {needed} observations per window of {seconds:g} s are needed"
            remedy = (
                f"its probes are left out by signal.matchers: include them, with a rate of {rate}"
                if probes
                else "run the echo sidecar beside it (sluice echo --udp 7007 --tcp 7007) and add it to exporter.probes "
                f"with a rate of {rate}"
            )
            advice.append(f"{one.key}: {have}; {remedy}")
    return advice


def explain_coarse_buckets(config: Config) -> list[str]:
    """Why the buckets that an exporter writes are too coarse for an SLO, for each critical workload.

    Of other exporters the default buckets are known; a metric with another name has buckets of its own.
    """
    signal = config.signal
    if signal.preset == "hubble":
        bounds, whose = config.exporter.buckets or (), ""
    else:
        bounds = PRESETS[signal.preset].buckets if signal.metric is None else ()
        whose = f"with the buckets that {signal.preset} comes with, "
    reasons = []
    for domain in config.domains:
        for one in domain.critical:
            for figure, slo in (("P95", one.p95), ("jitter", one.jitter)):
                why = explain_coarseness(bounds, slo.seconds, COARSE) if bounds else None
                if why:
                    reasons.append(f"{one.key}: {figure}: {whose}{why}")
    return reasons
