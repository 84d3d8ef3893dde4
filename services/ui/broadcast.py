"""Follows the bus, and sends what changed to every open page: one frame of events for all messages of a moment.

A thousand domains give thousands of messages a second, and a page draws sixty times a second.  So messages mark
what they changed, and a frame carries only the last state of each.  It is encoded once for all pages.  A page that
does not keep up loses frames, and is asked to fetch everything again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import msgspec

from schemas.config import BusConfig
from schemas.definition import Definition
from schemas.messages import KINDS, InvalidMessage, decode
from services.bus.bus import Denied
from services.bus.consumer import Start
from services.common.backoff import BackOff
from services.tools.common.bus_reader import BusError, BusReader, connect_reader
from services.tools.common.recording import RecordedMessage, build_message
from services.tools.common.time_options import to_datetime
from services.ui.history import HistoryBuilder
from services.ui.overview import BusOverview
from services.ui.sources import LiveSource
from services.ui.views import HistoryUpdate, OverviewUpdate

_FRAME_S = 0.04
_SLOWER_BY_S = 0.0002
"""A domain makes frames this much rarer, up to the longest."""
_LONGEST_FRAME_S = 0.2
_LOOK_BACK_NS = 60 * 10**9
_MANY = 100
"""With more domains the trails begin with the last message of each."""
_FRAMES_WAITING = 16
_MOST_PAGES = 64
_AGAIN_S = 2.0
_LOOK_AGAIN_S = 0.5
_encoder = msgspec.json.Encoder()


class TooManyPages(Exception):
    """As many pages are open as there may be."""


class Subscriber:
    """An open page's queue of encoded events."""

    def __init__(self, domain: str | None) -> None:
        """Take the domain whose history the page shows, if any."""
        self.domain = domain
        self.frames: asyncio.Queue[bytes] = asyncio.Queue(_FRAMES_WAITING)

    def send(self, frame: bytes) -> None:
        """Queue a frame; where the page does not keep up, drop what waits, and notify it."""
        try:
            self.frames.put_nowait(frame)
        except asyncio.QueueFull:
            while not self.frames.empty():
                self.frames.get_nowait()
            self.frames.put_nowait(encode_event("resync", b"{}"))


class Broadcaster:
    """Follows the bus for all pages."""

    def __init__(self, settings: BusConfig, live: LiveSource) -> None:
        """Prepare; ``run`` does the work."""
        self.overview = BusOverview(live.domains)
        self._settings = settings
        self._live = live
        self._pages: set[Subscriber] = set()
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        self._fresh: defaultdict[str, list[RecordedMessage]] = defaultdict(list)
        self._oldest = 0
        """When the bus stored the oldest message that no frame has carried, UTC ns; 0 without one."""
        self._wake = asyncio.Event()
        self._sent_failure: str | None = None

    @asynccontextmanager
    async def subscribe(self, domain: str | None) -> AsyncIterator[Subscriber]:
        """Open a page's queue while the context lasts.

        Raises:
            TooManyPages: as many are open as there may be.
        """
        if len(self._pages) >= _MOST_PAGES:
            raise TooManyPages(f"{_MOST_PAGES} pages are open already")
        page = Subscriber(domain)
        self._pages.add(page)
        try:
            yield page
        finally:
            self._pages.discard(page)

    async def run(self) -> None:
        """Follow the bus and send frames, without end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_bus())
            group.create_task(self._send_frames())
            group.create_task(self._watch_clock())

    async def _follow_bus(self) -> None:
        while True:
            try:
                async with connect_reader(self._settings, "ui") as reader:
                    self._live.reader = reader
                    async with asyncio.TaskGroup() as group:
                        for kind in KINDS:
                            group.create_task(self._follow_kind(reader, kind))
            except* (BusError, Denied) as errors:
                self._live.failure = str(errors.exceptions[0])
            self._live.reader = None
            await asyncio.sleep(_AGAIN_S)

    async def _follow_kind(self, reader: BusReader, kind: str) -> None:
        """Follow one kind."""
        # A service creates the streams.  A reader that waits for one by itself would ask for it less and less often.
        back_off = BackOff(_LOOK_AGAIN_S, most_s=_LOOK_AGAIN_S)
        while await reader.bus.stream_info(KINDS[kind]) is None:  # type: ignore[type-var]
            await back_off.wait()
        start = await self._choose_start(reader, kind)
        async with aclosing(reader.bus.read(kind, start=start, follow=True)) as messages:
            async for raw in messages:
                try:
                    message = decode(KINDS[kind], raw.body)  # type: ignore[type-var]
                except InvalidMessage:
                    continue
                status = self.overview.add(message, raw.published)
                if kind == "definition":
                    self._live.domains = self.overview.configured
                if status is None:
                    if isinstance(message, Definition):
                        self._removed.add(message.domain)
                        self._wake.set()
                    continue
                self._changed.add(status.name)
                self._oldest = self._oldest or raw.published
                if any(page.domain == status.name for page in self._pages):
                    line = build_message(kind, raw.subject, raw.seq, raw.published, {}, raw.body)
                    self._fresh[status.name].append(line)
                self._wake.set()

    async def _choose_start(self, reader: BusReader, kind: str) -> Start:
        """Choose where to begin; of actions and definitions with the last ones: they say who is in charge."""
        recently = to_datetime(time.time_ns() - _LOOK_BACK_NS)
        if kind == "dead":
            return "new"
        if kind in ("action", "definition") or len(self.overview.domains) > _MANY:
            return "latest"
        # Of a bus that was silent for longer, what was last is all there is to tell.
        return recently if await reader.has_any(kind, recently) else "latest"

    async def _watch_clock(self) -> None:
        """Notice silence, and a bus that cannot be read."""
        while True:
            reader = self._live.reader
            if reader is not None:
                self._live.failure = reader.failure
            self._changed.update(self.overview.find_fallen_silent(time.time_ns()))
            if self._changed or self._sent_failure != self._live.failure:
                self._wake.set()
            await asyncio.sleep(0.5)

    async def _send_frames(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for page_domain, frame in self._build_frames():
                for page in self._pages:
                    if page_domain is None or page.domain == page_domain:
                        page.send(frame)
            await asyncio.sleep(min(_FRAME_S + _SLOWER_BY_S * len(self.overview.domains), _LONGEST_FRAME_S))

    def _build_frames(self) -> Iterator[tuple[str | None, bytes]]:
        """Build a frame for all pages, and one for each domain that a page shows; and begin anew."""
        now, changed, fresh, published = time.time_ns(), self._changed, self._fresh, self._oldest / 1e6
        self._changed, self._fresh, self._oldest = set(), defaultdict(list), 0
        removed, self._removed = sorted(self._removed - self.overview.domains.keys()), set()
        if not self._pages:
            return
        self._sent_failure = self._live.failure
        domains = self.overview.domains
        # A domain may have been removed meanwhile.
        views = [domains[name].build_view(now) for name in sorted(changed & domains.keys())]
        for name, lines in fresh.items():
            if name not in domains:
                continue
            builder = HistoryBuilder(name, domains[name].domain, self._live.period)
            for line in lines:
                builder.add(line)
            update = HistoryUpdate(now / 1e6, published, builder.build(whole=False))
            yield name, encode_event("history", _encoder.encode(update))
        overview = OverviewUpdate(
            now=now / 1e6, published=published, domains=views, failure=self._sent_failure, removed=removed
        )
        yield None, encode_event("overview", _encoder.encode(overview))


def encode_event(name: str, data: bytes) -> bytes:
    """Encode a server-sent event; ``data`` is JSON on one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
