"""Reads the meters of all nodes, at the end of every period, over connections that stay open.

A headless Service's name has the address of every meter.  It is resolved again and again, so that nodes may come
and go.  A meter that left the name is read for some minutes more: its node's pods may still run, and a part of a
workload must not look like all of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from socket import AF_INET, SOCK_STREAM, AddressFamily, gaierror
from urllib.parse import urlencode, urlsplit

import aiohttp

from schemas.config import Signal
from services.sampler.scrape.parser import MalformedPage, PageReader, ScrapedPage
from services.sampler.scrape.source import ONE_PAGE, PageSource, Throughput, combine_pages
from services.sampler.scrape.window import PageWindow
from services.sampler.workloads import Workloads

RESOLVE_S = 5.0
"""How often the names are resolved."""
FORGET_S = 300.0
"""A meter that has left its name, or never answered, is given up after this: by then Kubernetes has removed the pods
of a node that failed."""
_CHUNK = 65536
_SHOWN = 3

Resolve = Callable[[str, int], Awaitable[list[str]]]


class FoundMeter:
    """The pages of one meter."""

    def __init__(self, url: str, window: int, reader: PageReader, now: float) -> None:
        """Nothing is read yet."""
        self.url = url
        self.window = PageWindow(window)
        self.page = ScrapedPage({}, {}, {})
        self.failure: str | None = None
        """Why its last page is not known."""
        self.answered = False
        """Whether it ever has."""
        self.since = self.listed = now
        """When its address was first seen, and last, by a clock that never jumps."""
        self._reader = reader

    def define(self, url: str, reader: PageReader) -> None:
        """Read another part of the same pages."""
        self.url, self._reader = url, reader

    async def scrape(self, session: aiohttp.ClientSession, end: int, max_bytes: int) -> None:
        """Add the page for the window that ends at ``end``; ``failure`` says whether that worked."""
        try:
            chunks, at = await _fetch(session, self.url, max_bytes)
            self.page = self._reader.read_chunks(chunks)
        except (MalformedPage, aiohttp.ClientError, TimeoutError, OSError) as error:
            why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            slow = isinstance(error, TimeoutError)
            self.failure = f"{self.url.partition('?')[0]}: {'no answer in time' if slow else why}"
            self.window.drop_old(end, time.monotonic())
            return
        self.failure, self.answered = None, True
        self.window.add(end, at, self.page)


async def _fetch(session: aiohttp.ClientSession, url: str, max_bytes: int) -> tuple[list[bytes], float]:
    """A page in pieces, and when it began to arrive, by the monotonic clock.

    Raises:
        MalformedPage: it is no page, or too large.
        ClientError, TimeoutError, OSError: no answer.
    """
    async with session.get(url, allow_redirects=False) as answer:
        at = time.monotonic()
        if answer.status != 200:
            raise MalformedPage(f"HTTP status {answer.status}")
        size, chunks = 0, []
        async for chunk in answer.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise MalformedPage(f"the answer is larger than {max_bytes} bytes")
            chunks.append(chunk)
        return chunks, at


def _select_namespaces(workloads: Workloads) -> str:
    """The query that asks a meter for the pods of the workloads' namespaces."""
    names = sorted({key.partition("/")[0] for key in workloads.senders})
    return urlencode([("namespace", name) for name in names])


