"""Replaces Cilium's Bandwidth Manager: enforces the annotations of Pods in the plant.

It sits between the API server and the plant.  Like Cilium's agent it watches live Pods only, treats an
unreadable value as no limit, and needs some time for each change.
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
from services.plant.scenario import Enforcement

ANNOTATION = "kubernetes.io/egress-bandwidth"
NAME_LABEL = "app.kubernetes.io/name"
"""Names the Deployment that a Pod belongs to."""
_RETRY_S = 0.5

_log = structlog.get_logger()


class LimitedPlant(LimitControl, Protocol):
    """A plant whose pods can be limited."""

    @property
    def pods(self) -> Sequence[Pod]:
        """The best-effort pods there are."""


class EnforcedLimit(Struct, frozen=True):
    """A limit that came into force on a pod."""

    at: int
    """UTC ns."""
    target: str
    pod: str
    """Its name in the plant."""
    kbit: int | None
    seen: int
    """When the annotation was seen, UTC ns."""


class _PodBinding:
    """A pod of the plant, and the API's Pod that represents it."""

    def __init__(self, plant: LimitedPlant, pod: Pod) -> None:
        self.plant = plant
        self.pod = pod
        self.uid: str | None = None
        self.desired: int | None = None
        self.seen = 0
        self.task: asyncio.Task[None] | None = None
        self.enforced = False


class BandwidthAgent:
    """Watches Pods and enforces their annotations until cancelled."""

    def __init__(
        self,
        url: str,
        plants: Sequence[LimitedPlant],
        *,
        delay: float = 0.03,
        headers: Mapping[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
        on_change: Callable[[EnforcedLimit], None] = lambda _: None,
        node: str | None = None,
    ) -> None:
        """Prepare; ``run`` makes the first request.

        Args:
            url: of the API server.
            plants: their pods are bound to the API's Pods of the same target, in the order of appearance.
            delay: seconds from an annotation to its limit, as an endpoint's regeneration takes.
            headers: of every request, such as credentials.
            trust: verifies the server's certificate; None: the system's authorities.
            on_change: is called for each limit that came into force.
            node: whose Pods to look at, as Cilium's agent does; None: all.
        """
        self._url = url
        self._pods = [_PodBinding(plant, pod) for plant in plants for pod in plant.pods]
        self._delay = delay
        self._headers = dict(headers or {})
        self._trust = trust
        self._on_change = on_change
        self._node = node
        self._all_enforced = asyncio.Event()
        self._enforcement: Enforcement = "on"
        self._uids: dict[str, list[str]] = {bound.pod.target: [] for bound in self._pods}
        self._waiting: dict[str, tuple[str, dict[str, Any]]] = {}
        """By uid, Pods for which the plant has no pod until another Pod is gone, and their targets."""

    async def wait_until_enforced(self) -> None:
        """Wait until every pod of the plants has a Pod, and its annotation is in force."""
        await self._all_enforced.wait()

    def count_restarts(self, target: str) -> int:
        """Count the Pods of ``namespace/deployment`` that were created beyond the plant's own number of them."""
        return len(self._uids[target]) - sum(pod.pod.target == target for pod in self._pods)

    async def set_enforcement(self, enforcement: Enforcement) -> None:
        """Stop enforcing, silently, as an agent that hangs or has lost its bandwidth manager does; or go on."""
        self._enforcement = enforcement
        for bound in self._pods if enforcement != "stuck" else ():
            limit = bound.desired if enforcement == "on" else None
            await asyncio.to_thread(bound.plant.set_limit, bound.pod.name, limit)

    async def run(self) -> None:
        """Follow the API; list again whenever a watch ends or fails."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5)
        connector = aiohttp.TCPConnector(ssl=self._trust or True)
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                try:
                    async for kind, pod in self._list_and_watch(session):
                        self._handle_event(kind, pod, tasks)
                except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
                    _log.warning("the API does not answer", url=self._url, error=str(error))
                    await asyncio.sleep(_RETRY_S)

    async def _list_and_watch(self, session: aiohttp.ClientSession) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield all Pods, then every change, until the watch ends."""
        url = f"{self._url}/api/v1/pods"
        async with session.get(url, raise_for_status=True) as answer:
            listed = await answer.json()
        # First those that were deleted between two watches: one of the list may take their place.
        self._waiting.clear()
        uids = {pod["metadata"]["uid"] for pod in listed["items"]}
        for bound in self._pods:
            if bound.uid is not None and bound.uid not in uids:
                bound.uid = None
        for pod in listed["items"]:
            yield "ADDED", pod
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        async with session.get(url, params=query, raise_for_status=True) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]

    def _handle_event(self, kind: str, pod: dict[str, Any], tasks: asyncio.TaskGroup) -> None:
        """Bind the API's Pod to a pod of the plant, and start to enforce its annotation if that is new."""
        meta = pod["metadata"]
        uid = meta["uid"]
        target = f"{meta.get('namespace')}/{(meta.get('labels') or {}).get(NAME_LABEL)}"
        candidates = [bound for bound in self._pods if bound.pod.target == target]
        if not candidates or self._node not in (None, (pod.get("spec") or {}).get("nodeName")):
            return
        bound = next((one for one in candidates if one.uid == uid), None)
        if kind == "DELETED":
            self._waiting.pop(uid, None)
            if bound is not None:
                bound.uid = None
                if (successor := next((tree for of, tree in self._waiting.values() if of == target), None)) is not None:
                    self._handle_event("ADDED", successor, tasks)
            return
        if bound is None:
            if uid not in self._uids[target]:
                self._uids[target].append(uid)
            bound = next((one for one in candidates if one.uid is None), None)
            if bound is None:
                self._waiting[uid] = (target, pod)
                return
            self._waiting.pop(uid, None)
            bound.uid, bound.enforced = uid, False
        kbit = parse_annotation((meta.get("annotations") or {}).get(ANNOTATION))
        if bound.enforced and kbit == bound.desired:
            return
        bound.desired, bound.seen = kbit, time.time_ns()
        if bound.task is None or bound.task.done():
            bound.task = tasks.create_task(self._enforce(bound))

    async def _enforce(self, bound: _PodBinding) -> None:
        """Put the newest value in force; a value that arrives meanwhile is enforced after it."""
        done: tuple[int, int | None] | None = None
        while done != (bound.seen, bound.desired):
            await asyncio.sleep(self._delay)
            done = bound.seen, bound.desired
            if self._enforcement == "on":
                await asyncio.to_thread(bound.plant.set_limit, bound.pod.name, bound.desired)
            bound.enforced = True
            if all(one.enforced for one in self._pods):
                self._all_enforced.set()
            self._on_change(EnforcedLimit(time.time_ns(), bound.pod.target, bound.pod.name, done[1], done[0]))


def parse_annotation(annotation: str | None) -> int | None:
    """Return the limit that an annotation sets, kbit/s; as with Cilium, an unreadable one is no limit."""
    rate = Rate.enforced(annotation)
    return None if rate is None else int(rate)
