"""Both ways on real packets: a bed for each node, and the whole pipeline between their page and their limits.

    python -m services.bench.uplinks.real '{"ways": ["per node"], ...}' FILE

``command.py`` starts it in namespaces of its own, with the options as JSON; it writes the scores to FILE.  The API is
the emulator, with two nodes, a Deployment and a DaemonSet; sampler, decision service and actuator are processes, as
installed.
"""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from schemas.config import Kubernetes
from schemas.domain import Domain
from services.bench.uplinks.setting import LEARNING_S, Uplink, build_even, build_template, build_uplinks
from services.plant.harness.bandwidth_agent import NAME_LABEL, BandwidthAgent
from services.plant.harness.manifests import build_deployment
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import build_config, build_scrape_signal, start_nats, start_services
from services.plant.harness.processes import Processes
from services.plant.harness.run import ScenarioRun, play_events
from services.plant.kube_emulator.emulator import Emulator
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.scenario import Event
from services.plant.score import Score

PER_NODE, EVEN = "per node", "even share"
_WARM_UP_S, _FIRST_LIMITS_S, _LAST_SECOND_S, _LOOK_S = 2.0, 60.0, 2.5, 0.25


class RealOptions(Struct, frozen=True):
    """What to play."""

    ways: tuple[str, ...] = (PER_NODE, EVEN)
    policy: str = "learned"
    seconds: float = 150.0
    surprise: bool = True
    since: float = LEARNING_S
    """What lies before is not judged, seconds."""


async def play_way(way: str, options: RealOptions) -> dict[str, Score]:
    """Play one way on two fresh beds; gives the scores by node.

    Raises:
        BedError, NotReady or ProcessDied: a part cannot be made or ended early.
    """
    uplinks = build_uplinks(options.seconds, surprise=options.surprise)
    build = build_template if way == PER_NODE else build_even
    domain = build(options.policy, daemon_set=True)
    with ExitStack() as beds:
        runs = [_build_run(beds, one, domain) for one in uplinks]
        await _control(uplinks, runs, domain)
    return {one.node: run.score(options.since) for one, run in zip(uplinks, runs, strict=True)}


def _build_run(beds: ExitStack, uplink: Uplink, domain: Domain) -> ScenarioRun:
    apps = uplink.scenario.apps
    bed = beds.enter_context(Bed(parameters(apps)))
    plant = beds.enter_context(RealPlant(bed, apps))
    return ScenarioRun(uplink.node, uplink.scenario, domain, plant, controlled=True)


async def _control(uplinks: tuple[Uplink, ...], runs: list[ScenarioRun], domain: Domain) -> None:
    """Run the pipeline over both plants, and play the scenario."""
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(None))
        log = stack.enter_context((processes.home / "harness.log").open("w", encoding="utf-8"))
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        nodes = [one.node for one in uplinks]
        page = stack.enter_context(MetricsPage([run.plant for run in runs], nodes=nodes))
        emulator = Emulator(place=_build_placement(uplinks))
        api = await stack.enter_async_context(emulator)
        emulator.apply(_build_objects(uplinks, domain))
        group = await stack.enter_async_context(_Tasks())
        agents = []
        for run, node in zip(runs, nodes, strict=True):
            agents.append(BandwidthAgent(api, [run.plant], delay=0.0, on_change=run.on_limit_change, node=node))
            group.start(agents[-1].run())
        stack.push_async_callback(processes.stop)
        config = build_config(
            [domain], await start_nats(processes), Kubernetes(server=api), build_scrape_signal([page.url])
        )
        await start_services(config, processes)
        async with asyncio.timeout(_FIRST_LIMITS_S):
            await asyncio.gather(*(agent.wait_until_enforced() for agent in agents))
        started = time.time_ns() + round(_WARM_UP_S * 1e9)
        for run in runs:
            run.begin(started)
        group.start(_observe(runs))
        await play_events(runs, started, _ignore)
        await asyncio.sleep(_LAST_SECOND_S)
        for run in runs:
            run.observe()


class _Tasks:
    """Runs coroutines in the background while the context lasts."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Any) -> None:
        """Run one more."""
        self._tasks.append(asyncio.create_task(work))

    async def __aenter__(self) -> "_Tasks":
        """Nothing runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End them."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _ignore(_: Event) -> None:
    """Nothing but loads changes."""


async def _observe(runs: list[ScenarioRun]) -> None:
    while True:
        for run in runs:
            run.observe()
        await asyncio.sleep(_LOOK_S)


def _build_placement(uplinks: tuple[Uplink, ...]) -> Any:
    """Gives the API's Pods their nodes: of each workload as many to a node as its bed has."""
    plan: dict[str, list[str]] = {}
    for one in uplinks:
        for critical in one.scenario.apps.critical:
            plan.setdefault(critical.workload, []).append(one.node)
        for target in one.scenario.apps.targets:
            plan.setdefault(target.target, []).extend([one.node] * target.replicas)
    placed = Counter[str]()

    def place(pod: dict[str, Any]) -> tuple[str, str] | None:
        meta = pod["metadata"]
        workload = f"{meta['namespace']}/{(meta.get('labels') or {}).get(NAME_LABEL)}"
        number = placed[workload]
        placed[workload] += 1
        if number >= len(plan.get(workload, ())):
            return None
        return plan[workload][number], f"10.77.{sum(placed.values()) // 200}.{sum(placed.values()) % 200 + 1}"

    return place


def _build_objects(uplinks: tuple[Uplink, ...], domain: Domain) -> list[dict[str, Any]]:
    """Every workload once, with Pods for both nodes; best-effort Pods start with the fail-safe limit."""
    replicas = Counter[str]()
    for one in uplinks:
        replicas.update({app.workload: 1 for app in one.scenario.apps.critical})
        replicas.update({app.target: app.replicas for app in one.scenario.apps.targets})
    limits = {(one.ref.name if one.ref else ""): one for one in domain.targets}
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in sorted({workload.partition("/")[0] for workload in replicas})
    ]
    for workload, count in replicas.items():
        target = limits.get(workload.partition("/")[2])
        tree = build_deployment(workload, count, target)
        if target is not None and target.kind is not None:
            tree["kind"] = target.kind
            del tree["spec"]["replicas"]
        found.append(tree)
    return found


def main() -> None:
    """Play what the JSON on the command line asks for."""
    options = msgspec.json.decode(sys.argv[1], type=RealOptions)
    results = {way: asyncio.run(play_way(way, options)) for way in options.ways}
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(results))


if __name__ == "__main__":
    main()
