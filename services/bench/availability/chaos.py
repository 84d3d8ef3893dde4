"""``sluice bench chaos``: every part of a highly available installation is killed at random, under load.

Real parts: nats-servers and services are processes, killed with SIGKILL and started again.  A third of them are frozen
first: like those of a node that is gone, they close no connection.  The factory is simulated
and the Kubernetes API emulated, so that the figures are those of Sluice.  The factory plays the demo over and over,
whose middle third doubles the scanner's load.

A kill's take-over ends with the next decision on the bus (sampler, decision service, NATS server), or, for the actuator
that holds the Lease, when the other one holds it.  The promises are about one failure at a time: a part is killed once
all others of its kind are ready again, however long a busy machine takes to start them.
"""

import asyncio
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import click
from msgspec import Struct, field, structs
from rich.console import Console

from schemas.config import Config
from schemas.domain import Domain
from schemas.messages import Action, Decision, decode
from services.bench.availability.parts import LEASE, REPLICAS, ProcessPart, build_config, build_servers, build_services
from services.bench.goals import show
from services.plant.harness.bandwidth_agent import BandwidthAgent, EnforcedLimit
from services.plant.harness.manifests import build_manifests
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import find_free_ports
from services.plant.harness.run import ScenarioRun, play_events
from services.plant.interface import Second
from services.plant.kube_emulator.emulator import Emulator
from services.plant.scenario import SCENARIOS
from services.plant.score import is_bad
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile, FiniteRange, ResultFolder
from services.tools.audit.auditor import Auditor, Findings
from services.tools.common.bus_reader import MessageRange, connect_reader
from services.tools.common.message_source import MessageSource

_NS = 10**9
_READY_S = 120.0
_POLL_S = 0.02
_DOWN_S = (0.5, 3.0)
"""How long a killed part stays away."""
_FROZEN = 1 / 3
_SETTLE_S = 3.0
"""From when all parts are ready again to the audit."""
_RULES = ("sequence", "decision", "bounds", "fence")
"""The audit's rules about what was done; the others are about how it was reported."""
_BOUNDS = {
    "parts that ended by themselves": "<= 0",
    "pods restarted": "<= 0",
    "limits out of bounds, or none": "<= 0",
    "decisions and limits that broke a rule of the audit": "<= 0",
    "actuator: worst take-over, s": "<= 3",
    "worst time from a decision to its limit in force, s": "<= 5",
}


class Kill(Struct):
    """One part that was killed."""

    kind: str
    frozen: bool
    at: int
    """UTC ns."""
    over_s: float | None = None
    """Seconds until another had taken over; None: nothing was to be taken over, or not within the run."""


class Observed(Struct):
    """What a run showed."""

    kills: list[Kill] = field(default_factory=list)
    seconds: list[Second] = field(default_factory=list)
    limits: list[EnforcedLimit] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    decided: list[int] = field(default_factory=list)
    """When each decision was stored, UTC ns."""
    handed_over: list[int] = field(default_factory=list)
    """When another actuator held the Lease, UTC ns."""
    acted_s: list[float] = field(default_factory=list)
    """From a decision on the bus to the last patch that it caused."""
    fail_safes: int = 0
    """How often the dead-man put a fail-safe limit in force."""
    restarted: int = 0
    ended: int = 0
    """Parts that ended by themselves."""

    def note_action(self, action: Action, stored: int | None) -> None:
        """Note what the actuator reported; ``stored`` is when its decision came to the bus, UTC ns."""
        if action.outcome == "applied":
            self.fail_safes += action.cause == "dead-man"
            if action.cause == "decision" and stored is not None and action.applied is not None:
                self.acted_s.append((action.applied - stored) / _NS)


