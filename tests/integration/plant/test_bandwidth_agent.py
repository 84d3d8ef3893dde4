"""The bandwidth agent between an emulated Kubernetes API and the simulated plant."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from schemas.domain import Domain
from services.plant.harness.bandwidth_agent import ANNOTATION, BandwidthAgent, EnforcedLimit, parse_annotation
from services.plant.harness.manifests import build_manifests
from services.plant.kube_emulator.emulator import Emulator
from services.plant.scenario import SCENARIOS
from services.plant.simulated.plant import SimulatedPlant
from services.plant.simulated.realtime import RealtimePlant
from services.plant.topology import TELEMETRY
from services.plant.workloads import Apps, TargetApp
from tests.support.waiting import PATIENCE_S, until

APPS = Apps(targets=(TargetApp(TELEMETRY, replicas=2),))


class Stage:
    """A cluster, a plant and the agent between them."""

    def __init__(self, emulator: Emulator, url: str, plant: RealtimePlant, agent: BandwidthAgent) -> None:
        """Keep the parts."""
        self.emulator = emulator
        self.url = url
        self.plant = plant
        self.agent = agent
        self.enforced: list[EnforcedLimit] = []

    async def annotate(self, pod: str, value: str | None) -> None:
        """Patch a Pod's annotation; None removes it."""
        async with aiohttp.ClientSession() as session:
            patch = {"metadata": {"annotations": {ANNOTATION: value}}}
            headers = {"Content-Type": "application/merge-patch+json"}
            url = f"{self.url}/api/v1/namespaces/factory/pods/{pod}"
            async with session.patch(url, json=patch, headers=headers) as answer:
                assert answer.status == 200, await answer.text()

    def pods(self) -> list[dict[str, Any]]:
        """List the target's live Pods from the API."""
        return [pod for pod in self.emulator.pods(TELEMETRY) if "deletionTimestamp" not in pod["metadata"]]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until the condition holds."""
        await until(holds, lambda: dict(self.plant.limits))

    def limits(self) -> list[int | None]:
        """Return the limits in force, in any order."""
        return sorted(self.plant.limits.values(), key=lambda limit: limit or 0)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Start everything, and wait until the template's fail-safe limit is in force on both pods."""
    scenario = SCENARIOS["steady"]
    domain: Domain = scenario.domain()
    plant = RealtimePlant(SimulatedPlant.for_apps(APPS, start=time.time_ns()))
    emulator = Emulator(starts_after=0.05)
    async with emulator as url:
        emulator.apply(build_manifests(APPS, domain))
        enforced: list[EnforcedLimit] = []
        agent = BandwidthAgent(url, [plant], delay=0.01, on_change=enforced.append)
        it = Stage(emulator, url, plant, agent)
        it.enforced = enforced
        task = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await agent.wait_until_enforced()
            yield it
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize(
    ("annotation", "kbit"),
    [
        ("50M", 50_000),
        ("2500k", 2_500),
        ("1G", 1_000_000),
        ("1e7", 10_000),
        ("-5M", None),
        (None, None),
        ("fast", None),
        ("5", None),
        ("", None),
    ],
)
def test_an_unreadable_annotation_is_no_limit(annotation: str | None, kbit: int | None) -> None:
    """Cilium also fails open; therefore the actuator checks a value before it patches."""
    assert parse_annotation(annotation) == kbit


async def test_pods_start_with_the_fail_safe_limit_and_follow_their_annotations() -> None:
    """Each Pod's own annotation counts; the last of several quick changes wins; removal lifts the limit."""
    async with stage() as it:
        assert it.limits() == [40_000, 40_000]
        first, second = (pod["metadata"]["name"] for pod in it.pods())
        await it.annotate(first, "30M")
        await it.until(lambda: it.limits() == [30_000, 40_000])
        for value in ("11M", "12M", "13M"):
            await it.annotate(second, value)
        await it.until(lambda: it.limits() == [13_000, 30_000])
        await it.annotate(second, None)
        await it.until(lambda: None in it.limits())
        assert all(one.seen <= one.at for one in it.enforced)
        assert it.agent.count_restarts(TELEMETRY) == 0


async def test_a_pod_that_is_replaced_counts_as_a_restart_and_its_successor_is_limited() -> None:
    """A Pod with another UID replaces the deleted one, with the template's limit."""
    async with stage() as it:
        gone = it.pods()[0]["metadata"]["name"]
        await it.annotate(gone, "30M")
        await it.until(lambda: it.limits() == [30_000, 40_000])
        async with aiohttp.ClientSession() as session:
            await session.delete(f"{it.url}/api/v1/namespaces/factory/pods/{gone}")
        await it.until(lambda: it.agent.count_restarts(TELEMETRY) == 1 and it.limits() == [40_000, 40_000])


async def test_a_pod_that_waited_takes_the_place_of_the_one_that_goes() -> None:
    """During an update there is one Pod more than before; it may never change again."""
    async with stage() as it:
        first, second = (pod["metadata"]["name"] for pod in it.pods())
        it.emulator.scale(TELEMETRY, 3)
        await it.until(lambda: [pod["status"].get("phase") for pod in it.pods()] == ["Running"] * 3)
        (third,) = {pod["metadata"]["name"] for pod in it.pods()} - {first, second}
        await it.annotate(third, "9M")
        await it.annotate(second, "30M")
        await it.until(lambda: it.limits() == [30_000, 40_000])
        async with aiohttp.ClientSession() as session:
            await session.delete(f"{it.url}/api/v1/namespaces/factory/pods/{first}")
        await it.until(lambda: it.limits() == [9_000, 30_000])


@pytest.mark.parametrize("runs_already", [False, True])
async def test_the_agent_outlives_the_api_server(runs_already: bool) -> None:
    """Limits stay while the API is down; when it is back, changes made meanwhile are enforced.

    Another Pod takes the first one's place; it may run already when the agent lists, and never change again.
    """
    scenario = SCENARIOS["steady"]
    plant = RealtimePlant(SimulatedPlant.for_apps(scenario.apps, start=time.time_ns()))
    first = Emulator(starts_after=0.05)
    async with asyncio.timeout(PATIENCE_S):
        async with first as url:
            first.apply(build_manifests(scenario.apps, scenario.domain()))
            agent = BandwidthAgent(url, [plant], delay=0.01)
            task = asyncio.create_task(agent.run())
            await agent.wait_until_enforced()
        port = int(url.rpartition(":")[2])
        assert list(plant.limits.values()) == [40_000]
        if runs_already:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        second = Emulator(starts_after=0.05, port=port)
        async with second:
            tree = build_manifests(scenario.apps, scenario.domain())
            for one in tree:
                template = one.get("spec", {}).get("template")
                if template and ANNOTATION in template["metadata"]["annotations"]:
                    template["metadata"]["annotations"][ANNOTATION] = "17M"
            second.apply(tree)
            if runs_already:
                await until(lambda: [pod["status"].get("phase") for pod in second.pods(TELEMETRY)] == ["Running"])
                task = asyncio.create_task(agent.run())
            await until(lambda: list(plant.limits.values()) == [17_000])
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
