"""``sluice exporter``: wires the flow follower, the probers and the latency metrics."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from prometheus_client import REGISTRY

from schemas.config import Config
from schemas.domain import Domain
from schemas.exporter import Relay
from services.bus.bus import Bus
from services.bus.connection import ApiError, Denied
from services.common.backoff import BackOff
from services.common.histogram import BOUNDS
from services.definitions.follower import Follower
from services.exporter.coverage import CoverageMonitor, matchers_of
from services.exporter.metrics import LATENCY, LatencyMetrics
from services.exporter.probe_manager import ProbeManager, probe_counter
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.health import Health, serve
from services.runtime.logging_setup import configure
from services.runtime.option_types import ConfigFile
from services.runtime.service import run

if TYPE_CHECKING:
    from services.exporter.flow_follower import FlowFollower

_SWITCH_S = 0.001
"""With Python's default of 5 ms the follower's thread would delay probes."""
_CHECK_S = 0.5
_BUS_S = 1.0
NAME = "exporter"


@click.command()
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
def command(path: Path) -> None:
    """Measure: write the latency histogram from Hubble's flows and from probes."""
    try:
        config = load(path)
    except ConfigError as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
    if config.exporter.relay is None and not config.exporter.probes:
        text = f"{path}: exporter: nothing to measure: set 'relay', 'probes' or both"
        raise CommandFailure(text, ExitCode.UNREADABLE)
    configure(NAME, config.log)
    sys.setswitchinterval(_SWITCH_S)
    run(_serve(config))


async def _serve(config: Config) -> None:
    settings = config.exporter
    latencies = LatencyMetrics(
        critical=find_critical(config.domains),
        bounds=settings.buckets or BOUNDS,
        peers=settings.peers,
        registry=REGISTRY,
        name=metric_name(config),
        matchers=matchers_of(config.signal),
    )
    conditions = ["observations"]
    conditions += ["relay"] if settings.relay else []
    health = Health(*conditions, *(["probes"] if settings.probes else []))
    monitor = CoverageMonitor(config, latencies)
    counter = probe_counter(REGISTRY)
    probers = [ProbeManager(probe, latencies, counter) for probe in settings.probes]
    definitions = Follower(config.domains, health.set_note)
    follower = None if settings.relay is None else build_follower(config, settings.relay, latencies)

    changed = asyncio.Event()

    def define() -> None:
        changed.clear()
        domains = definitions.domains
        critical = find_critical(domains)
        latencies.define(critical, find_nodes(domains))
        monitor.define(domains)
        for prober in probers:
            prober.is_wanted = prober.key in critical
        if follower is not None:
            follower.define(critical, find_targets(domains))

    # Many may come at once, and each one would open another stream.
    definitions.on_change(lambda _before, _after: changed.set())
    async with serve(health, config.listen.host, config.listen.exporter), asyncio.TaskGroup() as group:
        if follower is not None:
            group.create_task(_follow(follower, health))
        group.create_task(_take_definitions(config, definitions, health))
        for prober in probers:
            prober.is_wanted = prober.key in latencies.observations
            group.create_task(prober.run())
        while True:
            if changed.is_set():
                define()
            health.set_condition("observations", monitor.check(time.monotonic()))
            if probers:
                problems = [f"{prober.key}: {prober.problem}" for prober in probers if prober.problem]
                health.set_condition("probes", "; ".join(problems) or None)
            await asyncio.sleep(_CHECK_S)


async def _take_definitions(config: Config, definitions: Follower, health: Health) -> None:
    """Take definitions up from the bus, for ever; without one, those of the file hold."""
    back_off = BackOff(_BUS_S, most_s=60.0)

    def note(why: str | None) -> None:
        health.set_note("bus", None if why is None else f"definitions cannot be read, the last ones hold: {why}")

    while True:
        try:
            async with Bus.connect(config.bus, NAME, note) as bus:
                await definitions.follow(bus)
        except (ApiError, Denied, ConnectionError) as error:
            note(str(error))
        await back_off.wait()


def metric_name(config: Config) -> str:
    """The histogram's name: the configured one, unless the sampler reads another exporter's."""
    signal = config.signal
    return signal.metric if signal.preset == "hubble" and signal.metric else LATENCY


async def _follow(follower: "FlowFollower", health: Health) -> None:
    REGISTRY.register(follower.status)
    thread = threading.Thread(target=follower.run, name="follower", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            follower.enforce_timeouts()
            health.set_condition("relay", follower.problem)
            await asyncio.sleep(_CHECK_S)
        raise RuntimeError("the follower's thread died: see the log")
    finally:
        follower.stop()
        await asyncio.to_thread(thread.join, 5)
        REGISTRY.unregister(follower.status)


def find_critical(domains: Iterable[Domain]) -> frozenset[str]:
    """The keys of all critical workloads."""
    return frozenset(one.key for domain in domains for one in domain.critical)


def find_nodes(domains: Iterable[Domain]) -> dict[str, frozenset[str]]:
    """By critical workload, the nodes that instances look at."""
    found: dict[str, set[str]] = {}
    for domain in domains:
        for one in domain.critical if domain.places else ():
            found.setdefault(one.key, set()).update(domain.places or ())
    return {key: frozenset(nodes) for key, nodes in found.items()}


def find_targets(domains: Iterable[Domain]) -> frozenset[str]:
    """The keys of all targets."""
    return frozenset(one.key for domain in domains for one in domain.targets)


def build_follower(config: Config, relay: Relay, latencies: LatencyMetrics) -> "FlowFollower":
    """Wire the chain from Relay to the metrics."""
    # An exporter without Relay does not need grpc, which takes much memory.
    from services.exporter.flow_follower import FlowFollower  # noqa: PLC0415
    from services.exporter.flow_reader import FlowReader  # noqa: PLC0415
    from services.exporter.pairing import PairingTable  # noqa: PLC0415
    from services.exporter.relay_client import open_stream  # noqa: PLC0415

    bounds = config.exporter.pairing
    return FlowFollower(
        open_stream=partial(open_stream, relay),
        reader=FlowReader(find_critical(config.domains), find_targets(config.domains), relay.exclude_ports),
        pairing=PairingTable(bounds.handshake, bounds.request, bounds.entries, bounds.bytes),
        latencies=latencies,
        silence=relay.silence,
    )
