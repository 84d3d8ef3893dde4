"""How soon a changed definition reaches every instance: file -> actuator -> bus -> decision service, as processes.

Every instance has a sample a second meanwhile.  All times but the change's are the server's.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.config import BusConfig, Config, Kubernetes, Listen
from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import decode
from services.bench.fleet.cluster import build_template, start_cluster
from services.bench.fleet.cost import publish_round
from services.bench.speed.service_page import ServicePage
from services.bus.bus import Bus
from services.plant.harness.pipeline import find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes

_S = 10**9
_EVERY_S = 1.0
_PATIENCE_S = 180
LAST_DECISION = "from the change of the file to the last instance's first decision under it, s"


class _Head(Struct):
    """The part of a decision that is of interest here."""

    domain: str
    definition: int = 0


_HEADS = msgspec.json.Decoder(_Head)


async def measure_change(instances: int) -> dict[str, float]:
    """Change the file under so many instances; gives when it had reached the first, half and the last of them, s."""
    async with Processes() as processes:
        api = await start_cluster(processes, instances, 0)
        settings = BusConfig(servers=(await start_nats(processes),), keep_bytes=90 * 1024 * 1024)
        path = processes.home / "sluice.yaml"
        ports = find_free_ports(2)
        listen = Listen("127.0.0.1", decision=ports[0], actuator=ports[1])
        _write(path, settings, listen, api.config, 100_000)
        async with Bus.connect(settings, "bench", lambda _: None) as bus, asyncio.timeout(_PATIENCE_S):
            await bus.ensure_streams()
            for name in ("decision", "actuator"):
                await processes.start(name, find_program("sluice"), name, "--config", path)
            await ServicePage(listen.decision).wait_ready(processes, "decision", "bus")
            domains = await wait_for_instances(bus, instances)
            feeding = asyncio.create_task(_feed(bus, domains))
            try:
                changed, reached = await _follow_change(
                    bus, instances, lambda: _write(path, settings, listen, api.config, 90_000)
                )
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            async with aclosing(bus.read("definition")) as messages:
                published = [raw.published async for raw in messages if raw.published > changed]
    return {
        "from the change of the file to its first definition on the bus, s": (published[0] - changed) / _S,
        "from the change of the file to its last definition on the bus, s": (published[-1] - changed) / _S,
        "from the change of the file to half of the first decisions under it, s": (reached[instances // 2] - changed)
        / _S,
        LAST_DECISION: (reached[-1] - changed) / _S,
    }


def _write(path: Path, bus: BusConfig, listen: Listen, kubernetes: Kubernetes, most: int) -> None:
    config = Config((build_template(most),), bus, kubernetes=kubernetes, listen=listen, log="error")
    new = path.with_suffix(".new")
    new.write_text(format_config(config), encoding="utf-8")
    new.replace(path)


async def wait_for_instances(bus: Bus, count: int) -> tuple[Domain, ...]:
    """Wait until the actuator has published so many instances; gives them."""
    found: dict[str, Domain] = {}
    async with aclosing(bus.read("definition", follow=True)) as messages:
        async for raw in messages:
            definition = decode(Definition, raw.body)
            found[definition.domain] = definition.configuration
            if len(found) == count:
                break
    return tuple(found.values())


async def _feed(bus: Bus, domains: tuple[Domain, ...]) -> None:
    """Publish a sample of each instance every second, until cancelled."""
    at = time.monotonic()
    while True:
        # A sample ends at a whole period.
        await publish_round(bus, domains, time.time_ns() // (_S // 2) * (_S // 2))
        at += _EVERY_S
        await asyncio.sleep(max(at - time.monotonic(), 0))


async def _follow_change(bus: Bus, instances: int, change: Callable[[], None]) -> tuple[int, Sequence[int]]:
    """Change the definition once every instance is decided on; gives when that was, and each one's first decision."""
    before: dict[str, int] = {}
    reached: dict[str, int] = {}
    changed = 0
    async with aclosing(bus.read("decision", start="new", follow=True)) as decisions:
        async for raw in decisions:
            head = _HEADS.decode(raw.body)
            if not changed:
                before[head.domain] = head.definition
                if len(before) == instances:
                    changed = time.time_ns()
                    change()
            elif head.definition > before[head.domain]:
                reached.setdefault(head.domain, raw.published)
                if len(reached) == instances:
                    break
    return changed, sorted(reached.values())
