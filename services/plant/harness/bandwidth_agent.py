"""Plays Cilium's Bandwidth Manager: what a Pod's annotation says becomes its limit in the plant.

Between the API server and the plant, in a cluster one per node.  Like Cilium's it looks at live Pods
only, takes an unreadable value for no limit at all, and needs a moment for each change.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import structlog
from msgspec import Struct

from schemas.units import Rate
from services.plant.interface import LimitControl, Pod

ANNOTATION = "kubernetes.io/egress-bandwidth"
NAME_LABEL = "app.kubernetes.io/name"
"""Names the Deployment that a Pod belongs to."""
_RETRY_S = 0.5

_log = structlog.get_logger()


class Limited(LimitControl, Protocol):
    """A plant whose pods can be limited."""

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""


class Enforced(Struct, frozen=True):
    """One limit that came into force."""

    at: int
    """UTC ns."""
    target: str
    pod: str
    """The plant's name of it."""
    kbit: int | None
    seen: int
    """When the annotation was seen, UTC ns."""


class _Slot:
    """One pod of a plant, and the Pod of the API that stands for it."""

    def __init__(self, plant: Limited, pod: Pod) -> None:
        self.plant = plant
        self.pod = pod
        self.uid: str | None = None
        self.wanted: int | None = None
        self.seen = 0
        self.busy: asyncio.Task[None] | None = None
        self.known = False


class Agent:
    """Watches Pods and enforces their annotations, until cancelled."""

    def __init__(
        self,
        url: str,
        plants: Sequence[Limited],
        *,
        delay: float = 0.03,
        headers: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
        on_enforced: Callable[[Enforced], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked before ``run``.

        Args:
            url: of the API server.
            plants: whose pods the API's Pods of the same target are, in the order they appear.
            delay: what an endpoint's regeneration takes from the annotation to the limit, seconds.
            headers: of every request, such as credentials.
            trust: what the server's certificate must satisfy; None: the system's authorities.
            on_enforced: is told of each change.
        """
        self._url = url
        self._slots = [_Slot(plant, pod) for plant in plants for pod in plant.pods]
        self._delay = delay
        self._headers = dict(headers or {})
        self._trust = trust
        self._on_enforced = on_enforced
        self._limited = asyncio.Event()
        self._uids: dict[str, list[str]] = {slot.pod.target: [] for slot in self._slots}

    async def limited(self) -> None:
        """Wait until every pod of the plants has a Pod, and its annotation is in force."""
        await self._limited.wait()

    def restarts(self, target: str) -> int:
        """Pods of ``namespace/deployment`` that came into being beyond the plant's own number of them."""
        return len(self._uids[target]) - sum(slot.pod.target == target for slot in self._slots)

    async def run(self) -> None:
        """Follow the API; lists anew whenever a watch ends or fails."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5)
        connector = aiohttp.TCPConnector(ssl=self._trust or True)
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                try:
                    async for kind, pod in self._events(session):
                        self._take(kind, pod, tasks)
                except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
                    _log.warning("the API does not answer", url=self._url, error=str(error))
                    await asyncio.sleep(_RETRY_S)

    async def _events(self, session: aiohttp.ClientSession) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """All Pods there are, then what changes, until the watch ends."""
        url = f"{self._url}/api/v1/pods"
        async with session.get(url, raise_for_status=True) as answer:
            listed = await answer.json()
        for pod in listed["items"]:
            yield "ADDED", pod
        # What went while nobody watched.
        there = {pod["metadata"]["uid"] for pod in listed["items"]}
        for slot in self._slots:
            if slot.uid is not None and slot.uid not in there:
                slot.uid = None
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with session.get(url, params=query, raise_for_status=True) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]

    def _take(self, kind: str, pod: dict[str, Any], tasks: asyncio.TaskGroup) -> None:
        meta = pod["metadata"]
        target = f"{meta.get('namespace')}/{(meta.get('labels') or {}).get(NAME_LABEL)}"
        if target not in self._uids:
            return
        slot = self._slot_of(target, meta["uid"], gone=kind == "DELETED")
        if slot is None:
            return
        if kind == "DELETED":
            slot.uid = None
            return
        kbit = rate_of((meta.get("annotations") or {}).get(ANNOTATION))
        if slot.known and kbit == slot.wanted:
            return
        slot.wanted, slot.seen = kbit, time.time_ns()
        if slot.busy is None or slot.busy.done():
            slot.busy = tasks.create_task(self._enforce(slot))

    def _slot_of(self, target: str, uid: str, *, gone: bool) -> _Slot | None:
        mine = [slot for slot in self._slots if slot.pod.target == target]
        for slot in mine:
            if slot.uid == uid:
                return slot
        if gone:
            return None
        if uid not in self._uids[target]:
            self._uids[target].append(uid)
        free = next((slot for slot in mine if slot.uid is None), None)
        if free is not None:
            free.uid, free.known = uid, False
        return free

    async def _enforce(self, slot: _Slot) -> None:
        """Put the newest value in force; one that changes meanwhile takes its turn after it."""
        done: tuple[int, int | None] | None = None
        while done != (slot.seen, slot.wanted):
            await asyncio.sleep(self._delay)
            done = slot.seen, slot.wanted
            await asyncio.to_thread(slot.plant.set_limit, slot.pod.name, slot.wanted)
            slot.known = True
            if all(one.known for one in self._slots):
                self._limited.set()
            self._on_enforced(Enforced(time.time_ns(), slot.pod.target, slot.pod.name, done[1], done[0]))


def rate_of(annotation: str | None) -> int | None:
    """What is enforced of an annotation, kbit/s: an absent or unreadable one is no limit, as with Cilium."""
    rate = Rate.enforced(annotation)
    return None if rate is None else int(rate)
