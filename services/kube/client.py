"""The Kubernetes API: read, list, watch, patch, and write Events.  The one module that imports kubernetes.

Requests go through the library's raw client and answers are decoded here: its typed classes would cost a pod 25 MiB.
"""

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from schemas.config import Kubernetes
from schemas.decode_errors import DECODE_ERRORS
from services.common.backoff import BackOff
from services.kube.access import KubeConfigError
from services.kube.changes import Deleted, Listed, ListPage, T, Updated, WatchedObject, WatchEvent
from services.kube.credentials import use_service_account, use_token_file
from services.kube.library import ApiClient, ConfigException, Configuration, explain, load_kube_config, send_once
from services.kube.objects import (
    KubeObject,
    Status,
    Superseded,
    Unavailable,
    decode_as,
    raise_for_status,
    read_body,
    read_lines,
)
from services.kube.patch_turns import PatchTurns

_CONCURRENT_PATCHES = 12
"""More connections cost memory, and no API server is faster for them."""
_UNBOUNDED = 1e6
_PAGE = 100
"""Objects of one page of a list: pages of large objects must fit into the memory."""
_WATCH_S = (40, 60)
"""A watch ends after a time in this range, so that a connection that died silently is noticed."""
_WATCH_SLACK_S = 10
_STEADY_S = 5.0
"""A watch that ends sooner is restarted with a delay."""
_ENDED_S = (8.0, 30.0)
"""That delay, at first and at most."""

Query = list[tuple[str, str]]
_GONE = 410


