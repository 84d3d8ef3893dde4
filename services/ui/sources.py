"""Where the page's messages come from: the bus, or recordings.  Both give a range of messages in order."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import msgspec

from schemas.domain import Domain
from schemas.messages import InvalidMessage, Message
from services.tools.common.bus_reader import BusReader, MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.recording import InvalidRecording, RecordedMessage, RecordingReader
from services.ui.views import SourceView

_PERIOD_NS = 5 * 10**8
_MOST_RECORDINGS = 8
_SHOWN_PROBLEMS = 20
LARGEST = 256 * 1024 * 1024
"""Bytes of a recording that may be sent."""


class NotThere(LookupError):
    """There is no such recording, domain or message; the text names it."""


class Unreachable(Exception):
    """The bus cannot be read now; the text says why."""


class UploadTooLarge(ValueError):
    """What was sent has too many bytes."""


class PageSource(Protocol):
    """A bus or a recording."""

    @property
    def domains(self) -> Sequence[Domain]:
        """The configuration, as far as it is known."""

    @property
    def period(self) -> int:
        """Time between samples, ns."""

    def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read what is stored in a range."""

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
    """A recording."""

    def __init__(self, name: str, title: str, path: Path) -> None:
        """Read the header.

        Raises:
            InvalidRecording: the file is none.
        """
        self.id = name
        self.title = title
        self.path = path
        header = RecordingReader(path).header
        self.domains: Sequence[Domain] = header.domains
        self.period = int(header.period)
        self.begin = self.end = 0
        """Times of the first and the last message, UTC ns."""
        self._messages = 0
        self._problems: list[str] = []

    async def index(self) -> None:
        """Read all of it once: for its ends, and for what cannot be read."""
        reader = RecordingReader(self.path)
        async for message in _read_in_turns(reader):
            self._messages += 1
            self.begin = min(self.begin or message.time, message.time)
            self.end = max(self.end, message.time)
        self._problems = [str(one) for one in reader.problems[:_SHOWN_PROBLEMS]]

    async def read(self, scope: MessageRange) -> AsyncGenerator[RecordedMessage, None]:
        """Read the messages of a range, in the file's order."""
        async for message in _read_in_turns(RecordingReader(self.path)):
            if scope.until is not None and message.time > scope.until:
                # The order is that of the times, but for what was appended to the file.
                continue
            if message.kind in scope.kinds and scope.selects(message):
                yield message

    async def describe(self) -> SourceView:
        """Describe the file."""
        begin, end = self.begin // 10**6, self.end // 10**6
        return SourceView(self.id, self.title, begin, end, self._messages, self._problems)


async def _read_in_turns(reader: RecordingReader) -> AsyncIterator[RecordedMessage]:
    """Read a file, and let other work run after each 128 KiB."""
    for batch in reader.read_batches(msgspec.json.Decoder(RecordedMessage)):
        for message in batch:
            yield message
        await asyncio.sleep(0)


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
            await source.index()
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
