"""What an instance costs the decision service: one process, two samples a second of each instance, few and many."""

import asyncio
import time
from pathlib import Path

from msgspec import Struct

from schemas.config import BusConfig, Config, Listen
from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample, TargetMeasure
from schemas.units import Rate
from services.bench.speed.service_page import ServicePage
from services.bus.bus import Bus
from services.plant.harness.pipeline import find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes

_S = 10**9
_PERIOD = _S // 2
SIZES = (10, 100, 1000)
"""Numbers of instances."""


class Cost(Struct, frozen=True):
    """Of one decision service with so many instances."""

    instances: int
    share: float
    """Of a core, at two samples a second and instance."""
    resident_mib: float
    decided: float
    """Share of the samples that were decided on by the end."""


async def measure_cost(instances: int, seconds: int) -> Cost:
    """Run one process with so many instances under ``learned`` for so long."""
    async with Processes() as processes:
        settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=60 * 1024 * 1024)
        domains = tuple(_build_domain(number) for number in range(instances))
        listen = Listen("127.0.0.1", decision=find_free_ports(1)[0])
        path = processes.home / "sluice.yaml"
        config = Config(domains, settings, listen=listen, log="error")
        path.write_text(format_config(config), encoding="utf-8")
        async with Bus.connect(settings, "bench", lambda _: None) as bus:
            await bus.ensure_streams()
            page = ServicePage(listen.decision)
            await processes.start("decision", find_program("sluice"), "decision", "--config", path)
            await page.wait_ready(processes, "decision", "bus")
            begin = time.time_ns() // _PERIOD * _PERIOD - 3600 * _S
            await publish_round(bus, domains, begin)  # every instance is new in the first round
            cpu, at = await page.metric("process_cpu_seconds_total"), time.monotonic()
            for number in range(1, 2 * seconds + 1):
                await publish_round(bus, domains, begin + number * _PERIOD)
                await asyncio.sleep(max(at + number / 2 - time.monotonic(), 0))
            used = await page.metric("process_cpu_seconds_total") - cpu
            steps = await page.metric("sluice_decision_steps_total")
            # On a slow machine the rounds take longer than they should: what they cost is what counts.
            decided = steps / ((2 * seconds + 1) * instances)
            return Cost(instances, used / seconds, await page.resident_mib(), decided)


async def publish_round(bus: Bus, domains: tuple[Domain, ...], end: int) -> None:
    """Publish a sample of each domain that ends at ``end``, UTC ns."""
    async with asyncio.TaskGroup() as group:
        for domain in domains:
            sample = _build_sample(domain, end)
            group.create_task(bus.publish(bus.subjects.sample(domain.name), sample, msg_id=sample.id))


def _build_domain(number: int) -> Domain:
    target = Target(deployment=f"shipper-{number}", min=Rate(1000), max=Rate(100_000), fail_safe=Rate(20_000))
    return Domain(f"uplink@node-{number}", (Critical("robot"),), (target,), capacity=Rate(100_000))


def _build_sample(domain: Domain, end: int) -> Sample:
    load = 20_000 + end // _PERIOD * 37 % 3000
    critical = CriticalMeasure("default/robot", 0.0001, 0.0005, 400, 0.0, load, recent=load, recent_p50=0.0004)
    target = TargetMeasure(domain.targets[0].key, 60_000, 60_000, 10)
    return Sample(domain.name, end - 4 * _PERIOD, end, _PERIOD, "bench", (critical,), (target,))


def measure_growth(seconds: int) -> list[Cost]:
    """At 10, 100 and 1,000 instances."""
    return [asyncio.run(measure_cost(instances, seconds)) for instances in SIZES]


def summarize_growth(costs: list[Cost]) -> dict[str, float]:
    """Figures, and memory by instance: what the many need beyond the few."""
    figures: dict[str, float] = {}
    for one in costs:
        figures[f"{one.instances:,} instances at 2 Hz, share of a core"] = one.share
        figures[f"{one.instances:,} instances, resident, MiB"] = one.resident_mib
        figures[f"{one.instances:,} instances, samples decided on, %"] = 100 * one.decided
    first, last = costs[0], costs[-1]
    grown = (last.resident_mib - first.resident_mib) / (last.instances - first.instances)
    return {**figures, "memory of an instance, KiB": 1024 * grown}


def draw_growth(costs: list[Cost], path: Path) -> None:
    """Draw processor and memory over the number of instances as SVG; needs the extra ``pictures``."""
    import matplotlib as mpl  # noqa: PLC0415 - of the extra; the figures need none of it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sluice"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    count = [one.instances for one in costs]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot(count, [100 * one.share for one in costs], marker="o")
    left.set(xscale="log", yscale="log", xlabel="instances", ylabel="% of a core at 2 Hz", title="decision service")
    right.plot(count, [one.resident_mib for one in costs], marker="o")
    right.set(xscale="log", ylim=(0, None), xlabel="instances", ylabel="MiB resident", title="memory")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
