"""Checks the servers that a configuration names, as far as they can be reached from here.  Changes nothing."""

import asyncio
import os
import socket
import time
from collections.abc import Iterable, Iterator
from math import ceil
from urllib.parse import urlsplit

from msgspec import Struct

from schemas.config import Config
from schemas.domain import Critical
from schemas.messages import Action, CriticalMeasure, Decision, Sample
from services.bus.bus import Denied
from services.bus.connection import ApiError
from services.common.histogram import explain_coarseness
from services.sampler.http_client import show_url
from services.sampler.loop import build_sample
from services.sampler.source import Measurements, NoData
from services.sampler.source_factory import open_source, source_class
from services.tools.check.cluster_rules import Finding
from services.tools.check.signal_advice import COARSE, MARGIN
from services.tools.common import formatting
from services.tools.common.bus_reader import BusError, connect_reader

_CONNECT_S = 3.0
_PORTS = {"http": 80, "https": 443, "nats": 4222, "tls": 4222}


class CheckResult(Struct, frozen=True):
    """What the check of one server found."""

    what: str
    where: str
    state: str
    """What works there, or why it was not reached."""
    reached: bool
    findings: tuple[Finding, ...] = ()


async def check_connectivity(config: Config) -> list[CheckResult]:
    """Check the bus and the source of measurements."""
    return list(await asyncio.gather(_check_bus(config), _check_signal(config)))


async def _find_obstacle(addresses: Iterable[str]) -> str | None:
    """Find out why none of these addresses takes connections; None when one does."""
    reasons = []
    for address in addresses:
        parts = urlsplit(address if "://" in address else f"nats://{address}")
        port = parts.port or _PORTS.get(parts.scheme, 4222)
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(parts.hostname, port)
            writer.close()
        except TimeoutError:
            reasons.append(f"no answer within {_CONNECT_S:g} s")
        except socket.gaierror:
            reasons.append(f"the name {parts.hostname} is not known here")
        except OSError as error:
            reasons.append(os.strerror(error.errno).lower() if error.errno else str(error))
        else:
            return None
    return "; ".join(dict.fromkeys(reasons))


async def _check_bus(config: Config) -> CheckResult:
    where = ", ".join(config.bus.servers)
    reason = await _find_obstacle(config.bus.servers)
    if reason is not None:
        return CheckResult("bus", where, reason, reached=False)
    try:
        async with connect_reader(config.bus, "check") as reader:
            streams = {
                "samples": await reader.bus.stream_info(Sample),
                "decisions": await reader.bus.stream_info(Decision),
                "actions": await reader.bus.stream_info(Action),
            }
    except (BusError, Denied, ApiError) as error:
        return CheckResult("bus", where, "", reached=True, findings=(Finding("error", "bus", str(error)),))
    there = [f"{info.last:,} {kind}" for kind, info in streams.items() if info is not None]
    return CheckResult("bus", where, f"kept so far: {', '.join(there)}" if there else "no streams yet", reached=True)


async def _check_signal(config: Config) -> CheckResult:
    signal = config.signal
    addresses = source_class(signal.source).addresses(signal)
    where = ", ".join(show_url(address) for address in addresses)
    reason = await _find_obstacle(addresses)
    if reason is not None:
        return CheckResult(signal.source, where, reason, reached=False)
    end = time.time_ns() // signal.period * signal.period
    try:
        with open_source(config) as source:
            if source.needs_warm_up:
                await source.measure(end)
                end += signal.window
                await asyncio.sleep(max(end - time.time_ns(), 0) / 1e9)
            asked = time.monotonic()
            measured = await source.measure(end)
            took = time.monotonic() - asked
    except NoData as error:
        findings = (Finding("error", signal.source, str(error)),)
        return CheckResult(signal.source, where, "", reached=True, findings=findings)
    found, latencies = [], []
    if took > signal.period.seconds:
        text = f"takes {took:.2f} s to answer, longer than the period of {signal.period}: windows will be left out"
        found.append(Finding("warning", "signal.period", text))
    for domain in config.domains:
        sample = build_sample(domain, signal, end, measured)
        for critical, measure in zip(domain.critical, sample.critical, strict=True):
            found += check_workload(critical, measure, measured, domain.min_observations)
            latencies += [formatting.describe_measure(measure, critical)] if measure.missing is None else []
        unmeasured = [target.target for target in sample.targets if target.throughput is None]
        if unmeasured:
            text = f"not measured for {', '.join(unmeasured)}: policies work in a reduced form"
            reasons = dict.fromkeys(one.throughput_missing for one in sample.targets if one.throughput_missing)
            text = "; ".join([text, *reasons])
            found.append(Finding("warning", f"domain {domain.name}: throughput", text))
    return CheckResult(signal.source, where, "; ".join(latencies) or "answers", reached=True, findings=tuple(found))


def check_workload(
    critical: Critical, measure: CriticalMeasure, measured: Measurements, needed: int
) -> Iterator[Finding]:
    """Check what a source measured of one workload, where ``needed`` observations are."""
    where = f"workload {critical.key}"
    if measure.missing is not None:
        yield Finding("error", where, measure.missing)
        return
    if measure.observations < needed:
        yield Finding("error", where, f"blind: {measure.observations} observations in a window, {needed} needed")
    elif measure.observations < MARGIN * needed:
        text = f"{measure.observations} observations in a window, {needed} needed: other windows have fewer"
        yield Finding("warning", where, f"{text}; {ceil(MARGIN * needed)} on average would do")
    if measure.lost is None:
        yield Finding("warning", where, "nothing measures its loss")
    bounds = measured.latency[critical.key].bounds
    for figure, slo in (("P95", critical.p95), ("jitter", critical.jitter)):
        why = explain_coarseness(bounds, slo.seconds, COARSE) if bounds is not None else None
        if why is not None:
            yield Finding("warning", where, f"{figure}: {why}")


def is_measured(result: CheckResult) -> bool:
    """Return whether a source was reached and measured every critical workload often enough."""
    return result.reached and all(finding.level != "error" for finding in result.findings)
