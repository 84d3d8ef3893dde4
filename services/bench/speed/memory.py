"""``sluice bench memory``: how soon the three services are ready, and their memory after many messages.

Each is a process of its own on a real nats-server: the sampler scrapes a page for many domains, the decision service
answers samples of ten, and the actuator reads decisions and patches an emulated API.  Its domain is a resource of that
API, which its target has joined by a label.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from msgspec import structs

from schemas.config import BusConfig, Config, Kubernetes, Listen, Scrape, Signal
from schemas.definition import Definition
from schemas.domain import Critical, Domain, Enrolment, Target
from schemas.messages import Action, Sample
from schemas.resource import build_definition
from schemas.units import Duration, Rate
from services.bench.decisions import build_decision, publish
from services.bench.goals import show
from services.bench.signals.lag import SteppingPlant
from services.bench.speed.decision_service import measure_backlog
from services.bench.speed.kube_apis import Api, start_emulator
from services.bench.speed.service_page import ServicePage
from services.bus.bus import Bus
from services.definitions.enrolment import LABEL
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes
from services.resources.crd import without_rules
from services.resources.manifest import write_manifest
from services.resources.objects import BandwidthDomain
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile

_S = 10**9
_PATIENCE_S = 300
_BLOCK = 100
_SAMPLED = 50
"""Domains of the sampler, and so its samples in a period."""
_PERIOD = Duration(_S // 20)
_ENROL = Enrolment(min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000), namespaces=("default",))
_GOALS = {
    "sampler, ready after, s": "<= 1",
    "sampler, resident, MiB": "<= 64",
    "decision, resident, MiB": "<= 64",
    "actuator, ready after, s": "<= 1",
    "actuator, resident, MiB": "<= 80",
}


@click.command()
@click.option(
    "--messages",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    help="How many the memory is measured after.",
)
@click.option(
    "--worst", is_flag=True, help="Every service at its worst input instead, under the limits of the manifests."
)
@click.option("--only", multiple=True, help="With --worst: this service alone; may be repeated.")
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(messages: int, worst: bool, only: tuple[str, ...], path: Path | None) -> None:
    """Readiness and memory of sampler, decision service and actuator."""
    logging_setup.configure("bench", "error")
    if worst:
        from services.bench.worst.table import measure_worst  # noqa: PLC0415 - it measures with this module's parts

        measure_worst(only, path)
        return
    figures = asyncio.run(measure_sampler(messages))
    figures["decision, resident, MiB"] = asyncio.run(measure_backlog(10, max(messages // 10, 1))).resident
    figures |= asyncio.run(measure_actuator(messages))
    show("memory", figures, _GOALS, path)


@asynccontextmanager
async def on_bus(processes: Processes) -> AsyncIterator[tuple[BusConfig, Bus]]:
    """Start a bus with all streams; gives how to reach it, and a connection."""
    settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=64 * 1024 * 1024)
    async with Bus.connect(settings, "bench", lambda _: None) as bus:
        await bus.ensure_streams()
        yield settings, bus


async def start_service(processes: Processes, name: str, config: Config, *conditions: str) -> tuple[ServicePage, float]:
    """Start a service; gives its page, and after how many seconds these conditions held."""
    path = processes.home / "sluice.yaml"
    path.write_text(format_config(config), encoding="utf-8")
    page = ServicePage(getattr(config.listen, name))
    began = time.monotonic()
    await processes.start(name, find_program("sluice"), name, "--config", path)
    await page.wait_ready(processes, name, *conditions)
    return page, time.monotonic() - began


async def measure_sampler(messages: int) -> dict[str, float]:
    """Figures of the sampler, after so many samples."""
    domains = tuple(
        Domain(f"line-{number}", (Critical("robot", "bench"),), (_target(f"upload-{number}"),))
        for number in range(_SAMPLED)
    )
    async with Processes() as processes:
        with MetricsPage([SteppingPlant((), time.time_ns())]) as plant:
            async with on_bus(processes) as (settings, bus):
                signal = Signal(period=_PERIOD, window=Duration(20 * _PERIOD), scrape=Scrape((plant.url,)))
                listen = Listen("127.0.0.1", sampler=find_free_ports(1)[0])
                config = Config(domains, settings, signal, listen=listen, log="error")
                # These conditions do not include good data, which takes a whole window.
                page, ready_s = await start_service(processes, "sampler", config, "bus", "streams", "source")
                # Another process publishes.
                async with asyncio.timeout(_PATIENCE_S):
                    while (stream := await bus.stream_info(Sample)) is None or stream.last < messages:  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                resident = await page.resident_mib()
            await processes.stop()
    return {
        "sampler, ready after, s": ready_s,
        "sampler, samples published": stream.last,
        "sampler, resident, MiB": resident,
    }


async def measure_actuator(messages: int) -> dict[str, float]:
    """Figures of the actuator, after so many decisions."""
    target = _target("upload")
    domain = Domain("default/line", (Critical("robot"),), (target,), dead_man=Duration(60 * _S))
    async with Processes() as processes:
        api = await start_emulator(processes)
        (path, *_) = await api.deploy("upload", 3, {})
        await _describe_domain(api, domain, path)
        async with on_bus(processes) as (settings, bus):
            listen = Listen("127.0.0.1", actuator=find_free_ports(1)[0])
            config = Config((), settings, kubernetes=Kubernetes(server=api.url), listen=listen, log="error")
            page, ready_s = await start_service(processes, "actuator", config)
            async with asyncio.timeout(_PATIENCE_S):
                while await bus.get_last(Definition, bus.subjects.definition(domain.name)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            begin = time.time_ns() - messages * 100_000
            for block in range(0, messages, _BLOCK):
                numbers = range(block, block + _BLOCK)
                decisions = (
                    build_decision(domain, begin, number + 1, begin + number * 100_000, 20_000 + number % 7)
                    for number in numbers
                )
                await asyncio.gather(*(publish(bus, decision) for decision in decisions))
            last = build_decision(domain, begin, messages + 1, begin + messages * 100_000, 30_000)
            await publish(bus, last)
            subject = bus.subjects.action(last.domain, last.targets[0].target)
            # Once it is in force, all before it have been handled.
            async with asyncio.timeout(_PATIENCE_S):
                while (action := await bus.get_last(Action, subject)) is None or action.message.decision != last.id:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            resident = await page.resident_mib()
        await processes.stop()
    return {
        "actuator, ready after, s": ready_s,
        "actuator, decisions handled": messages,
        "actuator, resident, MiB": resident,
    }


async def _describe_domain(api: Api, domain: Domain, deployment: str) -> None:
    """Install the kind, make the domain's resource, and let a Deployment join it."""
    namespace, _, name = domain.name.partition("/")
    open_domain = structs.replace(domain, targets=(), enrol=_ENROL)
    async with api.client() as client:
        for where, tree in (
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", without_rules(build_definition())),
            (BandwidthDomain.path(namespace), write_manifest(open_domain, namespace, name)),
        ):
            (await client.post(where, json=tree)).raise_for_status()
        label = {"metadata": {"labels": {LABEL: name}}}
        kind = {"Content-Type": "application/merge-patch+json"}
        (await client.patch(deployment, json=label, headers=kind)).raise_for_status()


def _target(name: str) -> Target:
    return Target(deployment=name, min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
