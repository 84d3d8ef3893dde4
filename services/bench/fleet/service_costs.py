"""What an instance costs the actuator and the sampler: one process each, on few nodes and on many, ten Pods a node.

The actuator gets two decisions a second and instance.  One in six moves the limit of its node, about as often as the
fleet does that ``sluice bench fleet`` plays.  The sampler scrapes one page twice a second, which has all nodes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec import Struct

from schemas.config import BusConfig, Config, Listen, Scrape, Signal
from schemas.definition import Definition, DefinitionSource
from schemas.domain import Domain
from schemas.messages import Sample
from services.bench.decisions import build_decision, publish
from services.bench.fleet.change import wait_for_instances
from services.bench.fleet.cluster import build_template, count_requests, start_cluster
from services.bench.speed.service_page import ServicePage
from services.bus.bus import Bus
from services.plant.harness.pipeline import find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes

PODS = 10
"""Best-effort Pods of a node."""
_S = 10**9
_PERIOD = _S // 2
_MOVES = 6
"""A node's limit moves with one decision in so many."""
_WARM_UP = 8
"""Rounds that are not counted."""
_PATIENCE_S = 300
_SAMPLES = "sluice_sampler_samples_total"
_WITH_DATA = f'{_SAMPLES}{{.*outcome="data"}}'
_LINES = 9
"""Of a node on the page."""
_BOUNDS = ("0.0005", "0.001", "0.0015", "0.002", "0.0025", "+Inf")


class ServiceCost(Struct, frozen=True, kw_only=True):
    """Of one process with so many instances."""

    service: str
    instances: int
    share: float
    """Of a core."""
    resident_mib: float
    more: dict[str, float] = {}
    """Further figures by name."""


async def measure_actuator(instances: int, seconds: int) -> ServiceCost:
    """Run one actuator on so many nodes for so long."""
    async with Processes() as processes:
        api = await start_cluster(processes, instances, PODS)
        settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=60 * 1024 * 1024)
        config = Config(
            (build_template(),),
            settings,
            kubernetes=api.config,
            listen=Listen("127.0.0.1", actuator=find_free_ports(1)[0]),
            log="error",
        )
        async with Bus.connect(settings, "bench", lambda _: None) as bus, asyncio.timeout(_PATIENCE_S):
            page = await _start(processes, "actuator", config, bus)
            domains = await wait_for_instances(bus, instances)
            # Every Pod gets the fail-safe limit first.
            while await page.metric("sluice_patches_total") < PODS * instances:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.5)
            epoch = time.time_ns()
            before, used, began = {}, 0.0, 0.0
            for number in range(_WARM_UP + 2 * seconds):
                if number == _WARM_UP:
                    before, used = await count_requests(api), await page.metric("process_cpu_seconds_total")
                    began = time.monotonic()
                await _decide_round(bus, domains, epoch, number)
                await asyncio.sleep(max(epoch / _S + (number + 1) / 2 - time.time(), 0))
            lasted = time.monotonic() - began
            used = await page.metric("process_cpu_seconds_total") - used
            after = await count_requests(api)
            sent = {kind: (after.get(kind, 0) - before.get(kind, 0)) / lasted for kind in ("patch", "get")}
            return ServiceCost(
                service="actuator",
                instances=instances,
                share=used / lasted,
                resident_mib=await page.resident_mib(),
                more={
                    "decisions a second": 2 * seconds * instances / lasted,
                    "patches a second": sent["patch"],
                    "patches a second and node": sent["patch"] / instances,
                    "other requests a second": sent["get"],
                    "watches opened in all": after.get("watch", 0),
                },
            )


async def _start(processes: Processes, name: str, config: Config, bus: Bus) -> ServicePage:
    await bus.ensure_streams()
    path = processes.home / "sluice.yaml"
    path.write_text(format_config(config), encoding="utf-8")
    await processes.start(name, find_program("sluice"), name, "--config", path)
    page = ServicePage(getattr(config.listen, name))
    await page.wait_ready(processes, name, "bus")
    return page


