"""The Kubernetes API: read, list, watch, patch, and write Events.

Answers are decoded into the few fields that Sluice needs: the typed classes of Kubernetes's library would cost a pod
25 MiB.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import aiohttp
import msgspec

from schemas.config import Kubernetes
from services.common.backoff import BackOff
from services.kube.access import find_access
from services.kube.changes import Deleted, Listed, ListPage, T, Updated, WatchedObject, WatchEvent
from services.kube.objects import (
    KubeObject,
    Status,
    Superseded,
    Unavailable,
    decode_as,
    read_body,
    read_lines,
)
from services.kube.transport import PatchTurns, Transport

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

    def __init__(self, transport: Transport, timeout_s: float, patches_per_second: float = _UNBOUNDED) -> None:
        """See ``connect``."""
        self._transport = transport
        self._timeout_s = timeout_s
        self._turns = PatchTurns(_CONCURRENT_PATCHES, patches_per_second)

    @classmethod
    @asynccontextmanager
    async def connect(cls, config: Kubernetes, patches_per_second: float = _UNBOUNDED) -> AsyncIterator["KubeClient"]:
        """Prepare to reach the configured API server; it need not be there yet.

        Raises:
            KubeConfigError: there is no kubeconfig or service account, or it cannot be used.
        """
        if config.kubeconfig is None:
            access = find_access(config)
        else:
            # A Pod has a service account, and does not pay for the library.
            from services.kube.kubeconfig import read_kubeconfig  # noqa: PLC0415

            access = await read_kubeconfig(config.kubeconfig)
        async with Transport.open(access, config.timeout.seconds) as transport:
            yield cls(transport, config.timeout.seconds, patches_per_second)

    @property
    def room(self) -> int:
        """How many more patches could be sent at once; 0 while others wait for their turn."""
        return self._turns.room

    async def wait_for_room(self, delay_s: float = 0.0) -> None:
        """Wait for so long, and then until there is room for patches, which others may take."""
        await asyncio.sleep(delay_s)
        await self._turns.wait_for_room()

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object.

        Raises:
            NotFound: there is none.
            Rejected: reading is not allowed.
            Unavailable: no answer.
        """
        return decode_as(kind, await self.fetch(kind.path(namespace, name)), f"no {kind.kind}").trim()

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
        async with self._transport.request("GET", path, query=query) as response:
            return await read_body(response.content)

    async def try_patch(self, path: str, operations: list[dict[str, Any]], account: str | None) -> Any:
        """What would become of an object by a JSON Patch, sent in the place of ``account``; fails as `patch` does."""
        dry, kind = [("dryRun", "All")], "application/json-patch+json"
        async with self._transport.request("PATCH", path, operations, kind, query=dry, account=account) as response:
            return decode_as(dict, await read_body(response.content))

    async def ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """What the API server answers to a question, such as a review of rights, that changes nothing.

        Raises:
            NotFound: it knows no such question.
            Rejected: asking is not allowed.
            Unavailable: no answer.
        """
        async with self._transport.request("POST", path, question) as response:
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
            async with self._transport.request("PATCH", path, operations, "application/json-patch+json") as response:
                return decode_as(type(obj), await read_body(response.content), f"no {obj.kind}").trim()

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
        async with self._transport.request("PATCH", path, body, "application/merge-patch+json") as response:
            return decode_as(type(obj), await read_body(response.content), f"no {obj.kind}").trim()

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
        async with self._transport.request("POST", f"/api/v1/namespaces/{meta.namespace}/events", body) as response:
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
        async with self._transport.request("POST", kind.path(namespace), body, query=dry) as response:
            return decode_as(kind, await read_body(response.content), f"no {kind.kind}").trim()

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
        async with self._transport.request("DELETE", obj.path(meta.namespace, meta.name), body) as response:
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
            async with self._transport.request("GET", path, query=[*query, *options], limits=limits) as response:
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
