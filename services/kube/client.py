"""The Kubernetes API as the actuator uses it; the one module that imports kubernetes.

Requests go through the raw client and answers are decoded here: the client's typed classes alone
would cost 25 MiB of a pod's 80.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config
from msgspec import Struct

from schemas.config import Kubernetes
from services.kube.objects import Deployment, Gone, Refused, Stale, Thing, Unavailable, Unwanted

_AT_ONCE = 12
"""Patches under way at the same time: more connections cost memory, and no API server is faster for them."""
_WATCH_S = (40, 60)
"""A watch ends by itself after a time in this range, so that a connection that died in silence is noticed."""
_SLACK_S = 10
_ROOTS = {"Deployment": "/apis/apps/v1", "Pod": "/api/v1"}
_PLURALS = {"Deployment": "deployments", "Pod": "pods"}

Query = list[tuple[str, str]]
T = TypeVar("T", bound=Thing)


class ClusterError(Exception):
    """The cluster's address or credentials cannot be used."""


class Listed(Struct, Generic[T], frozen=True):
    """All there are now."""

    things: tuple[T, ...]


class Put(Struct, Generic[T], frozen=True):
    """One is new or changed."""

    thing: T


class Removed(Struct, Generic[T], frozen=True):
    """One is gone."""

    thing: T


class _ListMeta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _List(Struct, frozen=True):
    metadata: _ListMeta
    items: tuple[msgspec.Raw, ...] = ()