async def _decide_round(bus: Bus, domains: tuple[Domain, ...], epoch: int, number: int) -> None:
    async with asyncio.TaskGroup() as group:
        for place, domain in enumerate(domains):
            limit = 30_000 + 1000 * ((number + place) // _MOVES % 20)
            decision = build_decision(domain, epoch, number + 1, epoch + number * _PERIOD, limit)
            group.create_task(publish(bus, decision))


async def measure_sampler(instances: int, seconds: int) -> ServiceCost:
    """Run one sampler for so many nodes for so long."""
    async with Processes() as processes, _serve_page(instances, _WARM_UP + 2 * seconds + 20) as url:
        settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=60 * 1024 * 1024)
        template = build_template()
        config = Config(
            (template,),
            settings,
            Signal(scrape=Scrape((url,), max_lines=_LINES * instances + 1_000)),
            listen=Listen("127.0.0.1", sampler=find_free_ports(1)[0]),
            log="error",
        )
        async with Bus.connect(settings, "bench", lambda _: None) as bus, asyncio.timeout(_PATIENCE_S):
            await bus.ensure_streams()
            source = DefinitionSource(name=template.name)
            for number in range(instances):
                domain = template.build_instance(f"node-{number}", ())
                definition = Definition(domain.name, 1, source, domain)
                await bus.publish(bus.subjects.definition(domain.name), definition, msg_id=definition.id)
            page = await _start(processes, "sampler", config, bus)
            while await _count_samples(bus) < _WARM_UP * instances:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
            samples, began = await _count_samples(bus), time.monotonic()
            used = await page.metric("process_cpu_seconds_total")
            await asyncio.sleep(seconds)
            used, lasted = await page.metric("process_cpu_seconds_total") - used, time.monotonic() - began
            return ServiceCost(
                service="sampler",
                instances=instances,
                share=used / lasted,
                resident_mib=await page.resident_mib(),
                more={
                    "samples a second": (await _count_samples(bus) - samples) / lasted,
                    "samples with data, %": 100 * await page.metric(_WITH_DATA) / max(await page.metric(_SAMPLES), 1),
                },
            )


async def _count_samples(bus: Bus) -> int:
    info = await bus.stream_info(Sample)
    return 0 if info is None else info.last


@asynccontextmanager
async def _serve_page(nodes: int, periods: int) -> AsyncIterator[str]:
    """Serve an exporter's and all meters' page in one, whose counters grow with each period."""
    pages = [_write_page(nodes, number).encode() for number in range(1, periods + 1)]
    began = time.monotonic()

    async def answer(_request: web.Request) -> web.Response:
        at = int((time.monotonic() - began) * _S / _PERIOD)
        return web.Response(body=pages[at % periods], content_type="text/plain")

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    (port,) = find_free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        await runner.cleanup()


def _write_page(nodes: int, at: int) -> str:
    lines = []
    for number in range(nodes):
        labels = f'namespace="default",workload="robot",node="node-{number}"'
        bounds = (f'{labels},le="{bound}"' for bound in _BOUNDS)
        lines += [f"hubble_flow_latency_seconds_bucket{{{one}}} {200 * at}\n" for one in bounds]
        lines.append(f"hubble_flow_latency_seconds_count{{{labels}}} {200 * at}\n")
        lines.append(f"hubble_flow_lost_total{{{labels}}} 0\n")
        # One series for all Pods of a node: each line costs memory.
        sent = f'namespace="default",workload="selector/shipper",pod="shipper-{number}",node="node-{number}"'
        lines.append(f"container_network_transmit_bytes_total{{{sent}}} {10**6 * at}\n")
    return "".join(lines)


def measure_services(sizes: tuple[int, ...], seconds: int) -> list[ServiceCost]:
    """Measure both services at these numbers of instances."""
    kinds = (measure_sampler, measure_actuator)
    return [asyncio.run(measure(instances, seconds)) for measure in kinds for instances in sizes]


def summarize_services(costs: list[ServiceCost]) -> dict[str, float]:
    """Figures by name, and the memory of an instance of each service: what the many need beyond the few."""
    figures: dict[str, float] = {}
    for one in costs:
        what = f"{one.service}, {one.instances:,} instances"
        figures[f"{what}, share of a core"] = one.share
        figures[f"{what}, resident, MiB"] = one.resident_mib
        figures |= {f"{what}, {name}": value for name, value in one.more.items()}
    for service in dict.fromkeys(one.service for one in costs):
        first, *_, last = [one for one in costs if one.service == service]
        grown = (last.resident_mib - first.resident_mib) / (last.instances - first.instances)
        figures[f"{service}, memory of an instance, KiB"] = 1024 * grown
    return figures
