"""The page's HTTP server: the assets, the JSON API of ``openapi.py``, and the stream of events."""

import asyncio
import importlib.metadata
import importlib.resources
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.messages import InvalidMessage
from services.common.listening import EVERYWHERE, resolve_host
from services.tools.common.bus_reader import BusError, MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.recording import InvalidRecording
from services.ui import openapi, stories, what_if
from services.ui.broadcast import Broadcaster, TooManyPages, encode_event
from services.ui.guard import HEADERS, build_guard
from services.ui.history import HistoryBuilder
from services.ui.overview import BusOverview
from services.ui.queries import ActionsQuery, EventsQuery, HistoryQuery, NoQuery, OverviewQuery, StoryQuery, UploadQuery
from services.ui.sources import LARGEST, LiveSource, NotThere, Recordings, RecordingSource, Unreachable, UploadTooLarge
from services.ui.views import (
    Actions,
    DomainHistory,
    Overview,
    Policies,
    Problem,
    Sources,
    SourceView,
    Story,
    WhatIf,
    WhatIfAnswer,
)

_PAGE = "index.html"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_RECENT_NS = 300 * 10**9
_LONGEST_NS = 48 * 3600 * 10**9
"""The page shows a day, and loads what lies around it."""
_LARGEST_JSON = 256 * 1024
_KEEP_ALIVE_S = 10.0
_MOST_CONNECTIONS = 160
"""Open pages have two each, a browser some more; each costs memory and a descriptor."""
_LOOK_S = 0.1
_AT_ONCE = 2
"""Requests that read a range of messages at once: each takes a few MiB."""
_LONG_NS = 1800 * 10**9
"""What reads more of a domain than this waits for others of its kind, and holds up nothing else."""
_TURN = 64
_STATUS: dict[type[Exception], int] = {
    NotThere: 404,
    Unreachable: 503,
    BusError: 503,
    TooManyPages: 503,
    UploadTooLarge: 413,
    InvalidRecording: 400,
    msgspec.ValidationError: 400,
    ValueError: 400,
}


