"""``sluice bench pipeline``: from a sample on the bus to its patches' answers, beside the bare hops.

Decision, actuator and sampler run as processes on a real nats-server, against the emulator and, where
``KUBEBUILDER_ASSETS`` names one, a real API server.  Rounds of the product and of the bare hops take
turns, so that whatever else the machine does falls on both alike.

    sense    end of a window -> its sample stored on the bus
    decide   sample published -> decision stored on the bus
    act      decision stored -> the last patch's answer
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from schemas.config import BusConfig, Config, Listen, Scrape, Signal
from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import Action, CriticalMeasure, Decision, M, Sample, decode, encode
from schemas.units import Duration, Rate
from services.bench.goals import show
from services.bench.signals.lag import Steps
from services.bench.speed.baseline_hops import Hops, Patches, Took
from services.bench.speed.kube_apis import ASSETS, Api, start_emulator, start_real
from services.bus.bus import Bus
from services.bus.envelope import SAMPLE_SEQ, RawMessage
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import SERVICES, free_ports, program, start_nats, written
from services.plant.harness.processes import Processes
from services.runtime import logging_setup

SIZES = (3, 30)
_MS, _S = 10**6, 10**9
_PERIOD = 200 * _MS
_WARM_UP = 5
_PAUSE_S = 0.03
_PATIENCE_S = 60
_SENSED = "bench"
"""The domain whose samples come from the sampler; the others' are the bench's own."""


class Round(Struct, frozen=True):
    """One sample that moved a limit; ns."""

    decide: int
    act: int

    @property
    def whole(self) -> int:
        """From the sample to the last patch's answer."""
        return self.decide + self.act


class Line:
    """One target's domain: samples that keep its limit moving, and the bare hops beside it."""

    def __init__(self, bus: Bus, pods: int, bare: Callable[[], Awaitable[Took]]) -> None:
        """Speak on the bus as the sampler would."""
        self._bus = bus
        self._pods = pods
        self.domain = _domain(pods)
        self._target = self.domain.targets[0]
        self._limit = 0
        self._decisions = bus.read("decision", subject=bus.subjects.decision(self.domain.name), follow=True)
        self._actions = bus.read("action", subject=bus.subjects.action(self.domain.name, self._target.key), follow=True)
        self.bare = bare
        self.rounds: list[Round] = []
        self.hops: list[Took] = []

    async def close(self) -> None:
        """Stop listening."""
        await self._decisions.aclose()
        await self._actions.aclose()

    async def go(self) -> Round | None:
        """One sample, up to the patches' answers; None where it moves no limit."""
        high = self._limit > 0.8 * self._target.max
        sample = _sample(self.domain, time.time_ns(), 0.004 if high else 0.0005)
        began = time.time_ns()
        seq = await self._bus.publish(self._bus.subjects.sample(sample.domain), sample, msg_id=sample.id)
        raw, decision = await _next(self._decisions, Decision, lambda one, _: one.headers.get(SAMPLE_SEQ) == str(seq))
        before, self._limit = self._limit, decision.targets[0].limit
        if before in (0, self._limit):
            return None
        _, action = await _next(
            self._actions, Action, lambda _, one: one.decision == decision.id and one.outcome == "applied"
        )
        assert action.applied is not None
        assert len(action.pods) == self._pods, action
        return Round(raw.published - began, action.applied - raw.published)


async def _next(
    messages: AsyncGenerator[RawMessage, None], kind: type[M], fits: Callable[[RawMessage, M], bool]
) -> tuple[RawMessage, M]:
    async with asyncio.timeout(_PATIENCE_S):
        async for raw in messages:
            message = decode(kind, raw.body)
            if fits(raw, message):
                return raw, message
    raise AssertionError("the bus is read for ever")