class MeterFleet:
    """The meters of all nodes."""

    def __init__(self, signal: Signal, workloads: Workloads, resolve: Resolve | None = None) -> None:
        """Prepare; nothing is requested yet.

        Args:
            signal: names the meters.
            workloads: whose series to keep.
            resolve: the addresses of a host and a port.
        """
        self._signal = signal
        self._workloads = workloads
        self._resolve = resolve or resolve_name
        self._meters: dict[str, FoundMeter] = {}
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._resolved = asyncio.Event()
        self._problem: str | None = None
        self._query = _select_namespaces(workloads)

    def define(self, workloads: Workloads) -> None:
        """Keep the series of these workloads from the next pages on."""
        self._workloads, before, self._query = workloads, self._query, _select_namespaces(workloads)
        meters = {}
        for page, meter in self._meters.items():
            url = page.removesuffix(before) + self._query
            meter.define(url, PageReader(workloads, self._signal.scrape.max_lines))
            meters[url] = meter
        self._meters = meters

    async def scrape(self, end: int) -> None:
        """Read every meter's page for the window that ends at ``end``."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._resolved.wait(), self._signal.timeout.seconds)
        if (session := self._session) is not None:
            most = self._signal.scrape.max_bytes
            await asyncio.gather(*(meter.scrape(session, end, most) for meter in list(self._meters.values())))

    async def _run(self) -> None:
        """Keep the connections, and resolve the names again and again, until cancelled."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._signal.timeout.seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "sluice-sampler", "Accept-Encoding": "identity"},
        ) as self._session:
            while True:
                await self._update()
                self._resolved.set()
                await asyncio.sleep(RESOLVE_S)

    def measure(self, end: int) -> Throughput:
        """What the workloads sent in the window that ends at ``end``."""
        why = self.explain_all_missing()
        if why is not None:
            return Throughput({}, {}, {}, dict.fromkeys(self._workloads.measured_senders, why))
        return combine_pages(self._workloads, self.answered, self.explain_unknown(end).items(), end)

    @property
    def answered(self) -> list[PageSource]:
        """The meters whose newest page belongs to the last window."""
        return [meter for meter in self._meters.values() if meter.failure is None and meter.answered]

    def explain_unknown(self, end: int) -> dict[PageSource, str]:
        """Why meters that are known from before do not count in the window that ends at ``end``."""
        unknown: dict[PageSource, str] = {}
        for meter in self._meters.values():
            if meter.failure is not None and meter.answered:
                unknown[meter] = meter.failure
            elif meter.window.start == end:
                unknown[meter] = ONE_PAGE
        return unknown

    def explain_all_missing(self) -> str | None:
        """Why no workload's throughput is known: any may have pods where a meter never answered."""
        silent = [meter for meter in self._meters.values() if meter.failure is not None and not meter.answered]
        recent = [meter for meter in silent if time.monotonic() - meter.since < FORGET_S]
        if recent:
            return f"a meter has not answered yet: {recent[0].failure}"
        return (self._problem or "no meter") if not self._meters else None

    @property
    def notes(self) -> dict[str, str]:
        """What a person should know."""
        failed = [meter.failure for meter in self._meters.values() if meter.failure is not None]
        parts = [*([self._problem] if self._problem else []), *failed[:_SHOWN]]
        if len(failed) > _SHOWN:
            parts.append(f"and {len(failed) - _SHOWN} more of {len(self._meters)}")
        return {"meters": "; ".join(parts)} if parts else {}

    async def _update(self) -> None:
        """Add the meters that are new, and forget those that have long left."""
        now = time.monotonic()
        problems = []
        for url in self._signal.scrape.meters:
            parts = urlsplit(url)
            port = parts.port or 80
            try:
                addresses = await self._resolve(parts.hostname or "", port)
            except OSError as error:
                problems.append(f"meters: {parts.hostname}: {(error.strerror or str(error)).lower()}")
                continue
            for address in addresses:
                host = f"[{address}]" if ":" in address else address
                page = f"http://{host}:{port}{parts.path}?{self._query}"
                if page not in self._meters:
                    reader = PageReader(self._workloads, self._signal.scrape.max_lines)
                    self._meters[page] = FoundMeter(page, self._signal.window, reader, now)
                self._meters[page].listed = now
        self._problem = "; ".join(problems) or None
        if not problems:
            self._meters = {page: one for page, one in self._meters.items() if now - one.listed <= FORGET_S}

    def close(self) -> None:
        """Let the connections go, as soon as the event loop runs on."""
        if self._task is not None:
            self._task.cancel()


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a name, of one family only: a dual-stack Service has each meter twice.

    Raises:
        OSError: it has none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    except gaierror as error:
        raise OSError(error.errno, error.strerror) from None
    by_family: dict[AddressFamily, list[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, []).append(str(address[0]))
    return by_family.get(AF_INET) or next(iter(by_family.values()), [])
