"""A scheduler and kubelets for an API server that has neither: binds Pods to nodes and runs them.

It records every state of a Pod, so that a test can check that a state never occurred.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from msgspec import Struct

from services.actuator.ownership import KEY
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import BANDWIDTH, JSON, MERGE_PATCH

NODES = {"floor": "worker-1", "office": "worker-2"}
"""By the side of the factory that a Pod is on."""
_LABEL = "app.kubernetes.io/name"


class Seen(Struct, frozen=True):
    """The state of a Pod at one time."""

    uid: str
    name: str
    app: str
    phase: str
    node: str | None
    bandwidth: str | None
    recorded: bool
    """Whether Sluice has written on it."""

    @classmethod
    def of(cls, tree: dict[str, Any]) -> "Seen":
        """Read it from the API's object."""
        meta = tree["metadata"]
        annotations = meta.get("annotations") or {}
        return cls(
            meta["uid"],
            meta["name"],
            meta["labels"].get(_LABEL, ""),
            tree["status"]["phase"],
            tree["spec"].get("nodeName"),
            annotations.get(BANDWIDTH),
            KEY in annotations,
        )


class Kubelets:
    """Runs the Pods of one namespace, except those that are held back."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        """Prepare; ``running`` does the work."""
        self._server = server
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._taken: set[str] = set()
        self._numbers = iter(range(2, 250))
        self.history: list[Seen] = []
        self.open = asyncio.Event()
        """While cleared, new Pods stay Pending."""
        self.open.set()
        self.on_start: Callable[[Seen], None] = lambda _: None
        """Called when a Pod starts."""

    def now(self) -> dict[str, Seen]:
        """The last state of each Pod, by uid."""
        return {one.uid: one for one in self.history}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run them while the context lasts."""
        headers = {"Authorization": f"Bearer {self._server.token}"}
        connector = aiohttp.TCPConnector(ssl=self._server.trust())
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        async with aiohttp.ClientSession(
            self._server.url, headers=headers, connector=connector, timeout=timeout, raise_for_status=True
        ) as session:
            task = asyncio.create_task(self._run(session))
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _run(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for tree in self._pods(session):
                seen = Seen.of(tree)
                self.history.append(seen)
                if seen.uid not in self._taken:
                    self._taken.add(seen.uid)
                    tasks.create_task(self._start(session, tree, seen))

    async def _pods(self, session: aiohttp.ClientSession) -> AsyncIterator[dict[str, Any]]:
        async with session.get(self._path) as answer:
            listed = await answer.json()
        for tree in listed["items"]:
            yield tree
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with session.get(self._path, params=query) as answer:
            async for line in answer.content:
                event = json.loads(line)
                assert event["type"] in {"ADDED", "MODIFIED"}, f"nobody was to end a Pod: {event}"
                yield event["object"]

    async def _start(self, session: aiohttp.ClientSession, tree: dict[str, Any], seen: Seen) -> None:
        await self.open.wait()
        path = f"{self._path}/{seen.name}"
        node = NODES[tree["metadata"]["labels"]["factory.example/side"]]
        binding = {"target": {"apiVersion": "v1", "kind": "Node", "name": node}, "metadata": {"name": seen.name}}
        await self._send(session, "POST", f"{path}/binding", {"apiVersion": "v1", "kind": "Binding", **binding}, JSON)
        ready = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": f"10.77.9.{next(self._numbers)}", "conditions": ready}
        await self._send(session, "PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)
        self.on_start(seen)

    async def _send(self, session: aiohttp.ClientSession, method: str, path: str, body: Any, kind: str) -> None:
        data = json.dumps(body)
        async with session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
            await answer.read()