def _domain(pods: int) -> Domain:
    target = Target(f"product-{pods}", min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
    return Domain(
        f"line-{pods}", (Critical("robot"),), (target,), "proportional", {"k_up": 0.05},
        shield=Shield(rise_per_second=1.0, deadband=0.0005), dead_man=Duration(60 * _S),
    )  # fmt: skip


def _sample(domain: Domain, end: int, p95: float) -> Sample:
    measure = CriticalMeasure(domain.critical[0].key, p95 / 2, p95, 400, 0.0, 2000)
    return Sample(domain.name, end - 2 * _PERIOD, end, _PERIOD, "bench", (measure,))


def _configuration(nats: str, api: Api, page: str) -> Config:
    sensed = Domain(
        _SENSED,
        (Critical("robot", "bench"),),
        (Target("nobody", Rate(1000), Rate(2000), Rate(1000)),),
        dead_man=Duration(60 * _S),
        min_observations=10,
    )
    return Config(
        domains=(*(_domain(pods) for pods in SIZES), sensed),
        bus=BusConfig(servers=(nats,), keep_bytes=40 * 1024 * 1024),
        signal=Signal(
            period=Duration(_PERIOD), window=Duration(2 * _PERIOD), timeout=Duration(_S), scrape=Scrape((page,))
        ),
        kubernetes=api.config,
        listen=Listen("127.0.0.1", *free_ports(3)),
        log="error",
    )


async def measured(start_api: Callable[[Processes], Awaitable[Api]], rounds: int) -> dict[str, float]:
    """Play rounds against one Kubernetes API; gives figures by name, ms."""
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes())
        stack.push_async_callback(processes.stop)
        nats, api = await start_nats(processes), await start_api(processes)
        page = stack.enter_context(MetricsPage([Steps((), time.time_ns())]))
        config = _configuration(nats, api, page.url)
        bus = await stack.enter_async_context(Bus.connect(config.bus, "bench", lambda _: None))
        await bus.ensure_streams()
        client = await stack.enter_async_context(api.client())
        lines = []
        for pods in SIZES:
            await api.deploy(f"product-{pods}", pods, {})
            patches = Patches(client, await api.deploy(f"bare-{pods}", pods, Patches.BEGIN))
            line = Line(bus, pods, await _bare(stack, config.bus, pods, patches))
            stack.push_async_callback(line.close)
            lines.append(line)
        (processes.home / "sluice.yaml").write_text(written(config), encoding="utf-8")
        for name in SERVICES[:2]:
            await processes.start(name, program("sluice"), name, "--config", processes.home / "sluice.yaml")
        await _played(lines, rounds)
        # Last, because another domain's samples would share the processes with the rounds.
        await processes.start("sampler", program("sluice"), "sampler", "--config", processes.home / "sluice.yaml")
        return {**_told("sense", await _sensed(bus, rounds)), **_figures(lines)}


async def _bare(
    stack: AsyncExitStack, settings: BusConfig, pods: int, patches: Patches
) -> Callable[[], Awaitable[Took]]:
    sample = _sample(_domain(pods), time.time_ns(), 0.001)
    # A decision is about twice as long as its sample.
    bodies = encode(sample), encode(sample) * 2
    hops = await stack.enter_async_context(Hops.joined(settings, f"bare{pods}", bodies))

    async def go() -> Took:
        return Took(await hops.go(), await patches.go())

    return go


async def _played(lines: Sequence[Line], rounds: int) -> None:
    for number in range(_WARM_UP + rounds):
        for line in lines:
            for go, kept in ((line.go, line.rounds), (line.bare, line.hops)):
                took: Any = await go()
                if took is not None and number >= _WARM_UP:
                    kept.append(took)
                await asyncio.sleep(_PAUSE_S)


async def _sensed(bus: Bus, count: int) -> list[int]:
    late: list[int] = []
    subject = bus.subjects.sample(_SENSED)
    async with (
        asyncio.timeout(_PATIENCE_S + count),
        aclosing(bus.read("sample", subject=subject, follow=True)) as found,
    ):
        async for raw in found:
            late.append(raw.published - decode(Sample, raw.body).end)
            if len(late) == count:
                break
    return late


def _figures(lines: Sequence[Line]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for line, pods in zip(lines, SIZES, strict=True):
        of = f"{pods} pods"
        whole = _told(f"{of}, sample to patches", [one.whole for one in line.rounds])
        bare = _told(f"{of}, bare hops", [one.whole for one in line.hops])
        figures |= _told(f"{of}, decide", [one.decide for one in line.rounds])
        figures |= _told(f"{of}, act", [one.act for one in line.rounds])
        figures |= whole | bare | _told(f"{of}, of these the two messages", [one.hops for one in line.hops])
        for name, ours, theirs in zip(("p50", "p99"), whole.values(), bare.values(), strict=True):
            figures[f"{of}, times the bare hops, {name}"] = ours / theirs
    return figures


def _told(what: str, took: Sequence[int]) -> dict[str, float]:
    ordered = sorted(took)
    places = (("p50", len(ordered) // 2), ("p99", len(ordered) * 99 // 100))
    return {f"{what} {name}, ms": ordered[at] / _MS for name, at in places}


@click.command()
@click.option("--rounds", default=200, show_default=True, help="How many samples a size of Deployment gets.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Add the figures to this file.")
def command(rounds: int, path: Path | None) -> None:
    """From a sample to its patches' answers, beside the bare hops."""
    logging_setup.configure("bench", "error")
    goals = {f"{pods} pods, times the bare hops, {name}": "<= 2" for pods in SIZES for name in ("p50", "p99")}
    apis = [("emulator", start_emulator)]
    if os.environ.get(ASSETS):
        apis.append(("real API server", start_real))
    else:
        click.echo(f"Without {ASSETS} only the emulator is measured.")
    for name, start in apis:
        show(f"pipeline on the {name}", asyncio.run(measured(start, rounds)), goals, path)
