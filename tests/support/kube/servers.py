"""A Kubernetes API under test (the emulator or a real server), and requests to it."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import pytest
from msgspec.structs import replace

from schemas.config import Kubernetes, Resources
from services.plant.kube_emulator.emulator import Emulator
from tests.support import needs
from tests.support.kube.apiserver import ApiServer
from tests.support.waiting import PATIENCE_S

T = TypeVar("T")
JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
BANDWIDTH = "kubernetes.io/egress-bandwidth"
REAL = pytest.param("apiserver", marks=pytest.mark.apiserver)
EMULATOR = "emulator"
BOTH = (EMULATOR, REAL)
"""For tests that hold the emulator to the real server."""
KINDS = BOTH if needs.lacking("apiserver") else (REAL,)
"""For tests of what talks to a server: where a real one can run, the emulator would show nothing more."""


class Server:
    """A Kubernetes API under test, with a namespace that no other test uses."""

    def __init__(self, name: str, config: Kubernetes, session: aiohttp.ClientSession, url: str, ssl: Any) -> None:
        """Describe a running server."""
        self.name = name
        self.config = config
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.url = url
        self._session = session
        self._ssl = ssl

    @property
    def deployments(self) -> str:
        """Path of the namespace's Deployments."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments"

    @property
    def pods(self) -> str:
        """Path of the namespace's Pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def request(self, method: str, path: str, body: Any = None, kind: str = JSON) -> tuple[int, Any]:
        """Send a request; return the HTTP status and the decoded answer."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        async with self._session.request(method, self.url + path, data=data, headers=headers, ssl=self._ssl) as answer:
            return answer.status, json.loads(await answer.read())

    async def must(self, method: str, path: str, body: Any = None, kind: str = JSON) -> Any:
        """Send a request that must succeed; return the decoded answer."""
        status, answer = await self.request(method, path, body, kind)
        assert status < 300, (method, path, status, answer)
        return answer

    def open(self, path: str, **headers: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Open an answer that is read as it comes."""
        return self._session.get(self.url + path, headers=headers, ssl=self._ssl)

    async def watch(self, path: str) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a watch, until the server ends it."""
        async with self._session.get(self.url + path, ssl=self._ssl) as answer:
            try:
                async for line in answer.content:
                    yield json.loads(line)
            finally:
                # The TLS connection closes slowly, perhaps after the test's event loop has ended.
                if answer.connection is not None and answer.connection.transport is not None:
                    answer.connection.transport.abort()

    async def deploy(self, name: str = "app", replicas: int = 2, **annotations: dict[str, str]) -> Any:
        """Create a Deployment; ``own`` and ``template`` are annotations of its metadata and of its template."""
        return await self.must("POST", self.deployments, deployment(name, replicas, **annotations))

    async def pods_of(self, name: str, count: int) -> list[dict[str, Any]]:
        """The Pods with label ``app=name`` once there are ``count`` that are not being deleted."""

        async def enough() -> list[dict[str, Any]] | None:
            items = (await self.must("GET", f"{self.pods}?labelSelector=app%3D{name}"))["items"]
            live = [item for item in items if "deletionTimestamp" not in item["metadata"]]
            return live if len(live) == count else None

        return await eventually(enough)


async def eventually(question: Callable[[], Awaitable[T | None]], patience_s: float = PATIENCE_S) -> T:
    """Repeat until the answer is true; fails after so many seconds."""
    deadline = time.monotonic() + patience_s
    while (answer := await question()) is None or answer is False:
        assert time.monotonic() < deadline, f"still waiting for {question.__qualname__}"
        await asyncio.sleep(0.02)
    return answer


def deployment(
    name: str, replicas: int, own: dict[str, str] | None = None, template: dict[str, str] | None = None
) -> dict[str, Any]:
    """A Deployment's manifest; ``own`` and ``template`` are annotations of its metadata and of its template."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, **({"annotations": own} if own else {})},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, **({"annotations": template} if template else {})},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
        },
    }


@asynccontextmanager
async def open_server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The server that a fixture's parameter names, without nodes, and a fresh namespace on it."""
    if request.param == EMULATOR:
        async with emulate(Emulator(starts_after=None)) as one:
            yield one
    else:
        async with real(request.getfixturevalue("apiserver")) as one:
            yield one


@asynccontextmanager
async def emulate(emulator: Emulator) -> AsyncIterator[Server]:
    """A fresh namespace on a new emulator."""
    async with emulator as url, aiohttp.ClientSession() as session:
        one = Server("emulator", Kubernetes(server=url), session, url, ssl=None)
        await _make_namespace(one)
        yield one


@asynccontextmanager
async def real(running: ApiServer) -> AsyncIterator[Server]:
    """A fresh namespace on a real server."""
    headers = {"Authorization": f"Bearer {running.token}"}
    config = Kubernetes(kubeconfig=str(running.kubeconfig()))
    async with aiohttp.ClientSession(headers=headers) as session:
        one = Server("apiserver", config, session, running.url, ssl=running.trust())
        # Other tests have resources in the same cluster.
        one.config = replace(config, resources=Resources(namespace=one.namespace))
        await _make_namespace(one)
        yield one


async def _make_namespace(server: Server) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": server.namespace}}
    await server.must("POST", "/api/v1/namespaces", body)
    if server.name == "apiserver":
        # Pods can be created once the namespace has its default account.
        async def account() -> Any:
            path = f"/api/v1/namespaces/{server.namespace}/serviceaccounts/default"
            status, answer = await server.request("GET", path)
            return answer if status == 200 else None

        await eventually(account)
