"""The page's server inside the test's own event loop, over a bus, a recording or both."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.config import BusConfig, Config
from services.bus.bus import Bus
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage
from services.ui.broadcast import Broadcaster
from services.ui.guard import LOOPBACK
from services.ui.server import UiServer, serve
from services.ui.sources import LiveSource, Recordings
from tests.support import bus_stream
from tests.support.bus_stream import PERIOD
from tests.support.waiting import until


@asynccontextmanager
async def serve_page(
    url: str | None = None,
    of: Config | None = None,
    file: Path | None = None,
    *,
    host: str = "127.0.0.1",
    uploads: bool = True,
    user_header: str | None = None,
) -> AsyncIterator[str]:
    """Serve; gives the page's address.  ``url`` is a bus's, ``of`` its configuration."""
    recordings, live, broadcaster = Recordings(uploads=uploads), None, None
    if url is not None:
        live = LiveSource(of.domains if of is not None else (), url)
        broadcaster = Broadcaster(BusConfig(servers=(url,)), live)
    if file is not None:
        await recordings.add_file(file)
    application = UiServer(live, broadcaster, recordings).build_application({*LOOPBACK}, user_header)
    port = 0
    following = asyncio.create_task(broadcaster.run()) if broadcaster is not None else None
    try:
        async with serve(application, host, 0) as port:
            yield f"http://127.0.0.1:{port}/"
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        recordings.close()
        await until(lambda: not find_connections(port), lambda: f"still open: {find_connections(port)}")


def find_connections(port: int) -> list[object]:
    """Find what this event loop has open of a server's connections: those of a browser that is gone close by and by."""
    transports: list[asyncio.Transport] = list(getattr(asyncio.get_running_loop(), "_transports", {}).values())
    return [
        one
        for one in transports
        if (one.get_extra_info("sockname") or ("", 0))[1:2] == (port,) and one.get_extra_info("socket").fileno() >= 0
    ]


def recent_stream(of: Config, count: int, *, actions: bool = True) -> list[RecordedMessage]:
    """A generated stretch of messages that ends now."""
    begin = (time.time_ns() // PERIOD - count) * PERIOD
    return list(bus_stream.stream(of, count, actions=actions, begin=begin))


async def publish(bus: Bus, lines: Iterable[RecordedMessage]) -> None:
    """Publish recorded messages, in order."""
    for line in lines:
        message = decode_message(line)
        await bus.publish(line.subject, message, msg_id=line.headers["Nats-Msg-Id"])
