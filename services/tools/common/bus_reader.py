"""Reads a range of the bus as recorded messages, in the order of their times.

Each kind has a stream of its own.  Stored messages are merged by the server's times, and arriving ones
are delayed briefly, so that a sample comes before its decision and a decision before its action.
"""

import asyncio
import heapq
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from schemas.config import BusConfig
from schemas.messages import KINDS as KIND_TYPES
from services.bus.bus import Bus, Denied
from services.bus.consumer import Start
from services.bus.envelope import SAMPLE_SEQ, RawMessage
from services.bus.subjects import KINDS, token
from services.tools.common.recording import RecordedMessage, build_message
from services.tools.common.time_options import to_datetime

_TIMEOUT_S = 10.0
_LOOK_BACK_NS = 60 * 10**9
_UNDECIDED_NS = 5 * 10**9
"""A sample that waits for its decision longer than this has none."""
_BATCH = 256
"""Messages of a kind that wait at once: of decisions half a MiB."""
_AT_ONCE = 32
"""Single messages that are asked for at once."""
_HOLD_S = 0.3
"""Longer than messages of two kinds can overtake each other on their way here."""


class BusError(Exception):
    """The bus cannot be reached, or does not let itself be read."""


@dataclass(frozen=True)
class MessageRange:
    """What to read.  Times are UTC ns of the server's clock; None leaves a side open."""

    kinds: Sequence[str] = KINDS
    since: int | None = None
    until: int | None = None
    domains: Sequence[str] = ()
    """Only these; all without any."""
    with_past_definitions: bool = False
    """Whether the definitions from before belong to it, too: decisions of the range may name them."""

    def begins_at(self, kind: str) -> int | None:
        """When the range begins for a kind of message."""
        return None if kind == "definition" and self.with_past_definitions else self.since

    def selects(self, message: RecordedMessage) -> bool:
        """Return whether a message is not too early, and about one of the domains; a dead letter belongs to none."""
        if message.time < (self.begins_at(message.kind) or 0):
            return False
        if not self.domains or message.kind == "dead":
            return True
        return domain_token(message) in {token(domain) for domain in self.domains}


