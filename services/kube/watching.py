"""Watches for ever: lists again, with growing delays, whenever a watch ends."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any, Protocol

from services.common.backoff import BackOff
from services.kube.changes import Deleted, Listed, T, Updated
from services.kube.objects import NotFound, Rejected, Unavailable

_STEADY_S = 30.0
"""After a watch that showed changes for longer, back-off restarts."""
_UNREACHED_S = (0.2, 5.0)
"""First and longest delay before another attempt to reach an API server."""
_SILENT_S = (15.0, 18.0)
"""Between the beginnings of two requests that a server takes, and does not answer; the first is repeated at once."""
_ENDED_S = (1.0, 12.0)
"""The same if the server no longer has the changes."""
_REFUSED_S = (8.0, 40.0)
"""The same where it answers, and refuses."""
_MOST_RETRY_AFTER_S = 60.0
"""A longer delay that the server asks for is not kept."""

Change = Listed[Any] | Updated[Any] | Deleted[Any]


class Watcher(Protocol):
    """What a watch needs of the API client."""

    def list_and_watch(
        self,
        kind: type[T],
        namespace: str,
        is_wanted: Callable[[T], bool] = ...,
        *,
        name: str | None = None,
        selector: str | None = None,
        keep: Collection[str] = (),
    ) -> AsyncGenerator[Listed[T] | Updated[T] | Deleted[T], None]:
        """Yield all wanted objects, then every change."""


async def watch_for_ever(
    start: Callable[[], Awaitable[AsyncGenerator[Change, None]]],
    take: Callable[[Change, float], Awaitable[None]],
    fail: Callable[[Exception], float],
) -> None:
    """Watch, and watch again.

    Args:
        start: begins a watch.
        take: gets each change, and when its watch began, by the event loop's clock; may fail as a watch does.
        fail: gets the reason why a watch failed, and gives the least delay before the next, seconds.
    """
    unreached, ended, refused = BackOff(*_UNREACHED_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
    was_silent = False
    while True:
        began, shown, failure = time.monotonic(), float("inf"), None
        try:
            async with aclosing(await start()) as changes:
                async for change in changes:
                    shown = min(shown, time.monotonic())
                    await take(change, began)
        except (Unavailable, Rejected, NotFound) as error:
            failure = error
        now = time.monotonic()
        if now - shown > _STEADY_S:  # a request that waits for its answer in vain lasts as long
            unreached, ended, refused = BackOff(*_UNREACHED_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
            was_silent = False
        if failure is None:
            await asyncio.sleep(ended.next_s())
            continue
        least_s = max(fail(failure), min(failure.retry_after_s or 0.0, _MOST_RETRY_AFTER_S))
        is_silent = isinstance(failure, Unavailable) and failure.status is None and not failure.is_unreached
        if not is_silent:
            wait_s = (unreached if failure.is_unreached else refused).next_s()
        elif was_silent:
            wait_s = began + random.uniform(*_SILENT_S) - now  # noqa: S311 - spreads load
        else:
            wait_s = unreached.next_s()
        was_silent = was_silent or is_silent
        await asyncio.sleep(max(wait_s, least_s))
