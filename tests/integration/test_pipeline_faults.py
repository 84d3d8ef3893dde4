"""The three services together: the signal disappears, the sampler falls silent, clocks jump."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas.messages import CriticalMeasure, Decision, Sample
from schemas.units import Rate
from services.bus.bus import Bus
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import Scene
from tests.support.decision_services import S, ServiceProcess, check, join, parse_config, read_stream
from tests.support.exporter_page import LiveExporter
from tests.support.fault_tally import Broken, Tally, judge, lateness
from tests.support.kube import servers
from tests.support.kube.servers import eventually
from tests.support.kube.write_trail import follow_trail
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.prometheus_server import PrometheusServer

PERIOD, WINDOW, DEAD_MAN = S // 2, 2 * S, 2 * S
SERVICES = ("decision", "actuator", "sampler")


def config_text(nats: NatsServer, scene: Scene, signal: str, dead_man: str) -> str:
    """A domain that rises fast, falls fast without data, and waits ``dead_man`` for decisions."""
    ports = ", ".join(f"{name}: {free_port()}" for name in SERVICES)
    return f"""
bus: {{servers: ['{nats.url}']}}
kubernetes: {{server: '{scene.server.config.server}'}}
listen: {{host: 127.0.0.1, {ports}}}
signal: {{period: 500ms, window: 2s, {signal}}}
log: warning
domains:
- name: line
  critical: [{{workload: robot-control, namespace: factory}}]
  targets: [{{deployment: app, namespace: {scene.server.namespace}, min: 5M, max: 80M, fail_safe: 10M}}]
  policy: proportional
  parameters: {{k_up: 1.0}}
  shield: {{rise_per_second: 1.0, decay: 1s}}
  dead_man: {dead_man}
  min_observations: 50
"""


@contextmanager
def services(home: Path, text: str) -> Iterator[dict[str, ServiceProcess]]:
    """All three, as processes."""
    running = {name: ServiceProcess(name, home / name, text) for name in SERVICES}
    try:
        for one in running.values():
            one.start()
        yield running
    finally:
        for one in running.values():
            one.kill()


async def high(scene: Scene) -> bool:
    """Whether the limit is far above the fail-safe limit."""
    bandwidth = await scene.bandwidth()
    return bandwidth is not None and Rate.parse(bandwidth) > 20_000


async def safe(scene: Scene) -> bool:
    """Whether the fail-safe limit or a lower one is in force."""
    bandwidth = await scene.bandwidth()
    return bandwidth is not None and Rate.parse(bandwidth) <= 10_000


async def has_decided_safe(bus: Bus) -> bool:
    """Whether the decision service has also reached the fail-safe limit; the actuator may have been faster."""
    return all(one.limit <= 10_000 for one in (await read_stream(bus, Decision))[-1].message.targets)


async def last_answer(bus: Bus) -> Decision | None:
    """The decision on the last sample."""
    sample = await bus.get_last(Sample, bus.subjects.sample("line"))
    decision = await bus.get_last(Decision, bus.subjects.decision("line"))
    assert sample is not None
    return decision.message if decision is not None and decision.message.end == sample.message.end else None


async def without(scene: Scene, away: Callable[[], Awaitable[object]]) -> float:
    """Remove the signal; return the delay of the fail-safe limit after it is due, seconds."""
    await away()
    due = time.time_ns() + WINDOW + DEAD_MAN
    await eventually(lambda: safe(scene))
    return (time.time_ns() - due) / S


@pytest.mark.parametrize("source", ["scrape", pytest.param("prometheus", marks=pytest.mark.prometheus)])
async def test_the_signal_goes_and_comes_back(nats: NatsServer, tmp_path: Path, tally: Tally, source: str) -> None:
    """Exporter or Prometheus away, then the sampler: fail-safe each time, no raise meanwhile, then a rise again."""
    emulator = Emulator(starts_after=None)
    with ExitStack() as parts:
        live = parts.enter_context(LiveExporter())
        live.mean = 0.0002
        live.traffic(500)
        signal, away, back = f"source: scrape, scrape: {{urls: ['{live.url}']}}", live.stop, live.start
        if source == "prometheus":
            server = PrometheusServer(tmp_path / "p", scrape=(live.address,), interval="500ms")
            parts.enter_context(server)
            signal = f"source: prometheus, prometheus: {{url: '{server.url}', scrape_interval: 500ms}}"
            away, back = server.freeze, server.thaw
        async with servers.emulate(emulator) as api, join(nats.url, "sluice") as bus:
            scene = Scene(api, bus)
            await api.deploy(replicas=2)
            await api.pods_of("app", 2)
            text = config_text(nats, scene, signal, "2s")
            async with follow_trail(api) as trail:
                with services(tmp_path, text) as running:
                    await eventually(lambda: high(scene))
                    blind = await without(scene, lambda: asyncio.to_thread(away))
                    await eventually(lambda: has_decided_safe(bus))
                    await asyncio.to_thread(back)
                    await eventually(lambda: high(scene))
                    running["sampler"].kill()
                    last = await eventually(lambda: last_answer(bus))
                    (silent, *_) = await scene.wait_for_reports(cause="dead-man", outcome="applied", seq=last.seq)
                    running["sampler"].start()
                    await eventually(lambda: high(scene))
                    verdict = await scene.judge(trail)
                    assert running["actuator"].stop() == 0
    tally.add("Prometheus or exporter down", f"1 outages, {verdict.writes} writes", judge(verdict), blind)
    tally.add("sampler silent", "1 kills", Broken(), lateness(silent, last.expires))


def make_sample(number: int, end: int) -> Sample:
    """A sample whose window ends at a time by the sampler's clock."""
    p95 = 0.004 if number % 7 == 0 else 0.0005
    measure = CriticalMeasure("factory/robot-control", p95 / 2, p95, 400, 0.0)
    return Sample("line", end - WINDOW, end, PERIOD, "test", (measure,))