class _Event(Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Versioned(Struct, frozen=True):
    metadata: _ListMeta


class _Status(Struct, frozen=True):
    message: str = ""
    reason: str = ""
    code: int = 0


class Cluster:
    """One connection to one API server."""

    def __init__(self, client: ApiClient, timeout_s: float) -> None:
        """See ``connected``."""
        self._client = client
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def connected(cls, config: Kubernetes) -> AsyncIterator["Cluster"]:
        """Prepare to reach the configured API server; it need not be there yet.

        Raises:
            ClusterError: there is no kubeconfig or service account, or it cannot be used.
        """
        async with ApiClient(await _configuration(config)) as client:
            client.user_agent = "sluice-actuator"
            yield cls(client, config.timeout.seconds)

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """The object as it is now.

        Raises:
            Gone: there is none.
            Refused: reading is not allowed.
            Unavailable: no answer.
        """
        return _decoded(kind, await self._answer("GET", _path(kind, namespace, name)))

    async def raw(self, path: str) -> Any:
        """An object, or a list of them, as the API writes it.

        Raises:
            Gone: there is none, or no such resource.
            Refused: reading is not allowed.
            Unavailable: no answer.
        """
        return msgspec.json.decode(await self.fetch(path))

    async def fetch(self, path: str) -> bytes:
        """Whatever the API server has there, a Service's own answer included.

        Raises:
            Gone: there is none, or no such resource.
            Refused: reading is not allowed.
            Unavailable: no answer.
        """
        return await self._answer("GET", path)

    async def patch(self, thing: T, operations: list[dict[str, Any]], wanted: Callable[[], bool] = lambda: True) -> T:
        """Apply a JSON Patch to an object; gives what came of it.

        Args:
            thing: the object as it was seen.
            operations: the patch.
            wanted: whether it still is: asked when its turn has come, which may be long after the call.

        Raises:
            Unwanted: it is not.
            Stale: a ``test`` among the operations failed.
            Gone: the object is gone.
            Refused: it is not allowed.
            Unavailable: no answer; the patch may have been applied.
        """
        path = _path(type(thing), thing.metadata.namespace, thing.metadata.name)
        async with self._slots:
            if not wanted():
                raise Unwanted
            return _decoded(type(thing), await self._answer("PATCH", path, operations, "application/json-patch+json"))

    async def tell(self, about: Thing, reason: str, message: str, kind: str, at: str) -> None:
        """Write a Kubernetes Event about an object.

        Args:
            about: the object.
            reason: one word in camel case.
            message: in words.
            kind: ``Normal`` or ``Warning``.
            at: RFC 3339 time.

        Raises:
            Gone: the namespace is gone.
            Refused: it is not allowed.
            Unavailable: no answer.
        """
        meta = about.metadata
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta.name}.", "namespace": meta.namespace},
            "involvedObject": {
                "apiVersion": "apps/v1" if isinstance(about, Deployment) else "v1",
                "kind": about.kind,
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "source": {"component": "sluice-actuator"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        await self._answer("POST", f"/api/v1/namespaces/{meta.namespace}/events", body)

    async def all(self, kind: type[T], namespace: str, *, labels: str) -> tuple[T, ...]:
        """The objects that carry some labels.

        Raises:
            Refused: listing is not allowed.
            Unavailable: no answer.
        """
        return (await self._listed(kind, namespace, [("labelSelector", labels)]))[0]

    async def follow(
        self, kind: type[T], namespace: str, *, name: str | None = None, labels: str | None = None
    ) -> AsyncGenerator[Listed[T] | Put[T] | Removed[T], None]:
        """All objects there are, then every change, until the watch ends and has to be begun anew.

        Args:
            kind: of the objects.
            namespace: where.
            name: only the object of this name.
            labels: only objects with these labels, as a selector.

        Raises:
            Refused: it is not allowed.
            Unavailable: no answer, or the connection was lost.
        """
        query = [("fieldSelector", f"metadata.name={name}")] if name else []
        query += [("labelSelector", labels)] if labels else []
        things, version = await self._listed(kind, namespace, query)
        yield Listed(things)
        while True:
            async for event in self._watched(kind, namespace, query, version):
                if event.type == "ERROR":
                    # Mostly 410: what happened since is forgotten, so everything is listed anew.
                    return
                version = msgspec.json.decode(event.object, type=_Versioned).metadata.resource_version
                if event.type == "DELETED":
                    yield Removed(_decoded(kind, event.object))
                elif event.type != "BOOKMARK":
                    yield Put(_decoded(kind, event.object))

    async def _listed(self, kind: type[T], namespace: str, query: Query) -> tuple[tuple[T, ...], str]:
        answer = msgspec.json.decode(await self._answer("GET", _path(kind, namespace), query=query), type=_List)
        return tuple(_decoded(kind, item) for item in answer.items), answer.metadata.resource_version

    async def _watched(self, kind: type[T], namespace: str, query: Query, version: str) -> AsyncGenerator[_Event, None]:
        seconds = random.randint(*_WATCH_S)  # noqa: S311 - spreads load
        query = [*query, ("watch", "true"), ("resourceVersion", version), ("allowWatchBookmarks", "true")]
        query.append(("timeoutSeconds", str(seconds)))
        patience = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=seconds + _SLACK_S)
        response = await self._asked("GET", _path(kind, namespace), None, "", query, patience)
        try:
            if response.status >= 300:
                _raise(response.status, await response.read())
            async for line in response.content:
                yield msgspec.json.decode(line, type=_Event)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            raise Unavailable(f"watching {_PLURALS[kind.kind]}: {_words(error)}") from None
        finally:
            response.close()

    async def _answer(
        self, method: str, path: str, body: Any = None, content: str = "", query: Query | None = None
    ) -> bytes:
        patience = aiohttp.ClientTimeout(total=self._timeout_s)
        response = await self._asked(method, path, body, content, query, patience)
        try:
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(_words(error)) from None
        if response.status >= 300:
            _raise(response.status, data)
        return data

    async def _asked(
        self,
        method: str,
        path: str,
        body: Any,
        content: str,
        query: Query | None,
        patience: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        try:
            request = await self._client.param_serialize(
                method, path, query_params=query, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response: aiohttp.ClientResponse = (
                await self._client.call_api(*request, _request_timeout=patience)
            ).response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(_words(error)) from None
        return response


async def _configuration(config: Kubernetes) -> Configuration:
    # Every target holds two watches open: patches must not wait for one of a limited number of connections.
    settings = Configuration(connection_pool_maxsize=0)
    try:
        if config.server is not None:
            settings.host = config.server.rstrip("/")
        elif config.kubeconfig is not None:
            await load_kube_config(config.kubeconfig, client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]
        else:
            load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        if config.kubeconfig is not None:
            raise ClusterError(f"kubernetes: {config.kubeconfig}: {error}") from None
        remedy = "not running in a Pod: set kubernetes.kubeconfig or kubernetes.server in the configuration"
        raise ClusterError(f"kubernetes: {remedy} ({error})") from None
    return settings


def _path(kind: type[Thing], namespace: str, name: str | None = None) -> str:
    path = f"{_ROOTS[kind.kind]}/namespaces/{namespace}/{_PLURALS[kind.kind]}"
    return path if name is None else f"{path}/{name}"


def _decoded(kind: type[T], body: bytes | msgspec.Raw) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the server's answer cannot be read as {kind.__name__}: {error}") from None


def _raise(status: int, body: bytes) -> None:
    """Say what an HTTP error means.

    Raises:
        Gone, Stale, Refused or Unavailable.
    """
    try:
        said = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        said = _Status(message=body[:200].decode("utf-8", "replace"))
    text = f"{status} {said.reason}: {said.message}"[:500]
    if status in (404, 410):
        raise Gone(text)
    if status in (409, 422):
        raise Stale(text)
    if status in (400, 401, 403, 405, 415):
        raise Refused(text)
    raise Unavailable(text)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
