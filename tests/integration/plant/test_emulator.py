"""Behaviour of the Kubernetes emulator beyond the contract that it shares with a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from services.plant.kube_emulator.emulator import Emulator
from services.plant.kube_emulator.store import StatusError
from tests.support.kube.servers import deployment, eventually
from tests.support.waiting import PATIENCE_S

MANIFESTS = Path(__file__).parents[3] / "manifests"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession() as one:
        yield one


async def test_pods_run_and_end_by_themselves() -> None:
    """With kubelets, Pods are Pending first, run on a node after the delay, and deleted ones end."""
    emulator = Emulator(starts_after=0.05)
    async with emulator:
        emulator.apply([deployment("app", 2)])

        async def phase(wanted: str, count: int) -> bool:
            pods = emulator.pods("default/app")
            return len(pods) == count and all(pod["status"]["phase"] == wanted for pod in pods)

        await eventually(lambda: phase("Pending", 2))
        await eventually(lambda: phase("Running", 2))
        pods = emulator.pods("default/app")
        assert all(pod["spec"]["nodeName"] for pod in pods)
        assert len({pod["status"]["podIP"] for pod in pods}) == 2
        emulator.scale("default/app", 1)
        await eventually(lambda: phase("Running", 1))


async def test_a_watch_from_before_the_history_is_gone(session: aiohttp.ClientSession) -> None:
    """A watch from forgotten changes gets one ERROR event with code 410, and ends."""
    emulator = Emulator(starts_after=None)
    async with emulator as url:
        emulator.apply([deployment("one", 0)])
        emulator.objects.compact()
        async with session.get(f"{url}/api/v1/namespaces/default/pods?watch=true&resourceVersion=1") as answer:
            lines = [json.loads(line) async for line in answer.content]
    assert [(line["type"], line["object"]["code"]) for line in lines] == [("ERROR", 410)]


async def test_requests_are_not_kept(session: aiohttp.ClientSession) -> None:
    """The emulator forgets each request once it is answered, so that it does not slow down."""
    emulator = Emulator(starts_after=None)
    async with emulator as url:
        for _ in range(20):
            async with session.get(f"{url}/api/v1/namespaces/default/pods") as answer:
                assert answer.status == 200
        assert len(emulator._server) == 0
        assert all(not payload._requests for payload in emulator._server._payloads)


async def test_watches_end_when_the_emulator_does(session: aiohttp.ClientSession) -> None:
    """Leaving the emulator ends its watches, without an error at the client."""
    emulator = Emulator(starts_after=None)
    started = asyncio.Event()

    async def watch(url: str) -> list[Any]:
        async with session.get(f"{url}/api/v1/namespaces/default/pods?watch=true") as answer:
            started.set()
            return [line async for line in answer.content]

    async with emulator as url:
        watching = asyncio.create_task(watch(url))
        await started.wait()
    async with asyncio.timeout(PATIENCE_S):
        assert await watching == []


async def test_the_projects_manifests_can_be_applied() -> None:
    """The emulator knows the kind of every object of manifests/, and applying twice changes nothing."""
    emulator = Emulator(starts_after=None)
    trees = [
        tree
        for path in sorted(MANIFESTS.glob("*.yaml"))
        for tree in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if tree and "kind" in tree and tree["kind"] != "Kustomization"
    ]
    trees.sort(key=lambda tree: tree["kind"] != "Namespace")
    emulator.apply(trees)
    version = emulator.objects.version
    emulator.apply(trees)
    assert emulator.objects.version == version > len(trees)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"apiVersion": "v9", "kind": "Pod", "metadata": {"name": "x"}}, "no matches for kind 'Pod' in version 'v9'"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "nowhere"}}, '"nowhere" not found'),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {}}, "metadata.name"),
        ({"apiVersion": "v1", "kind": "Pod"}, "metadata is required"),
    ],
)
def test_a_bad_manifest_is_refused(tree: dict[str, Any], words: str) -> None:
    """A manifest that cannot be stored is refused with an error that names the problem."""
    with pytest.raises(StatusError) as refused:
        Emulator().apply([tree])
    assert words in refused.value.message


async def test_a_change_just_before_the_waiting_begins_wakes_the_waiter() -> None:
    """A watch that is about to wait does not miss the change."""
    emulator = Emulator(starts_after=None)
    waiting = asyncio.create_task(emulator.objects.wait_for_change(emulator.objects.version))
    emulator.apply([deployment("app", 1)])
    await asyncio.wait_for(waiting, PATIENCE_S)