async def test_clocks_jump(nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """The sampler's clock jumps by hours and minutes in both directions: correct samples are answered in order."""
    emulator = Emulator(starts_after=None)
    async with servers.emulate(emulator) as api, join(nats.url, "sluice") as bus:
        scene = Scene(api, bus)
        await api.deploy(replicas=2)
        await api.pods_of("app", 2)
        text = config_text(nats, scene, "source: scrape", "15s")
        begin = time.time_ns() - S
        honest = [make_sample(number, begin + number * S // 50) for number in range(50)]
        jumps = (3600, -3600, 300, -300, 86_400, -86_400, 30, -30)
        async with follow_trail(api) as trail:
            with services(tmp_path, text) as running:
                running["sampler"].kill()
                for number, sample in enumerate(honest):
                    shift = jumps[number % len(jumps)] * S
                    for one in (replace(sample, end=sample.end + shift, start=sample.start + shift), sample):
                        # The id distinguishes the two even if their dates are equal.
                        await bus.publish(bus.subjects.sample("line"), one, msg_id=f"{number}:{one.end}")

                async def answered() -> bool:
                    last = await bus.get_last(Decision, bus.subjects.decision("line"))
                    return last is not None and last.message.end == honest[-1].end

                await eventually(answered)
                decisions = [one.message for one in await read_stream(bus, Decision)]
                limit = decisions[-1].targets[0].limit

                async def in_force() -> bool:
                    return any(mark.kind == "Deployment" and mark.record["limit"] == limit for mark in trail.marks)

                await eventually(in_force)
                await check(bus, parse_config(text))
                verdict = await scene.judge(trail)
                assert running["actuator"].stop() == 0
    lost = {one.end for one in honest} - {one.end for one in decisions}
    tried = f"{len(honest)} jumps, {len(honest)} samples, {verdict.writes} writes"
    tally.add("clocks jump", tried, judge(verdict, lost=len(lost)))
