"""Everything that was ever written on a target's objects, and what must hold of it."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec import Struct

from schemas.messages import Action
from schemas.units import Rate
from services.actuator.record import KEY
from tests.kubernetes import BANDWIDTH, Server


class Mark(Struct, frozen=True):
    """What one write left on one object."""

    uid: str
    kind: str
    value: str
    record: dict[str, Any]


class Trail:
    """The marks on a target's Deployment and Pods, in the order in which they came."""

    def __init__(self) -> None:
        """Begin empty."""
        self.marks: list[Mark] = []
        self._last: dict[str, str] = {}
        self.gone: set[str] = set()
        self.lost = 0
        """Writes on Pods that were gone before the actuator could read back what it had not reported."""

    def saw(self, tree: dict[str, Any]) -> None:
        """Take note of one state of one object."""
        annotations = tree["metadata"].get("annotations") or {}
        text, uid = annotations.get(KEY), tree["metadata"]["uid"]
        if text in (None, "", "{}") or self._last.get(uid) == text:
            return
        self._last[uid] = text
        kind = "Deployment" if "template" in tree["spec"] else "Pod"
        self.marks.append(Mark(uid, kind, annotations.get(BANDWIDTH, ""), json.loads(text)))

    def check(self, actions: Iterable[Action], low: str, high: str) -> int:
        """Check that nothing older overwrote something newer, that bounds held, that all was reported.

        Returns:
            How many writes there were.
        """
        self._check_order()
        least, most = Rate.parse(low), Rate.parse(high)
        for mark in self.marks:
            assert least <= mark.record["limit"] <= most, mark
            assert mark.value == mark.record["value"], mark
            if mark.kind == "Deployment":
                assert Rate.parse(mark.value) == mark.record["limit"], mark
            else:
                assert 1 <= Rate.parse(mark.value) <= mark.record["limit"], mark
        self._check_reports(actions)
        return len(self.marks)

    def _check_order(self) -> None:
        ends: dict[str, int] = defaultdict(int)
        for mark in self.marks:
            end = mark.record.get("end", 0)
            assert end >= ends[mark.uid], f"older over newer: {mark}"
            ends[mark.uid] = end

    def _check_reports(self, actions: Iterable[Action]) -> None:
        reported: dict[str, set[str]] = defaultdict(set)
        for action in actions:
            if action.outcome in ("applied", "failed"):
                # A report counts for the Pods that it names, and for the Deployment.
                reported[action.id] |= {pod.uid for pod in action.pods if pod.outcome == "applied"} | {""}
        for mark in self.marks:
            who = "" if mark.kind == "Deployment" else mark.uid
            known = who in reported[mark.record["action"]]
            assert known or mark.uid in self.gone, f"never reported: {mark}"
            self.lost += not known


@asynccontextmanager
async def followed(server: Server, name: str = "app") -> AsyncIterator[Trail]:
    """The trail of one Deployment and its Pods while the context lasts, through losses of the server."""
    trail = Trail()
    watches = [
        asyncio.create_task(_follow(server, trail, f"{server.deployments}", f"fieldSelector=metadata.name%3D{name}")),
        asyncio.create_task(_follow(server, trail, f"{server.pods}", f"labelSelector=app%3D{name}")),
    ]
    try:
        yield trail
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def _follow(server: Server, trail: Trail, path: str, query: str) -> None:
    while True:
        try:
            listed = await server.must("GET", f"{path}?{query}")
            for tree in listed["items"]:
                trail.saw(tree)
            await _watch(server, trail, f"{path}?{query}", listed["metadata"]["resourceVersion"])
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)


async def _watch(server: Server, trail: Trail, path: str, version: str) -> None:
    """Take note of every change, until the server has forgotten what came after the last one."""
    while True:
        async for event in server.watch(f"{path}&watch=true&resourceVersion={version}&timeoutSeconds=30"):
            if event["type"] == "ERROR":
                return
            version = event["object"]["metadata"]["resourceVersion"]
            trail.saw(event["object"])
            if event["type"] == "DELETED":
                trail.gone.add(event["object"]["metadata"]["uid"])