class BusReader:
    """A connection to the bus that only reads."""

    def __init__(self, bus: Bus, failures: list[str | None]) -> None:
        """See ``connect_reader``."""
        self.bus = bus
        self._failures = failures

    @property
    def failure(self) -> str | None:
        """Why nothing can be read now; None when all is well."""
        return self._failures[0]

    async def read_stored(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read what is stored up to now, merged by time.  What is stored meanwhile may be missing, but never a cause.

        Raises:
            BusError: the bus does not answer.
        """
        # The first read of a stream fixes its end.  Effects come first, so that no cause of one is after the end.
        kinds = sorted(scope.kinds, key=KINDS.index, reverse=True)
        sources = [self._read_kind(kind, scope) for kind in kinds]
        try:
            heap: list[tuple[tuple[int, int, int], int, RecordedMessage]] = []
            for index, source in enumerate(sources):
                if (message := await anext(source, None)) is not None:
                    heapq.heappush(heap, (_sort_key(message), index, message))
            while heap:
                _, index, message = heap[0]
                if scope.until is not None and message.time > scope.until:
                    return
                yield message
                if (following := await anext(sources[index], None)) is not None:
                    heapq.heapreplace(heap, (_sort_key(following), index, following))
                else:
                    heapq.heappop(heap)
        finally:
            for source in sources:
                await source.aclose()

    async def read_states_before(self, since: int, domains: Sequence[str]) -> list[RecordedMessage]:
        """Read the state that each domain's range begins in.

        It is the domain's last decision before ``since`` (UTC ns), and then the samples that were not yet decided
        on: their decisions lie in the range.  Before them come the definitions that decisions of the range may name:
        those of the last minute, and the one before.

        Raises:
            BusError: the bus does not answer.
        """
        last: dict[str, RecordedMessage] = {}
        async with aclosing(
            self.read_stored(MessageRange(("decision",), since - _LOOK_BACK_NS, since - 1, domains))
        ) as decisions:
            async for decision in decisions:
                last[domain_token(decision)] = decision
        undecided: defaultdict[str, list[RecordedMessage]] = defaultdict(list)
        async with aclosing(
            self.read_stored(MessageRange(("sample",), since - _UNDECIDED_NS, since - 1, domains))
        ) as samples:
            async for sample in samples:
                domain = domain_token(sample)
                undecided[domain].append(sample)
                if domain in last and last[domain].headers.get(SAMPLE_SEQ) == str(sample.seq):
                    undecided[domain].clear()
        needed: defaultdict[str, list[RecordedMessage]] = defaultdict(list)
        async with aclosing(self.read_stored(MessageRange(("definition",), None, since - 1, domains))) as definitions:
            async for one in definitions:
                of_domain = needed[domain_token(one)]
                if one.time < since - _LOOK_BACK_NS:
                    of_domain.clear()
                of_domain.append(one)
        groups = (chain.from_iterable(needed.values()), last.values(), chain.from_iterable(undecided.values()))
        return [message for group in groups for message in sorted(group, key=_sort_key)]

    async def find_sample_time(self, seq: int) -> int | None:
        """Find when the first sample with at least this stream sequence was stored, UTC ns; None without one."""
        messages = self.bus.read("sample", start=seq - 1)
        async with aclosing(messages):
            raw = await self._read_next(messages)
        return None if raw is None else raw.published

    async def read_spread(self, kind: str, scope: MessageRange, count: int) -> list[RecordedMessage]:
        """Read messages of one domain that are spread evenly over what is stored of a range: a first impression.

        Args:
            kind: of message.
            scope: the range, with both ends, and the domain.
            count: how many there are at most.

        Raises:
            BusError: the bus does not answer.
        """
        assert scope.since is not None
        assert scope.until is not None
        pattern = self._build_pattern(kind, scope.domains) or self.bus.subjects.every(kind)
        ends = []
        for at in (scope.since, scope.until):
            messages = self.bus.read(kind, subject=pattern, start=to_datetime(at), batch=1)
            async with aclosing(messages):
                raw = await self._read_next(messages)
            ends.append(raw.seq if raw is not None else await self._find_end(kind))
        first, last = ends
        places = sorted({first + (last - first) * i // count for i in range(count)})
        found: dict[int, RecordedMessage] = {}
        for group in range(0, len(places), _AT_ONCE):
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    asked = [self.bus.find_next(kind, pattern, seq) for seq in places[group : group + _AT_ONCE]]
                    raws = await asyncio.gather(*asked)
            except TimeoutError:
                raise BusError(self.failure or f"the bus did not answer within {_TIMEOUT_S:g} s") from None
            found |= {raw.seq: _from_raw(kind, raw) for raw in raws if raw is not None}
        return [one for _, one in sorted(found.items()) if scope.selects(one) and one.time <= scope.until]

    async def has_any(self, kind: str, since: datetime) -> bool:
        """Return whether the bus holds a message of a kind from a time on."""
        messages = self.bus.read(kind, start=since, batch=1)
        async with aclosing(messages):
            return await self._read_next(messages) is not None

    async def _find_end(self, kind: str) -> int:
        info = await self.bus.stream_info(KIND_TYPES[kind])  # type: ignore[type-var]
        return 0 if info is None else info.last

    async def _read_kind(self, kind: str, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        since = scope.begins_at(kind)
        start: Start = "all" if since is None else to_datetime(since)
        raws = self.bus.read(kind, subject=self._build_pattern(kind, scope.domains), start=start, batch=_BATCH)
        async with aclosing(raws):
            while (raw := await self._read_next(raws)) is not None:
                message = _from_raw(kind, raw)
                if scope.selects(message):
                    yield message

    async def _read_next(self, raws: AsyncGenerator[RawMessage, None]) -> RawMessage | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await anext(raws, None)
        except TimeoutError:
            raise BusError(self.failure or f"the bus did not answer within {_TIMEOUT_S:g} s") from None
        except Denied as error:
            raise BusError(str(error)) from None

    def _build_pattern(self, kind: str, domains: Sequence[str]) -> str | None:
        if kind == "dead" or len(domains) != 1:
            return None
        every = self.bus.subjects.every(kind).removesuffix(">") + token(domains[0])
        return f"{every}.>" if kind == "action" else every

    async def follow(self, scope: MessageRange, after: dict[str, int]) -> AsyncGenerator[RecordedMessage, None]:
        """Read what arrives, for ever.

        Each message is held back until an earlier one of another kind must have arrived.

        Args:
            scope: kinds and domains; kinds that are not in ``after`` begin with its time, or now without one.
            after: by kind, the stream sequence to go on from.
        """
        arrived: asyncio.Queue[tuple[float, RecordedMessage]] = asyncio.Queue()
        begin: Start = "new" if scope.since is None else to_datetime(scope.since)

        async def forward(kind: str) -> None:
            pattern, start = self._build_pattern(kind, scope.domains), after.get(kind, begin)
            async with aclosing(self.bus.read(kind, subject=pattern, start=start, follow=True)) as raws:
                async for raw in raws:
                    message = _from_raw(kind, raw)
                    if scope.selects(message):
                        arrived.put_nowait((time.monotonic(), message))

        tasks = [asyncio.create_task(forward(kind)) for kind in scope.kinds]
        held: list[tuple[tuple[int, int, int], float, RecordedMessage]] = []
        try:
            while True:
                wait = None if not held else held[0][1] + _HOLD_S - time.monotonic()
                if wait is not None and wait <= 0:
                    yield heapq.heappop(held)[2]
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        at, message = await arrived.get()
                    heapq.heappush(held, (_sort_key(message), at, message))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def connect_reader(settings: BusConfig, name: str) -> AsyncIterator[BusReader]:
    """Connect to the bus under a name for the server's log.

    Raises:
        BusError: it cannot be reached within ten seconds.
    """
    failures: list[str | None] = [None]
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                connection = Bus.connect(settings, name, lambda reason: failures.__setitem__(0, reason))
                bus = await stack.enter_async_context(connection)
        except TimeoutError:
            raise BusError(failures[0] or f"{', '.join(settings.servers)}: no answer") from None
        yield BusReader(bus, failures)


def domain_token(message: RecordedMessage) -> str:
    """Return the subject's token for the domain; the service's for a dead letter."""
    parts = message.subject.split(".", 4)
    return parts[3] if len(parts) > 3 else ""


def _from_raw(kind: str, raw: RawMessage) -> RecordedMessage:
    return build_message(kind, raw.subject, raw.seq, raw.published, dict(raw.headers), raw.body)


def _sort_key(message: RecordedMessage) -> tuple[int, int, int]:
    return message.time, KINDS.index(message.kind), message.seq
