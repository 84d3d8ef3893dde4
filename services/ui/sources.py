"""Where the page's messages come from: the bus, or recordings.  Both give a range of messages in order."""

import asyncio
import heapq
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol

import msgspec

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import InvalidMessage, Message
from services.tools.common.bus_reader import BusReader, MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.recording import InvalidRecording, RecordedMessage, RecordingReader
from services.ui.views import SourceView

_PERIOD_NS = 5 * 10**8
_MOST_RECORDINGS = 8
_SHOWN_PROBLEMS = 20
_MOST_DEFINITIONS = 10_000
_SPREAD = 400
"""Messages of a kind that show a long time roughly: more than two points a curve and centimetre."""
_SUMMARY_NS = 120 * 10**9
_LIVE_SUMMARY_NS = 15 * 10**9
LARGEST = 256 * 1024 * 1024
"""Bytes of a recording that may be sent."""
_LARGEST_TEXT = 1024 * 1024 * 1024
"""Bytes of all messages in it."""


class NotThere(LookupError):
    """There is no such recording, domain or message; the text names it."""


class Unreachable(Exception):
    """The bus cannot be read now; the text says why."""


class UploadTooLarge(ValueError):
    """What was sent has too many bytes."""


class PageSource(Protocol):
    """A bus or a recording."""

    def list_domains(self, at: int | None = None) -> Sequence[Domain]:
        """List the configurations that are known, at a time (UTC ns) or at the end."""

    @property
    def period(self) -> int:
        """Time between samples, ns."""

    def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read what is stored in a range."""

    def read_summary(self, at: int) -> AsyncGenerator[RecordedMessage, None]:
        """Read what tells how all domains fare at ``at``, UTC ns."""

    async def describe(self) -> SourceView:
        """Describe it, with the times of its first and last message."""


async def read_messages(
    source: PageSource, scope: MessageRange
) -> AsyncGenerator[tuple[Message, RecordedMessage], None]:
    """Read the messages of a range, decoded and as they were stored; those that cannot be read are left out."""
    async with aclosing(source.read(scope)) as lines:
        async for line in lines:
            try:
                message = decode_message(line)
            except InvalidMessage:
                continue
            yield message, line


class LiveSource:
    """The bus, once it is connected."""

    period = _PERIOD_NS

    def __init__(self, domains: Sequence[Domain], title: str) -> None:
        """Begin without a connection."""
        self.domains = domains
        self.title = title
        self.reader: BusReader | None = None
        self.failure: str | None = "not connected yet"
        self._oldest: tuple[float, float | None] = (0.0, None)

    async def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read what is stored in a range.

        Raises:
            Unreachable: there is no connection.
            BusError: the bus does not answer.
        """
        if self.reader is None:
            raise Unreachable(self.failure or "not connected yet")
        async with aclosing(self.reader.read_stored(scope)) as messages:
            async for message in messages:
                yield message

    async def read_spread(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read samples and decisions that are spread evenly over a range of one domain, with both ends.

        Raises:
            Unreachable: there is no connection.
            BusError: the bus does not answer.
        """
        if self.reader is None:
            raise Unreachable(self.failure or "not connected yet")
        found = [await self.reader.read_spread(kind, scope, _SPREAD) for kind in ("sample", "decision")]
        for message in heapq.merge(*found, key=lambda one: one.time):
            yield message

    def read_summary(self, at: int) -> AsyncGenerator[RecordedMessage, None]:
        """Read the last seconds before ``at``, UTC ns: with many domains more would take long."""
        return self.read(MessageRange(since=at - _LIVE_SUMMARY_NS, until=at))

    def list_domains(self, _at: int | None = None) -> Sequence[Domain]:
        """List the domains as they are configured now."""
        return self.domains

    async def describe(self) -> SourceView:
        """Describe the bus; its oldest sample is looked up twice a minute."""
        asked, oldest = self._oldest
        now = asyncio.get_running_loop().time()
        if self.reader is not None and self.failure is None and (now - asked > 30 or oldest is None):
            found = await self.reader.find_sample_time(1)
            oldest = None if found is None else found // 10**6
            self._oldest = now, oldest
        return SourceView("live", self.title, oldest)


class RecordingSource:
    """A recording.

    Its text is unpacked for each reading.  An index of the times in each batch of lines saves decoding those that
    lie outside of a range, which is most of the work.
    """

    def __init__(self, name: str, title: str, path: Path) -> None:
        """Read the header.

        Raises:
            InvalidRecording: the file is none.
        """
        self.id = name
        self.title = title
        self.path = path
        header = RecordingReader(path).header
        self._configured = {domain.name: domain for domain in header.domains}
        self._definitions: deque[tuple[int, Definition]] = deque(maxlen=_MOST_DEFINITIONS)
        self.period = int(header.period)
        self.begin = self.end = 0
        """Times of the first and the last message, UTC ns; 0 without one."""
        self._messages = 0
        self._times: list[tuple[int, int]] = []
        """Of each batch, the earliest and the latest time, UTC ns; the first is the later one where it has none."""
        self._holding: dict[str, set[int]] = {"action": set(), "definition": set()}
        """The batches that hold a message of a kind: they are few, and are wanted from long before."""
        self._problems: list[str] = []

    async def index(self, largest: int | None = None) -> None:
        """Read all of it once: for its ends, its definitions, and for what cannot be read.

        Raises:
            UploadTooLarge: its messages have more than ``largest`` bytes.
        """
        reader = RecordingReader(self.path)
        size = 0
        for number, batch in enumerate(reader.read_batches(msgspec.json.Decoder(RecordedMessage))):
            times = [message.time for message in batch]
            self._times.append((min(times), max(times)) if times else (1, 0))
            self._messages += len(batch)
            for message in batch:
                size += len(message.body) + len(message.raw)
                if message.kind in self._holding:
                    self._holding[message.kind].add(number)
                if message.kind == "definition":
                    self._add_definition(message)
            if largest is not None and size > largest:
                raise UploadTooLarge(
                    f"{self.title} holds more than {largest // 1024**2} MiB of messages: record a shorter time, or"
                    " fewer domains, or open it on the server: sluice ui FILE"
                )
            await asyncio.sleep(0)
        known = [one for one in self._times if one[0] <= one[1]]
        if known:
            self.begin, self.end = min(begin for begin, _ in known), max(end for _, end in known)
        self._problems = [str(one) for one in reader.problems[:_SHOWN_PROBLEMS]]

    def _add_definition(self, message: RecordedMessage) -> None:
        with suppress(InvalidMessage):
            definition = decode_message(message)
            assert isinstance(definition, Definition)
            self._definitions.append((message.time, definition))

    def list_domains(self, at: int | None = None) -> Sequence[Domain]:
        """List the domains by the header and the definitions up to a time, UTC ns; to the end without one."""
        domains = dict(self._configured)
        for time, definition in self._definitions:
            if at is None or time <= at:
                domains[definition.domain] = definition.configuration
                if definition.removed:
                    del domains[definition.domain]
        return tuple(domains.values())

    async def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read the messages of a range, in the file's order: that of the times, but for what was appended to it."""
        wanted = self._find_batches(scope.since, scope.until)
        if scope.with_past_definitions:
            wanted |= self._find_batches(None, scope.until) & self._holding["definition"]
        async for message in self._read(wanted, scope):
            yield message

    async def read_summary(self, at: int) -> AsyncGenerator[RecordedMessage, None]:
        """Read the last two minutes before ``at``, UTC ns, and all actions: who paused a target an hour ago."""
        recent = self._find_batches(at - _SUMMARY_NS, at)
        actions = self._find_batches(None, at) & self._holding["action"]
        async for message in self._read(recent | actions, MessageRange(until=at)):
            if message.kind == "action" or message.time > at - _SUMMARY_NS:
                yield message

    def _find_batches(self, since: int | None, until: int | None) -> set[int]:
        """Find the batches with messages of a range."""
        begin, end = since or 0, self.end if until is None else until
        return {number for number, (first, last) in enumerate(self._times) if first <= end and last >= begin}

    async def _read(self, wanted: set[int], scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read some batches, and let other work run after each."""
        end = self.end if scope.until is None else scope.until
        for batch in RecordingReader(self.path).read_batches(msgspec.json.Decoder(RecordedMessage), wanted):
            for message in batch:
                if message.time <= end and message.kind in scope.kinds and scope.selects(message):
                    yield message
            await asyncio.sleep(0)

    async def describe(self) -> SourceView:
        """Describe the file."""
        begin, end = (self.begin // 10**6, -(-self.end // 10**6)) if self._messages else (None, None)
        return SourceView(self.id, self.title, begin, end, self._messages, self._problems)


def require_size(size: int, largest: int, title: str) -> None:
    """Refuse what has too many bytes.

    Raises:
        UploadTooLarge: it has more than ``largest``.
    """
    if size > largest:
        raise UploadTooLarge(f"{title}: at most {largest // 1024**2} MiB are read")


class Recordings:
    """The recordings that the page can show.  Those that were sent are in a folder that is removed at the end."""

    def __init__(self, *, uploads: bool) -> None:
        """Begin without one; ``uploads`` allows to send some."""
        self.uploads = uploads
        self.sources: dict[str, RecordingSource] = {}
        self._home: Path | None = None

    async def add_file(self, path: Path) -> None:
        """Show a file of this machine.

        Raises:
            InvalidRecording: it is no recording.
        """
        source = RecordingSource("file", path.name, path)
        await source.index()
        self.sources[source.id] = source

    async def receive(self, title: str, chunks: AsyncIterator[bytes], largest: int = LARGEST) -> RecordingSource:
        """Keep a recording that was sent, in place of the oldest if there are eight.

        Raises:
            UploadTooLarge: it has more than ``largest`` bytes.
            InvalidRecording: it is no recording.
        """
        if self._home is None:
            self._home = Path(tempfile.mkdtemp(prefix="sluice-ui-"))
        name = secrets.token_hex(6)
        path = self._home / name
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                    require_size(file.tell(), largest, title)
            try:
                source = RecordingSource(name, title, path)
            except InvalidRecording as error:
                raise InvalidRecording(str(error).replace(str(path), title)) from None
            await source.index(_LARGEST_TEXT)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        sent = [one for one in self.sources.values() if one.id != "file"]
        for oldest in sent[: max(len(sent) - _MOST_RECORDINGS + 1, 0)]:
            del self.sources[oldest.id]
            oldest.path.unlink(missing_ok=True)
        self.sources[name] = source
        return source

    def close(self) -> None:
        """Remove what was sent."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
