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

import click
from msgspec import Struct

from schemas.config import BusConfig, Config, Listen, Scrape, Signal
from schemas.domain import Critical, Domain, Shield, Target
from schemas.messages import Action, CriticalMeasure, Decision, M, Sample, decode, encode
from schemas.units import Duration, Rate
from services.bench.goals import show
from services.bench.signals.lag import SteppingPlant
from services.bench.speed.baseline_hops import BareHops, BarePatches, BareRound
from services.bench.speed.kube_apis import ASSETS, Api, start_emulator, start_real
from services.bus.bus import Bus
from services.bus.envelope import SAMPLE_SEQ, RawMessage
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import SERVICES, find_free_ports, find_program, format_config, start_nats
from services.plant.harness.processes import Processes
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile

SIZES = (3, 30)
_MS, _S = 10**6, 10**9
_PERIOD = 200 * _MS
_WARM_UP = 5
_PAUSE_S = 0.03
_PATIENCE_S = 60
_SAMPLED = "bench"
"""The domain whose samples come from the sampler; those of the others are the bench's own."""


class Round(Struct, frozen=True):
    """One sample that moved a limit; ns."""

    decide: int
    act: int

    @property
    def whole(self) -> int:
        """From the sample to the last patch's answer."""
        return self.decide + self.act


class MeasuredDomain:
    """The domain of one target: samples that keep its limit moving, and the bare hops beside it."""

    def __init__(self, bus: Bus, pods: int, hops: BareHops, patches: BarePatches) -> None:
        """Publish on the bus as the sampler would."""
        self._bus = bus
        self._pods = pods
        self._domain = _domain(pods)
        self._target = self._domain.targets[0]
        self._limit = 0
        self._hops = hops
        self._patches = patches
        subjects, key = bus.subjects, self._target.key
        self._decisions = bus.read("decision", subject=subjects.decision(self._domain.name), follow=True)
        self._actions = bus.read("action", subject=subjects.action(self._domain.name, key), follow=True)
        self._rounds: list[Round] = []
        self._bare_rounds: list[BareRound] = []

    async def close(self) -> None:
        """Stop listening."""
        await self._decisions.aclose()
        await self._actions.aclose()

    async def play_round(self, *, keep: bool) -> None:
        """Publish a sample and wait for its patches' answers; it counts only if it moves the limit."""
        high = self._limit > 0.8 * self._target.max
        sample = _sample(self._domain, time.time_ns(), 0.004 if high else 0.0005)
        began = time.time_ns()
        seq = await self._bus.publish(self._bus.subjects.sample(sample.domain), sample, msg_id=sample.id)
        raw, decision = await _next(self._decisions, Decision, lambda one, _: one.headers.get(SAMPLE_SEQ) == str(seq))
        before, self._limit = self._limit, decision.targets[0].limit
        if before in (0, self._limit):
            return
        patched: set[str] = set()
        # On a busy machine, a Pod that has changed meanwhile is patched after the others, and reported by itself.
        while len(patched) < self._pods:
            _, action = await _next(
                self._actions, Action, lambda _, one: one.decision == decision.id and one.outcome == "applied"
            )
            patched |= {one.pod for one in action.pods}
        assert action.applied is not None
        if keep:
            self._rounds.append(Round(raw.published - began, action.applied - raw.published))

    async def play_bare_round(self, *, keep: bool) -> None:
        """Send two messages and the patches, with no work between them."""
        one = BareRound(await self._hops.send(), await self._patches.send())
        if keep:
            self._bare_rounds.append(one)

    def figures(self) -> dict[str, float]:
        """Percentiles of the rounds, ms, and how many times those of the bare hops they are."""
        of = f"{self._pods} pods"
        whole = _percentiles(f"{of}, sample to patches", [one.whole for one in self._rounds])
        bare = _percentiles(f"{of}, bare hops", [one.whole for one in self._bare_rounds])
        figures = _percentiles(f"{of}, decide", [one.decide for one in self._rounds])
        figures |= _percentiles(f"{of}, act", [one.act for one in self._rounds])
        figures |= whole | bare
        figures |= _percentiles(f"{of}, of these the two messages", [one.hops for one in self._bare_rounds])
        for name, ours, theirs in zip(("p50", "p99"), whole.values(), bare.values(), strict=True):
            figures[f"{of}, times the bare hops, {name}"] = ours / theirs
        return figures


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
    target = Target(deployment=f"product-{pods}", min=Rate(5000), max=Rate(80_000), fail_safe=Rate(10_000))
    return Domain(
        name=f"line-{pods}",
        critical=(Critical("robot"),),
        targets=(target,),
        policy="proportional",
        parameters={"k_up": 0.05},
        shield=Shield(rise_per_second=1.0, deadband=0.0005),
        dead_man=Duration(60 * _S),
    )


