"""Watches for ever: lists again, with growing delays, whenever a watch ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Any, Protocol

from services.common.backoff import BackOff
from services.kube.changes import Deleted, Listed, T, Updated
from services.kube.objects import NotFound, Rejected, Unavailable

_STEADY_S = 5.0
"""After a watch that lasted longer, back-off restarts."""
_SILENT_S = (0.2, 5.0)
"""First and longest delay before an API server is asked again that does not answer."""
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
    silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
    while True:
        began = time.monotonic()
        try:
            async with aclosing(await start()) as changes:
                async for change in changes:
                    await take(change, began)
            wait_s = ended.next_s()
        except (Unavailable, Rejected, NotFound) as error:
            least_s = fail(error)
            is_silent = isinstance(error, Unavailable) and error.status is None
            retry_after_s = min(getattr(error, "retry_after_s", None) or 0.0, _MOST_RETRY_AFTER_S)
            wait_s = max((silent if is_silent else refused).next_s(), retry_after_s, least_s)
        if time.monotonic() - began > _STEADY_S:
            silent, ended, refused = BackOff(*_SILENT_S), BackOff(*_ENDED_S), BackOff(*_REFUSED_S)
        await asyncio.sleep(wait_s)