class KubeClient:
    """A client of one API server."""

    def __init__(self, client: ApiClient, timeout_s: float, patches_per_second: float = _UNBOUNDED) -> None:
        """See ``connect``."""
        self._client = client
        self._timeout_s = timeout_s
        self._turns = PatchTurns(_CONCURRENT_PATCHES, patches_per_second)

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: Kubernetes, patches_per_second: float = _UNBOUNDED) -> AsyncIterator["KubeClient"]:
        """Prepare to reach the configured API server; it need not be there yet.

        Raises:
            KubeConfigError: there is no kubeconfig or service account, or it cannot be used.
        """
        # Every namespace holds two watches open: patches must not wait for one of a limited number of connections.
        settings = Configuration(connection_pool_maxsize=0)
        try:
            if config.server is not None:
                settings.host = config.server.rstrip("/")
            elif config.kubeconfig is not None:
                loaded = await load_kube_config(config.kubeconfig, client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]
                token_file = loaded._user.safe_get("tokenFile")  # noqa: SLF001 - read once otherwise, and it rotates
                if token_file is not None:
                    use_token_file(settings, Path(config.kubeconfig).parent / token_file)
            else:
                use_service_account(settings)
        except (ConfigException, OSError) as error:
            if config.kubeconfig is not None:
                raise KubeConfigError(f"kubernetes: {config.kubeconfig}: {error}") from None
            remedy = "not running in a Pod: set kubernetes.kubeconfig or kubernetes.server in the configuration"
            raise KubeConfigError(f"kubernetes: {remedy} ({error})") from None
        # As kubectl does: the authorities of many clusters have no key identifiers, which Python 3.13 insists on.
        settings.disable_strict_ssl_verification = True
        async with ApiClient(settings) as client:
            client.user_agent = "sluice-actuator"
            send_once(client)
            yield cls(client, config.timeout.seconds, patches_per_second)

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object.

        Raises:
            NotFound: there is none.
            Rejected: reading is not allowed.
            Unavailable: no answer.
        """
        return _decode(kind, await self.fetch(kind.path(namespace, name)))

    async def read_json(self, path: str) -> Any:
        """Read an object, or a list of them, as the API writes it.

        Raises:
            NotFound: there is none, or no such resource.
            Rejected: reading is not allowed.
            Unavailable: no answer.
        """
        return decode_as(dict, await self.fetch(path))

    async def fetch(self, path: str, query: Query | None = None) -> bytes:
        """Read whatever the API server has at a path, including what it relays from a Service.

        Raises:
            NotFound: there is nothing.
            Rejected: reading is not allowed.
            Unavailable: no answer.
        """
        async with self._request("GET", path, query=query) as response:
            return await read_body(response.content)

    async def try_patch(self, path: str, operations: list[dict[str, Any]], account: str | None) -> Any:
        """What would become of an object by a JSON Patch, sent in the place of ``account``; fails as `patch` does."""
        dry, kind = [("dryRun", "All")], "application/json-patch+json"
        async with self._request("PATCH", path, operations, kind, query=dry, account=account) as response:
            return decode_as(dict, await read_body(response.content))

    async def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """What the API server answers to a question, such as a review of rights, that changes nothing.

        Raises:
            NotFound: it knows no such question.
            Rejected: asking is not allowed.
            Unavailable: no answer.
        """
        async with self._request("POST", path, question) as response:
            return decode_as(dict, await read_body(response.content))

    async def patch(self, obj: T, operations: list[dict[str, Any]], *, is_urgent: bool = False) -> T:
        """Apply a JSON Patch to an object, and return the object that results.

        Args:
            obj: the object as it was seen.
            operations: the patch.
            is_urgent: do not wait for a turn, of which there are only some at a time.

        Raises:
            StaleObject, NotFound, Rejected or Unavailable: see ``patch_in_turn``.
        """
        return await self.patch_in_turn(obj, lambda: operations, is_urgent=is_urgent)

    async def patch_in_turn(
        self,
        obj: T,
        build: Callable[[], list[dict[str, Any]] | None],
        *,
        is_urgent: bool = False,
        is_cut: bool = False,
    ) -> T:
        """Apply a JSON Patch to an object when its turn comes, and return the object that results.

        Args:
            obj: the object as it was seen.
            build: gives the patch right before it is sent, which may be long after the call; None: it is no
                longer wanted.
            is_urgent: see ``patch``.
            is_cut: its turn comes before that of others.

        Raises:
            Superseded: the patch is no longer wanted; nothing was sent.
            StaleObject: a ``test`` among the operations failed.
            NotFound: the object is gone.
            Rejected: it is not allowed.
            Unavailable: no answer; the patch may have been applied.
        """
        path = obj.path(obj.metadata.namespace, obj.metadata.name)
        async with nullcontext() if is_urgent else self._turns.take(is_cut=is_cut):
            operations = build()
            if operations is None:
                raise Superseded
            async with self._request("PATCH", path, operations, "application/json-patch+json") as response:
                return _decode(type(obj), await read_body(response.content))

    async def patch_status(self, obj: T, status: Mapping[str, Any]) -> T:
        """Merge into an object's status; what is None is removed, and a list is replaced.

        Raises:
            StaleObject: the status is not one.
            NotFound: the object is gone, or has no status.
            Rejected: it is not allowed.
            Unavailable: no answer.
        """
        path = f"{obj.path(obj.metadata.namespace, obj.metadata.name)}/status"
        body = {"apiVersion": obj.api_version, "kind": obj.kind, "status": status}
        async with self._request("PATCH", path, body, "application/merge-patch+json") as response:
            return _decode(type(obj), await read_body(response.content))

    async def create_event(self, about: KubeObject, reason: str, message: str, severity: str, at: str) -> None:
        """Write a Kubernetes Event about an object.

        Args:
            about: the object.
            reason: one word in camel case.
            message: in words.
            severity: ``Normal`` or ``Warning``.
            at: RFC 3339 time.

        Raises:
            NotFound: the namespace is gone.
            Rejected: it is not allowed.
            Unavailable: no answer.
        """
        meta = about.metadata
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta.name}.", "namespace": meta.namespace},
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
            "reason": reason,
            "message": message[:1024],
            "type": severity,
            "source": {"component": "sluice-actuator"},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        async with self._request("POST", f"/api/v1/namespaces/{meta.namespace}/events", body) as response:
            await read_body(response.content)

    async def create(self, kind: type[T], namespace: str, name: str, *, dry_run: bool = False) -> T:
        """Create an object that holds nothing but its name; with ``dry_run`` only as if.

        Raises:
            StaleObject: there is one.
            NotFound: the namespace is gone.
            Rejected: it is not allowed.
            Unavailable: no answer.
        """
        body = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "sluice"}},
        }
        dry = [("dryRun", "All")] if dry_run else None
        async with self._request("POST", kind.path(namespace), body, query=dry) as response:
            return _decode(kind, await read_body(response.content))

    async def delete(self, obj: KubeObject) -> None:
        """Delete an object, if it still is as it was seen.

        Raises:
            StaleObject: it has changed.
            NotFound: it is gone.
            Rejected: it is not allowed.
            Unavailable: no answer.
        """
        meta = obj.metadata
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        }
        async with self._request("DELETE", obj.path(meta.namespace, meta.name), body) as response:
            await read_body(response.content)

    async def list_by_labels(self, kind: type[T], namespace: str, selector: str) -> tuple[T, ...]:
        """List the objects that a label selector matches.

        Raises:
            Rejected: listing is not allowed.
            Unavailable: no answer.
        """
        return (await self._list(kind, namespace, [("labelSelector", selector)]))[0]

    async def list_and_watch(
        self,
        kind: type[T],
        namespace: str,
        is_wanted: Callable[[T], bool] = lambda _: True,
        *,
        name: str | None = None,
        selector: str | None = None,
        keep: Collection[str] = (),
    ) -> AsyncGenerator[Listed[T] | Updated[T] | Deleted[T], None]:
        """Yield all objects, then every change, until the server can no longer tell what changed.

        Args:
            kind: of the objects.
            namespace: where.
            is_wanted: asked about each object with all its labels; others are dropped as they are read, and one that
                is no longer wanted is ``Deleted``.
            name: only the object of this name.
            selector: only objects that this label selector matches.
            keep: labels that the objects keep.

        Raises:
            Rejected: it is not allowed.
            Unavailable: no answer, or the connection was lost.
        """
        path = kind.path(namespace)
        query = [("fieldSelector", f"metadata.name={name}")] if name else []
        query += [("labelSelector", selector)] if selector else []
        objects, version = await self._list(kind, namespace, query, is_wanted, keep)
        yield Listed(objects)
        back_off = BackOff(*_ENDED_S)
        while True:
            began = time.monotonic()
            seconds = random.randint(*_WATCH_S)  # noqa: S311 - spreads load
            limits = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=seconds + _WATCH_SLACK_S)
            options = [("watch", "true"), ("resourceVersion", version), ("allowWatchBookmarks", "true")]
            options.append(("timeoutSeconds", str(seconds)))
            async with self._request("GET", path, query=[*query, *options], limits=limits) as response:
                async for line in read_lines(response.content):
                    event = msgspec.json.decode(line, type=WatchEvent)
                    if event.type == "ERROR":
                        status = decode_as(Status, event.object)
                        if status.code != _GONE:
                            raise Unavailable(f"{status.code} {status.reason}: {status.message}"[:500], status=200)
                        return  # the server no longer has the changes since then, so the caller lists again
                    version = msgspec.json.decode(event.object, type=WatchedObject).metadata.resource_version
                    if event.type != "BOOKMARK":
                        seen = decode_as(kind, event.object, f"no {kind.kind}")
                        is_there = event.type != "DELETED" and is_wanted(seen)
                        yield Updated(seen.trim(keep)) if is_there else Deleted(seen.trim(keep))
            if time.monotonic() - began > _STEADY_S:
                back_off = BackOff(*_ENDED_S)
            else:
                await back_off.wait()

    async def _list(
        self,
        kind: type[T],
        namespace: str,
        query: Query,
        is_wanted: Callable[[T], bool] = lambda _: True,
        keep: Collection[str] = (),
    ) -> tuple[tuple[T, ...], str]:
        objects: list[T] = []
        following = ""
        while True:
            page = [("limit", str(_PAGE)), *([("continue", following)] if following else [])]
            answer = decode_as(ListPage, await self.fetch(kind.path(namespace), [*query, *page]))
            listed = (decode_as(kind, item, f"no {kind.kind}") for item in answer.items or ())
            objects += (one.trim(keep) for one in listed if is_wanted(one))
            following = answer.metadata.following
            if not following:
                return tuple(objects), answer.metadata.resource_version

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        query: Query | None = None,
        limits: aiohttp.ClientTimeout | None = None,
        account: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and raise the library's errors, up to the end of the context, as this module's."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        headers |= {"Impersonate-User": account} if account is not None else {}
        limits = limits or aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            request = await self._client.param_serialize(
                method, path, query_params=query, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response: aiohttp.ClientResponse = (await self._client.call_api(*request, _request_timeout=limits)).response
            try:
                if response.status >= 300:
                    raise_for_status(
                        response.status, await read_body(response.content), response.headers.get("Retry-After")
                    )
                yield response
            finally:
                response.close()  # a connection whose response was read to its end is kept
        except (*DECODE_ERRORS, aiohttp.ClientError, TimeoutError, OSError, ValueError, ConfigException) as error:
            raise explain(error) from None


def _decode(kind: type[T], body: bytes | msgspec.Raw) -> T:
    return decode_as(kind, body, f"no {kind.kind}").trim()