class ChaosStage:
    """The running parts."""

    def __init__(self, home: Path, seed: int) -> None:
        """Prepare; ``running`` does the work."""
        self._home = home
        self.scenario = SCENARIOS["demo"]
        self.domain: Domain = self.scenario.domain()
        start = time.time_ns()
        self.plant = RealtimePlant(SimulatedPlant.for_apps(self.scenario.apps, seed=seed, start=start))
        self.emulator = Emulator()
        self.parts: list[ProcessPart] = []
        self.config: Config | None = None
        self.observed = Observed()

    @property
    def holder(self) -> str | None:
        """Who holds the Lease."""
        tree = self.emulator.objects.get(("leases.coordination.k8s.io", *LEASE))
        return None if tree is None else tree["spec"].get("holderIdentity")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start everything, and yield once every service is ready.

        Raises:
            TimeoutError: a part is not ready in time.
        """
        self.emulator.apply(build_manifests(self.scenario.apps, self.domain))
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"leaseDurationSeconds": 2}}
        self.emulator.apply([{**lease, "metadata": dict(zip(("namespace", "name"), LEASE, strict=True))}])
        async with AsyncExitStack() as stack:
            page = stack.enter_context(MetricsPage([self.plant]))
            api = await stack.enter_async_context(self.emulator)
            agent = BandwidthAgent(api, [self.plant], on_change=self.observed.limits.append)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for task in [group.create_task(one) for one in (agent.run(), self._play(page), self._watch_holder())]:
                stack.callback(task.cancel)
            await agent.wait_until_enforced()
            servers = build_servers(self._home)
            self.config = build_config(self.domain, servers, api, page.url)
            ports = (find_free_ports(3) for _ in range(REPLICAS))
            listens = (structs.replace(self.config.listen, **dict(zip(_PORTS, three, strict=True))) for three in ports)
            configs = {number: structs.replace(self.config, listen=one) for number, one in enumerate(listens)}
            self.parts = [*servers, *build_services(self._home, configs)]
            for part in self.parts:
                await part.start()
                stack.push_async_callback(part.stop)
            await self.wait_until_ready(self.parts)
            yield

    async def _play(self, page: MetricsPage) -> None:
        run = ScenarioRun(self.scenario.name, self.scenario, self.domain, self.plant, controlled=True)
        while True:
            await play_events([run], time.time_ns(), page.disturb)

    async def _watch_holder(self) -> None:
        known = self.holder
        while True:
            if (now := self.holder) not in (known, None):
                self.observed.handed_over.append(time.time_ns())
                known = now
            await asyncio.sleep(_POLL_S)

    async def wait_until_ready(self, parts: Iterable[ProcessPart]) -> None:
        """Wait until each of these takes connections (NATS server), or says that it is ready.

        Raises:
            TimeoutError: one is not ready in time.
        """
        async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as session:
            waiting = list(parts)
            while waiting:
                waiting = waiting[1:] if await _is_ready(waiting[0], session) else waiting
                await asyncio.sleep(_POLL_S)

    async def kill(self, part: ProcessPart, down_s: float, *, frozen: bool) -> None:
        """Kill or freeze a part, and start it again after a while."""
        self.observed.kills.append(Kill(part.kind, frozen, time.time_ns()))
        if frozen:
            part.freeze()
        else:
            await part.kill()
        await asyncio.sleep(down_s)
        await part.kill()
        await part.start()


async def _is_ready(part: ProcessPart, session: aiohttp.ClientSession) -> bool:
    try:
        if part.kind == "nats":
            _, writer = await asyncio.open_connection("127.0.0.1", part.port)
            writer.close()
            return True
        async with session.get(f"http://127.0.0.1:{part.port}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False


_PORTS = ("sampler", "decision", "actuator")


async def run_chaos(home: Path, seconds: float, every_s: float, seed: int) -> Observed:
    """Kill parts at random for a time, then audit the bus.

    Args:
        home: for files and logs.
        seconds: how long.
        every_s: mean time between two kills; each kind is drawn equally often.
        seed: of the kills and of the plant.

    Raises:
        TimeoutError: a part is not ready in time.
    """
    choose = random.Random(seed)  # noqa: S311 - repeatable kills, not secrets
    stage = ChaosStage(home, seed)
    async with stage.running():
        uids = _list_pods(stage)
        stage.plant.take_seconds()
        stage.observed.limits.clear()
        ends = time.monotonic() + seconds
        kinds: list[str] = []
        while time.monotonic() < ends:
            await asyncio.sleep(choose.uniform(0.5, 1.5) * every_s)
            if not kinds:
                kinds = choose.sample(("nats", "sampler", "decision", "actuator"), 4)
            kind = kinds.pop()
            down_s = 4.0 if kind == "actuator" else choose.uniform(*_DOWN_S)
            for part in stage.parts:
                if not part.runs:  # a kubelet would start it again
                    stage.observed.ended += 1
                    await part.start()
            alike = [one for one in stage.parts if one.kind == kind]
            await stage.wait_until_ready(alike)
            part = choose.choice(alike)
            await stage.kill(part, down_s, frozen=choose.random() < _FROZEN)
        await stage.wait_until_ready(stage.parts)
        await asyncio.sleep(_SETTLE_S)
        observed = stage.observed
        observed.seconds = list(stage.plant.take_seconds())
        observed.restarted = len(uids - _list_pods(stage))
        assert stage.config is not None
        await _audit(stage.config, observed)
    return observed


def _list_pods(stage: ChaosStage) -> set[str]:
    return {pod["metadata"]["uid"] for _, pod in stage.emulator.objects.list_objects("pods")}


async def _audit(config: Config, observed: Observed) -> None:
    """Read the whole bus: check every rule, and note when decisions and actions came."""
    scope = MessageRange()
    source = MessageSource(None, config.bus, config.domains)
    auditor = Auditor.open(source, scope)
    async with connect_reader(config.bus, "reader") as reader, aclosing(reader.read_stored(scope)) as messages:
        stored: dict[str, int] = {}
        async for message in messages:
            auditor.check(message)
            if message.kind == "decision":
                observed.decided.append(message.time)
                stored[decode(Decision, message.payload).id] = message.time
            elif message.kind == "action":
                action = decode(Action, message.payload)
                observed.note_action(action, stored.get(action.decision or ""))
    observed.findings = auditor.finish()
    actuators = [one.at for one in observed.kills if one.kind == "actuator"]
    for kill in observed.kills:
        # Only the end of the actuator that holds the Lease hands it over, before another actuator is killed.
        until = min((at for at in actuators if at > kill.at), default=None) if kill.kind == "actuator" else None
        signs = observed.handed_over if kill.kind == "actuator" else observed.decided
        later = min((at for at in signs if at > kill.at and (until is None or at < until)), default=None)
        kill.over_s = None if later is None else (later - kill.at) / _NS


def count_out_of_bounds(limits: list[EnforcedLimit], domain: Domain) -> int:
    """How many limits in force were none, or above the target's maximum; the audit has the minimum, of all Pods."""
    bounds = {target.key: target for target in domain.targets}
    return sum(one.kbit is None or not 0 < one.kbit <= bounds[one.target].max for one in limits if one.target in bounds)


