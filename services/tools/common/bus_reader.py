"""Where every reader of the bus begins: a stretch of it, as lines in the order of their times.

Each kind has a stream of its own.  What is stored is merged by the server's times, and what arrives
live is held for a moment, so that a sample comes before its decision and a decision before its action.
"""

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from schemas.config import BusConfig
from services.bus.bus import Bus, Denied
from services.bus.consumer import Start
from services.bus.envelope import RawMessage
from services.bus.subjects import KINDS, token
from services.tools.common.recording import Line, line_of
from services.tools.common.time_options import datetime_of

_PATIENCE_S = 10.0
_LOOK_BACK_NS = 60 * 10**9
_HOLD_S = 0.3
"""Longer than two kinds of message can overtake each other on their way here."""


class BusError(Exception):
    """The bus cannot be reached, or does not let itself be read."""


@dataclass(frozen=True)
class Stretch:
    """What to read.  Times are UTC ns of the server's clock; None leaves a side open."""

    kinds: Sequence[str] = KINDS
    since: int | None = None
    until: int | None = None
    domains: Sequence[str] = ()
    """Only these; all without any."""


class Tap:
    """A bus to read from, and why it does not work at the moment."""

    def __init__(self, bus: Bus, state: list[str | None]) -> None:
        """See ``opened``."""
        self.bus = bus
        self._state = state

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read; None when all is well."""
        return self._state[0]

    async def stored(self, what: Stretch) -> AsyncGenerator[Line, None]:
        """What is stored, up to now, merged by time.

        Raises:
            BusError: the bus does not answer.
        """
        async with aclosing(_merged([self._kind(kind, what) for kind in what.kinds])) as lines:
            async for line in lines:
                if what.until is not None and line.time > what.until:
                    return
                yield line

    async def before(self, since: int, domains: Sequence[str]) -> list[Line]:
        """Each domain's last decision before a time: the state that the stretch begins in.

        Raises:
            BusError: the bus does not answer.
        """
        last: dict[str, Line] = {}
        earlier = Stretch(("decision",), since - _LOOK_BACK_NS, since - 1, domains)
        async with aclosing(self.stored(earlier)) as lines:
            async for line in lines:
                last[domain_of(line)] = line
        return sorted(last.values(), key=_rank)

    async def sample_time(self, seq: int) -> int | None:
        """When the first sample with at least this stream sequence was stored, UTC ns; None without one."""
        messages = self.bus.read("sample", start=seq - 1)
        async with aclosing(messages):
            raw = await self._next(messages)
        return None if raw is None else raw.published

    async def _kind(self, kind: str, what: Stretch) -> AsyncGenerator[Line, None]:
        start: Start = "all" if what.since is None else datetime_of(what.since)
        messages = self.bus.read(kind, subject=self._pattern(kind, what.domains), start=start)
        async with aclosing(messages):
            while True:
                raw = await self._next(messages)
                if raw is None:
                    return
                line = _line(kind, raw)
                if line.time >= (what.since or 0) and _wanted(line, what.domains):
                    yield line

    async def _next(self, messages: AsyncGenerator[RawMessage, None]) -> RawMessage | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await anext(messages, None)
        except TimeoutError:
            raise BusError(self.trouble or f"the bus said nothing for {_PATIENCE_S:g} s") from None
        except Denied as error:
            raise BusError(str(error)) from None

    def _pattern(self, kind: str, domains: Sequence[str]) -> str | None:
        if kind == "dead" or len(domains) != 1:
            return None
        every = self.bus.subjects.every(kind).removesuffix(">") + token(domains[0])
        return f"{every}.>" if kind == "action" else every

    async def followed(self, what: Stretch, after: dict[str, int]) -> AsyncGenerator[Line, None]:
        """What arrives, for ever: after a stream sequence by kind, or from where the stretch begins, or from now on."""
        arrived: asyncio.Queue[tuple[float, Line]] = asyncio.Queue()
        begin: Start = "new" if what.since is None else datetime_of(what.since)
        tasks = [asyncio.create_task(self._pump(kind, what, after.get(kind, begin), arrived)) for kind in what.kinds]
        try:
            async with aclosing(_in_order(arrived)) as lines:
                async for line in lines:
                    yield line
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, kind: str, what: Stretch, start: Start, into: "asyncio.Queue[tuple[float, Line]]") -> None:
        pattern = self._pattern(kind, what.domains)
        async with aclosing(self.bus.read(kind, subject=pattern, start=start, follow=True)) as messages:
            async for raw in messages:
                line = _line(kind, raw)
                if _wanted(line, what.domains):
                    into.put_nowait((time.monotonic(), line))


@asynccontextmanager
async def opened(settings: BusConfig, name: str) -> AsyncIterator[Tap]:
    """Join the bus as a reader.

    Raises:
        BusError: it cannot be reached within ten seconds.
    """
    state: list[str | None] = [None]

    def told(reason: str | None) -> None:
        state[0] = reason

    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                bus = await stack.enter_async_context(Bus.connect(settings, name, told))
        except TimeoutError:
            raise BusError(f"{', '.join(settings.servers)}: {state[0] or 'no answer'}") from None
        yield Tap(bus, state)


def domain_of(line: Line) -> str:
    """The subject's token for the domain; the service's for a dead letter."""
    parts = line.subject.split(".", 4)
    return parts[3] if len(parts) > 3 else ""


def _line(kind: str, raw: RawMessage) -> Line:
    return line_of(kind, raw.subject, raw.seq, raw.published, dict(raw.headers), raw.body)


def _wanted(line: Line, domains: Sequence[str]) -> bool:
    return not domains or line.kind == "dead" or domain_of(line) in {token(domain) for domain in domains}


def _rank(line: Line) -> tuple[int, int, int]:
    return line.time, KINDS.index(line.kind), line.seq


async def _merged(sources: list[AsyncGenerator[Line, None]]) -> AsyncGenerator[Line, None]:
    try:
        heap: list[tuple[tuple[int, int, int], int, Line]] = []
        for index, source in enumerate(sources):
            if (line := await anext(source, None)) is not None:
                heapq.heappush(heap, (_rank(line), index, line))
        while heap:
            _, index, line = heap[0]
            yield line
            if (following := await anext(sources[index], None)) is not None:
                heapq.heapreplace(heap, (_rank(following), index, following))
            else:
                heapq.heappop(heap)
    finally:
        for source in sources:
            await source.aclose()


async def _in_order(arrived: "asyncio.Queue[tuple[float, Line]]") -> AsyncGenerator[Line, None]:
    held: list[tuple[tuple[int, int, int], float, Line]] = []
    while True:
        wait = None if not held else held[0][1] + _HOLD_S - time.monotonic()
        if wait is not None and wait <= 0:
            yield heapq.heappop(held)[2]
            continue
        try:
            async with asyncio.timeout(wait):
                at, line = await arrived.get()
        except TimeoutError:
            continue
        heapq.heappush(held, (_rank(line), at, line))
