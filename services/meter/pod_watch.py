"""Keeps the pods of one node up to date, in a thread.

While the API does not answer, the pods are those that were known last: their devices go on counting.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, field, structs

from services.common.backoff import BackOff
from services.kube.objects import NotFound, Rejected, Status, Unavailable, decode_as
from services.kube.plain_client import PlainClient
from services.meter.pods import HASH_LABELS, NodePod

PATH = "/api/v1/pods"
_PAGE = 50
"""Pods of one page of a list: a page of large pods must fit into the memory."""
_WATCH_S = (240, 300)
"""A watch ends after a time in this range; until then nothing is sent where nothing changes."""
_WATCH_SLACK_S = 10
_STEADY_S = 5.0
"""A watch that ends sooner is restarted with a delay."""
_LONGEST_S = 60.0
"""A longer delay that the server asks for is not kept."""
_GONE = 410
_log = logging.getLogger(__name__)


class _PodListMeta(Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    following: str = field(default="", name="continue")


class _PodList(Struct, frozen=True):
    metadata: _PodListMeta
    items: tuple[NodePod, ...] = ()


class _Bookmark(Struct, frozen=True):
    metadata: _PodListMeta = _PodListMeta()


class _PodEvent(Struct, frozen=True):
    type: str
    object: msgspec.Raw


class PodWatch:
    """The pods of one node."""

    def __init__(self, client: PlainClient, node: str) -> None:
        """Watch the pods that are bound to ``node``; ``run`` does so."""
        self._client = client
        self._selector = ("fieldSelector", f"spec.nodeName={node}")
        self._pods: dict[str, NodePod] = {}
        self.problem: str | None = "not yet"
        """Why changes are not seen now; None while they are."""
        self.listed = threading.Event()
        """Set once the pods have been known."""

    @property
    def pods(self) -> tuple[NodePod, ...]:
        """The pods that are known; never changed in place, so that any thread may use them."""
        return tuple(self._pods.values())

    def run(self) -> None:
        """List and watch for ever."""
        back_off = BackOff(0.25, 30.0)
        while True:
            shown, least_s = math.inf, 0.0
            try:
                for _ in self.follow():
                    shown = min(shown, time.monotonic())
            except (Unavailable, Rejected, NotFound) as error:
                self._set_problem(str(error))
                least_s = min(error.retry_after_s or 0.0, _LONGEST_S)
            if time.monotonic() - shown > _STEADY_S:
                back_off = BackOff(0.25, 30.0)
            time.sleep(max(back_off.next_s(), least_s))

    def follow(self) -> Iterator[None]:
        """List once, then watch until the server cannot tell further changes; yields after each step.

        Raises:
            NotFound, Rejected or Unavailable: see ``PlainClient``.
        """
        self._pods, version = self._list()
        self.listed.set()
        self._set_problem(None)
        yield
        while True:
            began = time.monotonic()
            seconds = random.randint(*_WATCH_S)  # noqa: S311 - spreads load
            options = [("watch", "true"), ("resourceVersion", version), ("allowWatchBookmarks", "true")]
            options += [("timeoutSeconds", str(seconds)), self._selector]
            for line in self._client.follow(PATH, options, seconds + _WATCH_SLACK_S):
                event = decode_as(_PodEvent, line)
                if event.type == "ERROR":
                    status = decode_as(Status, event.object)
                    if status.code == _GONE:
                        return
                    raise Unavailable(f"{status.code} {status.reason}: {status.message}"[:500], status=200)
                version = decode_as(_Bookmark, event.object).metadata.resource_version
                if event.type != "BOOKMARK":
                    pod = decode_as(NodePod, event.object, "no pod")
                    others = {uid: one for uid, one in self._pods.items() if uid != pod.metadata.uid}
                    self._pods = others if event.type == "DELETED" else others | {pod.metadata.uid: _trim(pod)}
                yield
            if time.monotonic() - began < _STEADY_S:
                return

    def _list(self) -> tuple[dict[str, NodePod], str]:
        """All pods by uid, and the version of the list."""
        pods: dict[str, NodePod] = {}
        following = ""
        while True:
            page = [("limit", str(_PAGE)), *([("continue", following)] if following else []), self._selector]
            answer = decode_as(_PodList, self._client.fetch(PATH, page), "no list of pods")
            pods |= {pod.metadata.uid: _trim(pod) for pod in answer.items}
            following = answer.metadata.following
            if not following:
                return pods, answer.metadata.resource_version

    def _set_problem(self, problem: str | None) -> None:
        if (problem is None) != (self.problem is None):
            _log.warning("pods: %s", problem or "changes are seen")
        self.problem = problem


def _trim(pod: NodePod) -> NodePod:
    """Drop what the meter never looks at."""
    meta = pod.metadata
    kept: dict[str, Any] = {
        "annotations": None,
        "labels": {name: value for name, value in (meta.labels or {}).items() if name in HASH_LABELS} or None,
        "owner_references": tuple(one for one in meta.owner_references if one.controller),
    }
    return structs.replace(pod, metadata=structs.replace(meta, **kept))
