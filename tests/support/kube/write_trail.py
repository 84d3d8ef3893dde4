"""Records every write on a target's objects, and checks the invariants."""

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
from services.actuator.ownership import KEY
from tests.support.kube.servers import BANDWIDTH, Server


class Mark(Struct, frozen=True):
    """The record of one write on one object."""

    uid: str
    kind: str
    value: str
    record: dict[str, Any]


class Trail:
    """The marks on a target's Deployment and Pods, in order."""

    def __init__(self) -> None:
        """Start empty."""
        self.marks: list[Mark] = []
        self._last: dict[str, str] = {}
        self.gone: set[str] = set()
        self.lost = 0
        """Writes on Pods that were deleted before the actuator read back what it had not reported."""

    def saw(self, tree: dict[str, Any]) -> None:
        """Record one state of one object."""
        annotations = tree["metadata"].get("annotations") or {}
        text, uid = annotations.get(KEY), tree["metadata"]["uid"]
        if text in (None, "", "{}") or self._last.get(uid) == text:
            return
        self._last[uid] = text
        kind = "Deployment" if "template" in tree["spec"] else "Pod"
        self.marks.append(Mark(uid, kind, annotations.get(BANDWIDTH, ""), json.loads(text)))

    def check(self, actions: Iterable[Action], low: str, high: str) -> int:
        """Check that no older write replaced a newer one, that the bounds held, and that all writes were reported.

        Returns:
            How many writes there were.
        """
        found = self.verdict(actions, low, high)
        assert not found.wrong, found.wrong
        return found.writes

    def verdict(self, actions: Iterable[Action], low: str, high: str) -> "Verdict":
        """Check every mark against the bounds ``low`` and ``high`` and the reports."""
        older = self._older()
        outside = [mark for mark in self.marks if not _within(mark, Rate.parse(low), Rate.parse(high))]
        unreported = self._find_unreported(actions)
        return Verdict(len(self.marks), len(older), len(outside), len(unreported), [*older, *outside, *unreported])

    def has_last_reports(self, actions: Iterable[Action]) -> bool:
        """Whether the last write to each object has a report; one may still be on its way when the limit is seen."""
        last = {mark.uid: mark.record["action"] for mark in self.marks if mark.uid not in self.gone}
        return set(last.values()) <= {action.id for action in actions}

    def _older(self) -> list[Mark]:
        """Marks of a decision that is older than the one before on the same object."""
        ends: dict[str, int] = defaultdict(int)
        found = []
        for mark in self.marks:
            end = mark.record.get("end", 0)
            if end < ends[mark.uid]:
                found.append(mark)
            ends[mark.uid] = end
        return found

    def _find_unreported(self, actions: Iterable[Action]) -> list[Mark]:
        reported: dict[str, set[str]] = defaultdict(set)
        for action in actions:
            if action.outcome in ("applied", "failed"):
                # A report counts for the Pods that it names, and for the Deployment.
                reported[action.id] |= {pod.uid for pod in action.pods if pod.outcome == "applied"} | {""}
        silent = [
            mark
            for mark in self.marks
            if ("" if mark.kind == "Deployment" else mark.uid) not in reported[mark.record["action"]]
        ]
        self.lost += sum(mark.uid in self.gone for mark in silent)
        return [mark for mark in silent if mark.uid not in self.gone]


class Verdict(Struct, frozen=True):
    """The result for a trail."""

    writes: int
    older: int
    """Writes of an older decision over a newer one."""
    outside: int
    """Writes out of bounds, or whose value differs from the record."""
    unreported: int
    """Writes without a report, on objects that outlived them."""
    wrong: list[Mark]
    """All of these marks."""


def _within(mark: Mark, least: Rate, most: Rate) -> bool:
    limit, value = int(mark.record["limit"]), int(Rate.parse(mark.value)) if mark.value else 0
    share = value == limit if mark.kind == "Deployment" else 1 <= value <= limit
    return bool(least <= limit <= most and mark.value == mark.record["value"] and share)


@asynccontextmanager
async def follow_trail(server: Server, name: str = "app") -> AsyncIterator[Trail]:
    """Record the trail of one Deployment and its Pods while the context lasts, even if the server restarts."""
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
    """Record every change, until the server has forgotten the changes after the last one."""
    while True:
        async for event in server.watch(f"{path}&watch=true&resourceVersion={version}&timeoutSeconds=30"):
            if event["type"] == "ERROR":
                return
            version = event["object"]["metadata"]["resourceVersion"]
            trail.saw(event["object"])
            if event["type"] == "DELETED":
                trail.gone.add(event["object"]["metadata"]["uid"])
