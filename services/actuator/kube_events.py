"""Kubernetes Events on a target's workload, for ``kubectl describe``.

Events are a courtesy: they never delay a patch, and one that cannot be written is only logged.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from services.kube.objects import KubeObject, NotFound, Rejected, Unavailable

_EVERY_S = 30.0
"""At most one Event of a kind on an object in this time; the next one counts those left out."""
_NEVER_LEFT_OUT = frozenset(
    {"LimitPaused", "LimitResumed", "LimitFailSafe", "LimitRestored", "LimitNotEnforced", "LimitEnforced"}
)
_MAX_WAITING = 100

_log = structlog.get_logger()


class EventSink(Protocol):
    """What recording Events needs of the API client."""

    async def create_event(self, about: KubeObject, reason: str, message: str, severity: str, at: str) -> None:
        """Write a Kubernetes Event about an object."""


class EventRecorder:
    """Events on their way to the API server."""

    def __init__(self, sink: EventSink, clock: Callable[[], float] = time.monotonic) -> None:
        """Write Events to ``sink``; ``clock`` gives seconds."""
        self._sink = sink
        self._clock = clock
        self._waiting: deque[tuple[KubeObject, str, str, str, str]] = deque(maxlen=_MAX_WAITING)
        self._more = asyncio.Event()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}
        """When each reason on each object was written last, and how many were left out since."""

    def record(self, about: KubeObject, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Write an Event about an object, unless one with this reason was written a short time ago."""
        now = self._clock()
        last, left_out = self._last.get((about.uid, reason), (float("-inf"), 0))
        if now - last < _EVERY_S and reason not in _NEVER_LEFT_OUT:
            self._last[about.uid, reason] = (last, left_out + 1)
            return
        if left_out:
            message = f"{message} (and {left_out} more since {now - last:.0f} s)"
        self._last = {key: kept for key, kept in self._last.items() if kept[0] > now - 10 * _EVERY_S}
        self._last[about.uid, reason] = (now, 0)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._waiting.append((about, reason, message, "Warning" if is_warning else "Normal", at))
        self._more.set()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            about, reason, message, severity, at = self._waiting.popleft()
            try:
                await self._sink.create_event(about, reason, message, severity, at)
            except (NotFound, Rejected, Unavailable) as error:
                _log.warning("event not written", reason=reason, message=message, error=str(error))