def summarize(observed: Observed, domain: Domain) -> dict[str, float]:
    """The promises as figures, by name."""
    over = [one.over_s for one in observed.kills if one.kind == "actuator" and one.over_s is not None]
    gaps = [(later - at) / _NS for at, later in zip(observed.decided, observed.decided[1:], strict=False)]
    bad = sum(is_bad(second, domain) for second in observed.seconds)
    return {
        "kills": len(observed.kills),
        "pods restarted": observed.restarted,
        "parts that ended by themselves": observed.ended,
        "limits out of bounds, or none": count_out_of_bounds(observed.limits, domain),
        "decisions and limits that broke a rule of the audit": sum(
            one.rule in _RULES for one in observed.findings.breaches
        ),
        "messages missing, or reports out of order": sum(one.rule not in _RULES for one in observed.findings.breaches),
        "decisions": observed.findings.decisions,
        "limits put in force": len(observed.limits),
        "longest time without a decision, s": max(gaps, default=0.0),
        "worst time from a decision to its limit in force, s": max(observed.acted_s, default=0.0),
        "fail-safe limits for want of a decision": observed.fail_safes,
        "actuator: median take-over, s": median(over) if over else 0.0,
        "actuator: worst take-over, s": max(over, default=0.0),
        "seconds of the factory": len(observed.seconds),
        "seconds with an SLO broken": bad,
    }


def show_kills(console: Console, kills: list[Kill]) -> None:
    """One line a kind: how often it was killed, and how long the take-over took."""
    by_kind = defaultdict(list)
    for one in kills:
        by_kind[f"{one.kind} {'frozen' if one.frozen else 'killed'}"].append(one.over_s)
    for kind, all_of in sorted(by_kind.items()):
        over = [one for one in all_of if one is not None]
        times = f"median {median(over):.2f} s, worst {max(over):.2f} s" if over else "none of them was in charge"
        console.print(f"{kind:15} {len(all_of):3} times; taken over {len(over):3} times: {times}")


@click.command()
@click.option("--seconds", type=FiniteRange(5, 86400), default=600.0, show_default=True, help="How long to kill.")
@click.option("--every", "every_s", type=FiniteRange(0.5), default=4.0, show_default=True, help="Pause, mean, s.")
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the kills and of the plant."
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
@click.option("--keep", type=ResultFolder(), help="Keep files and logs here.")
def command(seconds: float, every_s: float, seed: int, path: Path | None, keep: Path | None) -> None:
    """Kill every part at random, and count what was promised.

    Exit code 1: a promise was broken.
    """
    logging_setup.configure("bench", "error")
    with tempfile.TemporaryDirectory(prefix="sluice-chaos-") as scratch:
        home = keep or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        observed = asyncio.run(run_chaos(home, seconds, every_s, seed))
    domain = SCENARIOS["demo"].domain()
    figures = summarize(observed, domain)
    show_kills(Console(), observed.kills)
    show("chaos", figures, _BOUNDS, path)
    for breach in observed.findings.breaches[:20]:
        click.echo(f"{breach.rule}: {breach.where}: {breach.what}")
    if any(figures[name] > float(bound.split()[1]) for name, bound in _BOUNDS.items()):
        raise click.exceptions.Exit(1)
