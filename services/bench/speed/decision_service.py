"""``sluice bench bus``: decisions a second, latency and memory of the decision service.

A nats-server of its own and ``sluice decision`` as a process.  Rates "a core" are per second of the
process's own CPU time; times come from the server's clock alone, which stamps samples and decisions.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from schemas.config import BusConfig, Config, Listen
from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample
from schemas.units import Rate
from services.bench.goals import show
from services.bench.resident import read_peak
from services.bench.speed.service_page import ServicePage
from services.bus.bus import Bus, Received
from services.bus.envelope import SAMPLE_SEQ
from services.plant.harness.pipeline import find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile

_S = 10**9
_PATIENCE_S = 120
_GOALS = {
    "ready after, s": "<= 1",
    "1 domain, decisions/s": "",
    "10 domains, decisions/s": "",
    "10 domains, decisions/s a core": "",
    "10 domains, samples decided on": "",
    "10 domains, resident after them, MiB": "<= 64 after 50,000",
    "2,000 domains, decisions/s a core": ">= 2,000",
    "2,000 domains, resident, MiB": "",
    "2,000 domains at 1 Hz, share of a core": "< 1",
    "2,000 domains at 1 Hz, sample to decision p50, ms": "",
    "2,000 domains at 1 Hz, sample to decision p99, ms": "",
    "the bus alone, consume-publish-ack/s a core": "",
}


@click.command()
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    help="How many samples the memory is measured after.",
)
@click.option(
    "--seconds", type=click.IntRange(1), default=10, show_default=True, help="How long 2,000 domains run at 1 Hz."
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(samples: int, seconds: int, path: Path | None) -> None:
    """Decisions a second, from sample to decision, memory."""
    logging_setup.configure("bench", "error")
    figures = asyncio.run(measure(samples, seconds))
    show("bus", figures, _GOALS, path)


async def measure(samples: int, seconds: int) -> dict[str, float]:
    """All figures by name."""
    one = await measure_backlog(1, min(samples, 5000))
    ten = await measure_backlog(10, samples // 10)
    many = await measure_backlog(2000, 10)
    return {
        "ready after, s": ten.ready_s,
        "10 domains, samples decided on": samples // 10 * 10,
        "10 domains, resident after them, MiB": ten.resident,
        "1 domain, decisions/s": one.rate,
        "10 domains, decisions/s": ten.rate,
        "10 domains, decisions/s a core": ten.core_rate,
        "2,000 domains, decisions/s a core": many.core_rate,
        "2,000 domains, resident, MiB": many.resident,
        **await measure_paced(2000, seconds),
        "the bus alone, consume-publish-ack/s a core": await measure_bare(samples // 5),
    }


@dataclass(frozen=True)
class Backlog:
    """Figures of a process that found samples waiting."""

    ready_s: float
    rate: float
    core_rate: float
    resident: float
    """At the end, MiB."""
    peak: float
    """At most, MiB."""


class Stage:
    """A nats-server, and a decision process to be started on it."""

    def __init__(self, config: Config, bus: Bus, processes: Processes) -> None:
        """Take what ``_stage`` prepared."""
        self.bus = bus
        self.page = ServicePage(config.listen.decision)
        self._config = config
        self._processes = processes

    async def start(self) -> float:
        """Start the process; gives the seconds until it was connected to the bus."""
        path = self._processes.home / "sluice.yaml"
        path.write_text(format_config(self._config), encoding="utf-8")
        began = time.monotonic()
        await self._processes.start("decision", find_program("sluice"), "decision", "--config", path)
        await self.page.wait_ready(self._processes, "decision", "bus")
        return time.monotonic() - began

    @property
    def pid(self) -> int:
        """Of the decision process."""
        return self._processes.pid("decision")

    async def wait_decisions(self, count: int) -> list[tuple[int, int]]:
        """Wait for so many decisions; gives the sequence of the sample and the time of each."""
        found = []
        async with asyncio.timeout(_PATIENCE_S), aclosing(self.bus.read("decision", follow=True)) as messages:
            async for raw in messages:
                found.append((int(raw.headers[SAMPLE_SEQ]), raw.published))
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def _stage(domains: int) -> AsyncIterator[Stage]:
    async with Processes() as processes:
        settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=60 * 1024 * 1024)
        targets = [
            Target(deployment=f"upload-{number}", min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
            for number in range(domains)
        ]
        critical = (Critical("robot-control"),)
        config = Config(
            domains=tuple(
                Domain(f"line-{number}", critical, (target,), "proportional") for number, target in enumerate(targets)
            ),
            bus=settings,
            listen=Listen("127.0.0.1", decision=find_free_ports(1)[0]),
            log="error",
        )
        async with Bus.connect(settings, "bench", lambda _: None) as bus:
            await bus.ensure_streams()
            yield Stage(config, bus, processes)


async def _publish(bus: Bus, domain: int, count: int, begin: int) -> None:
    for number in range(count):
        end = begin + number * _S
        p95 = 0.004 if number % 17 == 0 else 0.001
        measure = CriticalMeasure(
            workload="default/robot-control", jitter=p95 * 0.8, p95=p95, observations=400, lost=0.0, throughput=2000
        )
        sample = Sample(
            domain=f"line-{domain}", start=end - 2 * _S, end=end, period=_S, source="bench", critical=(measure,)
        )
        await bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=sample.id)


async def measure_backlog(domains: int, each: int) -> Backlog:
    """Start a process on samples that are already stored, and measure how fast it decides."""
    async with _stage(domains) as stage:
        begin = (time.time_ns() // _S - each) * _S
        await asyncio.gather(*(_publish(stage.bus, number, each, begin) for number in range(domains)))
        ready_s = await stage.start()
        cpu = await stage.page.metric("process_cpu_seconds_total")
        already = await stage.page.metric("sluice_decision_steps_total")
        found = await stage.wait_decisions(domains * each)
        times = [published for _, published in found]
        cpu = await stage.page.metric("process_cpu_seconds_total") - cpu
        return Backlog(
            ready_s,
            (len(times) - 1) / (max(times) - min(times)) * _S,
            (len(times) - already) / cpu,
            await stage.page.resident_mib(),
            read_peak(stage.pid),
        )


async def measure_paced(domains: int, seconds: int) -> dict[str, float]:
    """Measure under one sample a second for each domain, spread over the second."""
    async with _stage(domains) as stage:
        await stage.start()
        begin = (time.time_ns() // _S - 3600) * _S
        # In the first round every domain is new; it is not measured.
        await asyncio.gather(*(_publish(stage.bus, number, 1, begin) for number in range(domains)))
        await stage.wait_decisions(domains)
        cpu = await stage.page.metric("process_cpu_seconds_total")
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for tick in range(seconds * domains):
                at, number = divmod(tick, domains)
                await asyncio.sleep(max(began + tick / domains - time.monotonic(), 0))
                group.create_task(_publish(stage.bus, number, 1, begin + (at + 1) * _S))
        found = await stage.wait_decisions((seconds + 1) * domains)
        share = (await stage.page.metric("process_cpu_seconds_total") - cpu) / seconds
        sampled = {raw.seq: raw.published async for raw in stage.bus.read("sample")}
        late = sorted((published - sampled[seq]) / 1e6 for seq, published in found[domains:])
        what = f"{domains:,} domains at 1 Hz"
        return {
            f"{what}, share of a core": share,
            f"{what}, sample to decision p50, ms": late[len(late) // 2],
            f"{what}, sample to decision p99, ms": late[len(late) * 99 // 100],
        }


async def measure_bare(count: int) -> float:
    """Measure the same hops without a decision: consume a sample, publish a message of its size, acknowledge."""
    async with _stage(10) as stage:
        bus = stage.bus
        begin = (time.time_ns() // _S - count) * _S
        await asyncio.gather(*(_publish(bus, number, count // 10, begin) for number in range(10)))

        async def hop(received: Received[Sample]) -> None:
            await bus.publish(bus.subjects.decision("bare"), received.message, msg_id=received.message.id)
            await received.ack()

        left = count // 10 * 10
        began = time.process_time()
        async with asyncio.TaskGroup() as group, aclosing(bus.consume(Sample, "bare", "bench")) as samples:
            async for received in samples:
                group.create_task(hop(received))
                left -= 1
                if left == 0:
                    break
        return count / (time.process_time() - began)