class UiServer:
    """Answers requests; ``run`` serves until it is cancelled."""

    def __init__(self, live: LiveSource | None, broadcaster: Broadcaster | None, recordings: Recordings) -> None:
        """Take the bus, if there is one, and the recordings."""
        self._live = live
        self._broadcaster = broadcaster
        self._recordings = recordings
        self._reads = asyncio.Semaphore(_AT_ONCE)
        self._long_reads = asyncio.Semaphore(1)
        self._build = importlib.metadata.version("sluice")
        home = importlib.resources.files("services.ui") / "assets"
        self._assets = {one.name: one.read_bytes() for one in home.iterdir() if one.name[-4:] != ".pyc"}

    def build_application(self, hosts: Collection[str], user_header: str | None = None) -> web.Application:
        """Build the application; see ``build_guard`` for the arguments."""
        application = web.Application(
            middlewares=[build_guard(hosts, user_header)],
            client_max_size=_LARGEST_JSON,
        )
        handlers: dict[str, Callable[[Any], Awaitable[Struct]]] = {
            "sources": self.list_sources,
            "overview": self.show_overview,
            "domain": self.show_domain,
            "actions": self.search_actions,
            "story": self.build_story,
            "policies": self.list_policies,
        }
        for route in openapi.ROUTES:
            path = f"/{openapi.PREFIX}{route.path}"
            if route.path in handlers:
                application.router.add_get(path, _answer(route.query, handlers[route.path]))
        application.router.add_get(f"/{openapi.PREFIX}events", self.send_events)
        application.router.add_post(f"/{openapi.PREFIX}what-if", self.answer_what_if)
        application.router.add_post(f"/{openapi.PREFIX}recordings", self.receive_recording)
        application.router.add_get(f"/{openapi.PREFIX}openapi.json", self.send_openapi)
        application.router.add_get("/healthz", self.send_health)
        application.router.add_get("/readyz", self.send_health)
        application.router.add_get("/{name:[a-z0-9-]*(?:\\.[a-z]+)?}", self.send_asset)
        return application

    async def list_sources(self, _: NoQuery) -> Sources:
        """List the bus and the recordings."""
        found: list[SourceView] = [] if self._live is None else [await self._live.describe()]
        found += [await one.describe() for one in self._recordings.sources.values()]
        return Sources(found, uploads=self._recordings.uploads, largest=LARGEST, build=self._build)

    async def show_overview(self, query: OverviewQuery) -> Overview:
        """Show all domains, now or at a time."""
        source = self._find_source(query.source)
        view = await source.describe()
        if isinstance(source, LiveSource) and query.at is None:
            assert self._broadcaster is not None
            now = time.time_ns()
            domains = self._broadcaster.overview.build_views(now)
            return Overview(view, now / 1e6, domains, source.failure, dict(Counter(one.state for one in domains)))
        at = int((query.at if query.at is not None else view.end or 0) * 1e6)
        overview = BusOverview(source.list_domains(at))
        async with self._reads, aclosing(source.read_summary(at)) as lines:
            async for line in lines:
                with suppress(InvalidMessage):
                    overview.add(decode_message(line), line.time)
        domains = overview.build_views(at)
        return Overview(view, at / 1e6, domains, None, dict(Counter(one.state for one in domains)))

    async def show_domain(self, query: HistoryQuery) -> DomainHistory:
        """Show one domain over a stretch of time: the last five minutes, or all of a recording, without a range."""
        source = self._find_source(query.source)
        begin, end = self._resolve_range(source, query.since, query.until)
        domain = next((one for one in source.list_domains(end) if one.name == query.domain), None)
        builder, read = HistoryBuilder(query.domain, domain, source.period), 0
        scope = MessageRange(since=begin, until=end, domains=(query.domain,))
        is_rough = query.rough and isinstance(source, LiveSource)
        found = source.read_spread(scope) if is_rough and isinstance(source, LiveSource) else source.read(scope)
        places = self._long_reads if end - begin > _LONG_NS and not is_rough else self._reads
        async with places, aclosing(found) as lines:
            async for line in lines:
                builder.add(line)
                # Messages that wait already give no other page a turn.
                read += 1
                if read % _TURN == 0:
                    await asyncio.sleep(0)
        if domain is None and not builder.statistics.windows:
            raise NotThere(f"there is no domain {query.domain!r} in this time")
        return builder.build(begin, end, rough=is_rough)

    def _resolve_range(
        self, source: LiveSource | RecordingSource, since: float | None, until: float | None
    ) -> tuple[int, int]:
        """Resolve a range to UTC ns: at most two days of the bus, or all of a recording."""
        if isinstance(source, RecordingSource):
            begin = source.begin if since is None else int(since * 1e6)
            return begin, source.end if until is None else int(until * 1e6)
        end = time.time_ns() if until is None else int(until * 1e6)
        begin = end - _RECENT_NS if since is None else int(since * 1e6)
        if begin >= end:
            raise ValueError("since must be before until")
        return max(begin, end - _LONGEST_NS), end

    async def search_actions(self, query: ActionsQuery) -> Actions:
        """Search the actions: of the last hour of the bus, or all of a recording, without a range."""
        source = self._find_source(query.source)
        if isinstance(source, LiveSource) and query.since is None:
            query = msgspec.structs.replace(query, since=(query.until or time.time() * 1e3) - 3600e3)
        async with self._reads:
            return await stories.search_actions(source, query)

    async def build_story(self, query: StoryQuery) -> Story:
        """Build the story of a message."""
        async with self._reads:
            return await stories.build_story(self._find_source(query.source), query)

    async def list_policies(self, _: NoQuery) -> Policies:
        """List the policies."""
        return what_if.list_policies()

    def _find_source(self, name: str) -> LiveSource | RecordingSource:
        if name == "live":
            if self._live is None:
                raise NotThere("this page shows recordings only: it was started without a bus")
            return self._live
        found = self._recordings.sources.get(name)
        if found is None:
            raise NotThere(f"there is no recording {name!r} here any more: send it again")
        return found

    async def answer_what_if(self, request: web.Request) -> web.StreamResponse:
        """Replay, and answer with the limits that would have been set."""

        async def answer(asked: WhatIf) -> WhatIfAnswer:
            source = self._find_source(asked.source)
            begin, end = self._resolve_range(source, asked.since, asked.until)
            async with self._reads:
                return await what_if.replay(source, asked, begin, end)

        body = await request.read()
        return await _respond(lambda: answer(msgspec.json.decode(body, type=WhatIf)))

    async def receive_recording(self, request: web.Request) -> web.StreamResponse:
        """Receive a recording."""

        async def receive() -> SourceView:
            if not self._recordings.uploads:
                raise NotThere("this page takes no recordings")
            query = msgspec.convert(dict(request.query), UploadQuery, strict=False)
            chunks = request.content.iter_chunked(64 * 1024)
            return await (await self._recordings.receive(query.name, chunks)).describe()

        return await _respond(receive)

    async def send_events(self, request: web.Request) -> web.StreamResponse:
        """Send what changes until the page is closed."""
        if self._broadcaster is None:
            return await _respond(self._refuse_events)
        headers = HEADERS | {"Content-Type": openapi.STREAM, "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        try:
            query = msgspec.convert(dict(request.query), EventsQuery, strict=False)
            async with self._broadcaster.subscribe(query.domain) as page:
                await response.prepare(request)
                while True:
                    try:
                        frame = await asyncio.wait_for(page.frames.get(), _KEEP_ALIVE_S)
                    except TimeoutError:
                        frame = encode_event("alive", b"{}")
                    await response.write(frame)
        except (TooManyPages, msgspec.ValidationError) as error:
            return _refuse(error)
        except ConnectionError:
            pass
        return response

    async def _refuse_events(self) -> Struct:
        raise NotThere("this page shows recordings only: nothing changes")

    async def send_openapi(self, _: web.Request) -> web.Response:
        """Send the document of this API."""
        return web.json_response(openapi.build_document(self._build))

    async def send_health(self, request: web.Request) -> web.Response:
        """Send whether the page runs, and whether it reads the bus."""
        failure = None if self._live is None else self._live.failure
        if request.path == "/readyz":
            wrong = {"bus": failure} if failure else {}
            return web.json_response({"ready": not wrong, "wrong": wrong}, status=503 if wrong else 200)
        return web.json_response({"healthy": True})

    async def send_asset(self, request: web.Request) -> web.StreamResponse:
        """Send a file of the page."""
        name = request.match_info["name"] or _PAGE
        body = self._assets.get(name)
        if body is None:
            return _send(Problem(f"there is no {request.path}"), 404)
        kind = _TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        return web.Response(body=body, content_type=kind, charset="utf-8")


def _answer(
    query: type[Struct], handle: Callable[[Any], Awaitable[Struct]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Build a handler that reads the parameters, and answers in JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        async def work() -> Struct:
            return await handle(msgspec.convert(dict(request.query), query, strict=False))

        return await _respond(work)

    return answer


async def _respond(work: Callable[[], Awaitable[Struct]]) -> web.StreamResponse:
    """Answer with what the work gives, or with why it gives nothing."""
    try:
        return _send(await work(), 200)
    except tuple(_STATUS) as error:
        return _refuse(error)


def _refuse(error: Exception) -> web.Response:
    status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
    return _send(Problem(describe_decode_error(error) if isinstance(error, DECODE_ERRORS) else str(error)), status)


def _send(answer: Struct, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


@asynccontextmanager
async def serve(application: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the context lasts; gives the port.  ``::`` is every address of both families.

    Raises:
        OSError: the port is taken, or the address does not belong to this machine.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    displacing = asyncio.create_task(_displace_idle(runner))
    try:
        address = resolve_host(host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family, dualstack_ipv6=address == EVERYWHERE)
        await web.SockSite(runner, listening).start()
        yield int(runner.addresses[0][1])
    finally:
        displacing.cancel()
        await runner.cleanup()


async def _displace_idle(runner: web.AppRunner) -> None:
    """Close the oldest connections without a request while there are too many, so that nobody can hold all of them."""
    while True:
        await asyncio.sleep(_LOOK_S)
        handlers = [] if runner.server is None else runner.server.connections
        idle = [one for one in handlers if one._current_request is None]  # noqa: SLF001 - not published otherwise
        for one in idle[: max(len(handlers) - _MOST_CONNECTIONS, 0)]:
            one.force_close()
            if one.transport is not None:
                one.transport.abort()