def _sample(domain: Domain, end: int, p95: float) -> Sample:
    measure = CriticalMeasure(
        workload=domain.critical[0].key, jitter=p95 / 2, p95=p95, observations=400, lost=0.0, throughput=2000
    )
    return Sample(
        domain=domain.name, start=end - 2 * _PERIOD, end=end, period=_PERIOD, source="bench", critical=(measure,)
    )


def _configuration(nats: str, api: Api, page: str) -> Config:
    sensed = Domain(
        _SAMPLED,
        (Critical("robot", "bench"),),
        (Target(deployment="nobody", min=Rate(1000), max=Rate(2000), fail_safe=Rate(1000)),),
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
        listen=Listen("127.0.0.1", *find_free_ports(3)),
        log="error",
    )


async def measure(start_api: Callable[[Processes], Awaitable[Api]], rounds: int) -> dict[str, float]:
    """Play rounds against one Kubernetes API; gives figures by name, ms."""
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes())
        stack.push_async_callback(processes.stop)
        nats, api = await start_nats(processes), await start_api(processes)
        page = stack.enter_context(MetricsPage([SteppingPlant((), time.time_ns())]))
        config = _configuration(nats, api, page.url)
        bus = await stack.enter_async_context(Bus.connect(config.bus, "bench", lambda _: None))
        await bus.ensure_streams()
        client = await stack.enter_async_context(api.client())
        domains = []
        for pods in SIZES:
            await api.deploy(f"product-{pods}", pods, {})
            patches = BarePatches(client, await api.deploy(f"bare-{pods}", pods, BarePatches.BEGIN))
            sample = encode(_sample(_domain(pods), time.time_ns(), 0.001))
            # A decision is about twice as long as its sample.
            hops = await stack.enter_async_context(BareHops.open(config.bus, f"bare{pods}", (sample, sample * 2)))
            domains.append(MeasuredDomain(bus, pods, hops, patches))
            stack.push_async_callback(domains[-1].close)
        path = processes.home / "sluice.yaml"
        path.write_text(format_config(config), encoding="utf-8")
        for name in SERVICES[:2]:
            await processes.start(name, find_program("sluice"), name, "--config", path)
        for number in range(_WARM_UP + rounds):
            for domain in domains:
                for play in (domain.play_round, domain.play_bare_round):
                    await play(keep=number >= _WARM_UP)
                    await asyncio.sleep(_PAUSE_S)
        # Last, because another domain's samples would share the processes with the rounds.
        await processes.start("sampler", find_program("sluice"), "sampler", "--config", path)
        figures = await _time_samples(bus, rounds)
        for domain in domains:
            figures |= domain.figures()
        return figures


async def _time_samples(bus: Bus, count: int) -> dict[str, float]:
    """Wait for samples of the sampler; gives how long after its window each was stored, ms."""
    late: list[int] = []
    subject = bus.subjects.sample(_SAMPLED)
    async with (
        asyncio.timeout(_PATIENCE_S + count),
        aclosing(bus.read("sample", subject=subject, follow=True)) as found,
    ):
        async for raw in found:
            late.append(raw.published - decode(Sample, raw.body).end)
            if len(late) == count:
                break
    return _percentiles("sense", late)


def _percentiles(name: str, durations: Sequence[int]) -> dict[str, float]:
    ordered = sorted(durations)
    places = (("p50", len(ordered) // 2), ("p99", len(ordered) * 99 // 100))
    return {f"{name} {percentile}, ms": ordered[at] / _MS for percentile, at in places}


@click.command()
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="How many samples a size of Deployment gets.",
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
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
        show(f"pipeline on the {name}", asyncio.run(measure(start, rounds)), goals, path)
