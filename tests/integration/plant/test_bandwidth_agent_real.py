"""From a Pod's annotation on the API to the qdisc."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median

import aiohttp
import pytest

from services.plant.harness.bandwidth_agent import ANNOTATION, BandwidthAgent, EnforcedLimit
from services.plant.harness.manifests import build_manifests
from services.plant.kube_emulator.emulator import Emulator
from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed
from services.plant.scenario import SCENARIOS
from services.plant.topology import TELEMETRY
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.root

SCENARIO = SCENARIOS["steady"]
UPLOAD = "telemetry-upload-0"


class _Cluster:
    """An emulated API whose telemetry Pod is a pod of the testbed."""

    def __init__(self, url: str, pod: str, session: aiohttp.ClientSession, bed: Bed) -> None:
        self._pod = f"{url}/api/v1/namespaces/factory/pods/{pod}"
        self._session = session
        self._bed = bed
        self.enforced: asyncio.Queue[EnforcedLimit] = asyncio.Queue()

    def qdisc(self) -> str:
        """The qdisc at the pod's device."""
        return self._bed.run(UPLOAD, "tc", "qdisc", "show", "dev", "eth0")

    async def annotate(self, value: str | None) -> float:
        """Patch the Pod, wait until the agent has applied the patch; return seconds from request to qdisc."""
        patch = {"metadata": {"annotations": {ANNOTATION: value}}}
        headers = {"Content-Type": "application/merge-patch+json"}
        began = time.time_ns()
        async with self._session.patch(self._pod, json=patch, headers=headers, raise_for_status=True):
            change = await asyncio.wait_for(self.enforced.get(), PATIENCE_S)
        return (change.at - began) / 1e9


@asynccontextmanager
async def _cluster() -> AsyncIterator[_Cluster]:
    emulator = Emulator(starts_after=0.0)
    with Bed(parameters(SCENARIO.apps)) as bed:
        async with emulator as url, aiohttp.ClientSession() as session:
            emulator.apply(build_manifests(SCENARIO.apps, SCENARIO.domain()))
            while not (pods := emulator.pods(TELEMETRY)):
                await emulator.objects.wait_for_change(emulator.objects.version)
            cluster = _Cluster(url, pods[0]["metadata"]["name"], session, bed)
            plant = RealPlant(bed, SCENARIO.apps)
            agent = BandwidthAgent(url, [plant], delay=0.0, on_change=cluster.enforced.put_nowait)
            following = asyncio.create_task(agent.run())
            try:
                await asyncio.wait_for(agent.wait_until_enforced(), PATIENCE_S)
                cluster.enforced.get_nowait()
                yield cluster
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following


async def test_an_annotation_becomes_the_qdisc() -> None:
    """It starts with the fail-safe limit; each patch replaces the token bucket's rate.  Prints how long that takes."""
    async with _cluster() as cluster:
        born = SCENARIO.domain().targets[0].fail_safe
        assert f"tbf 1: root refcnt 3 rate {born // 1000}Mbit" in cluster.qdisc()
        delays = []
        for mbit in (60, 20, 33, 70, 5, 48, 51, 9, 77, 14):
            delays.append(await cluster.annotate(f"{mbit}M"))
            assert f"rate {mbit}Mbit" in cluster.qdisc()
    print(f"annotation to qdisc: median {median(delays) * 1e3:.1f} ms, worst {max(delays) * 1e3:.1f} ms")


@pytest.mark.parametrize("bad", ["fifty", "50 M", "", "-1M", None])
async def test_a_bad_annotation_lifts_the_limit_as_cilium_does(bad: str | None) -> None:
    """Unreadable, negative or removed values mean no limit; a good value is enforced again."""
    async with _cluster() as cluster:
        assert "tbf" in cluster.qdisc()
        await cluster.annotate(bad)
        assert "tbf" not in cluster.qdisc()
        await cluster.annotate("42M")
        assert "rate 42Mbit" in cluster.qdisc()
