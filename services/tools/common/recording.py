"""The recording: a stretch of the bus in a file, for replay, audit and report.

A recording is JSON lines, compressed with Zstandard (``zstdcat FILE | jq`` reads it).  The first
line is the header: format version, configuration and policy versions.  Each further line is one
message with its subject, headers, sequence and time; the body stands in it byte for byte.

Lines are compressed in frames of at most 128 KiB, each with a checksum, so that reading and writing
take constant memory, and a damaged place costs one frame: the reader names it, and goes on after it.
Plain JSON lines are read as well.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from schemas.config import Config
from schemas.domain import Domain
from schemas.units import Duration, decode_unit, encode_unit
from services.bus.subjects import KINDS
from services.control import make_policy
from services.tools.common.zstd_frames import compress, texts

FORMAT = 1
_FRAME = 128 * 1024
_LONGEST_LINE = 8 * 1024 * 1024
_HEADER = b'"kind":"recording"'


class Header(Struct, frozen=True, tag="recording", tag_field="kind"):
    """The first line.  It carries no address and no credential."""

    v: int
    """Version of the format."""
    build: str
    """Version of Sluice that wrote it."""
    made: int
    """When the recording was begun, UTC ns."""
    origin: str
    """``bus`` or ``prometheus``."""
    prefix: str
    """First token of the subjects."""
    domains: tuple[Domain, ...]
    """The configuration of the recorded domains."""
    policies: dict[str, str]
    """By domain, the name and version of the policy that the configuration asks for."""
    period: Duration
    window: Duration
    kinds: tuple[str, ...]
    """Kinds of message that were recorded; a gap in another kind means nothing."""
    since: int = 0
    """Where the stretch begins, UTC ns.  Decisions from before it are there for their state."""
    only: tuple[str, ...] = ()
    """The domains that were asked for; without any, all of the bus was recorded."""

    def domain(self, name: str) -> Domain | None:
        """The configuration of one domain; None when it was not recorded."""
        return next((domain for domain in self.domains if domain.name == name), None)


class Line(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message as it was on the bus."""

    kind: Annotated[str, Meta(pattern=f"^({'|'.join(KINDS)})$")]
    """``sample``, ``decision``, ``action`` or ``dead``."""
    subject: str
    seq: int
    """Its sequence in the kind's stream; 0 where it never was in one."""
    time: int
    """When the server stored it, UTC ns."""
    headers: dict[str, str] = {}
    body: Raw = Raw()
    """The payload, byte for byte."""
    raw: bytes = b""
    """The payload where it is not JSON on one line; in base64."""

    @property
    def payload(self) -> bytes:
        """The message's bytes."""
        return self.raw or bytes(self.body)


class Problem(Struct, frozen=True):
    """A place in a recording that could not be read."""

    line: int
    """Counted from 1 in the lines that could be read."""
    what: str

    def __str__(self) -> str:
        """For people."""
        return f"line {self.line}: {self.what}"


class NoRecording(ValueError):
    """The file is no recording, or of a version that this build does not read."""


def header_of(config: Config, origin: str, build: str, since: int, only: tuple[str, ...] = ()) -> Header:
    """The header of a recording that is made under a configuration.

    Args:
        config: its domains and signal go in, and nothing else.
        origin: ``bus`` or ``prometheus``.
        build: version of Sluice.
        since: where the stretch begins, UTC ns.
        only: record these domains; all without any.
    """
    chosen = tuple(domain for domain in config.domains if not only or domain.name in only)
    return Header(
        v=FORMAT,
        build=build,
        made=time.time_ns(),
        origin=origin,
        prefix=config.bus.prefix,
        domains=chosen,
        policies={domain.name: make_policy(domain).version for domain in chosen},
        period=config.signal.period,
        window=config.signal.window,
        kinds=KINDS if origin == "bus" else ("sample",),
        since=since,
        only=only,
    )


def line_of(kind: str, subject: str, seq: int, time: int, headers: dict[str, str], payload: bytes) -> Line:
    """One message as a line; ``time`` is UTC ns."""
    if _is_one_line_of_json(payload):
        return Line(kind, subject, seq, time, headers, Raw(payload))
    return Line(kind, subject, seq, time, headers, raw=payload)


def _is_one_line_of_json(payload: bytes) -> bool:
    if b"\n" in payload or b"\r" in payload:
        return False
    try:
        payload.decode()
        msgspec.json.decode(payload, type=Raw)
    except (UnicodeDecodeError, msgspec.DecodeError):
        return False
    return True


class Writer:
    """Writes a recording; what was flushed survives the death of the process."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        """Write the header to ``file``."""
        self._file = file
        self._encoder = msgspec.json.Encoder(enc_hook=encode_unit)
        self._lines: list[bytes] = []
        self._size = 0
        self.written = 0
        """Messages so far."""
        self._add(self._encoder.encode(header))
        self.flush()

    def write(self, line: Line) -> None:
        """Append one message."""
        self._add(self._encoder.encode(line))
        self.written += 1

    def flush(self) -> None:
        """Hand all lines so far to the operating system."""
        if self._lines:
            self._file.write(compress(b"".join(self._lines)))
            self._lines.clear()
            self._size = 0
        self._file.flush()

    def _add(self, line: bytes) -> None:
        self._lines += (line, b"\n")
        self._size += len(line) + 1
        if self._size >= _FRAME:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


T = TypeVar("T")


class Reader:
    """Reads a recording from its beginning; each reading is independent of the others."""

    def __init__(self, path: Path, instead: Header | None = None) -> None:
        """Read the header.

        Args:
            path: the file.
            instead: to go on with where the header is damaged.

        Raises:
            NoRecording: it is no recording, or of a version that this build does not read.
            OSError: the file cannot be opened.
        """
        self.path = path
        self.problems: list[Problem] = []
        """What the last reading could not read; complete when it has ended."""
        self.offset = 0
        """Bytes of the file taken in by the last reading, to show progress."""
        damage: list[Problem] = []
        with path.open("rb") as file:
            first = next(_Lines(file, damage).blocks(), (1, b""))[1].split(b"\n", 1)[0]
        try:
            self.header = read_header(first)
        except ValueError as error:
            if instead is None or _HEADER in first:
                why = (
                    f": {damage[0].what}; tap, audit, report and explain read the rest with --config" if damage else ""
                )
                raise NoRecording(f"{path}: line 1: {error}{why}") from None
            self.header = instead

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def lines(self) -> Iterator[Line]:
        """Every message in order."""
        for batch in self.read(msgspec.json.Decoder(Line)):
            yield from batch

    def read(self, decoder: "msgspec.json.Decoder[T]") -> Iterator[list[T]]:
        """Every message in order, decoded into a type of the caller's choice, in batches of about 128 KiB.

        A line that does not decode becomes a problem, and nothing else is lost.
        """
        self.problems = []
        self._numbers: Sequence[int] = ()
        self._foreign = False
        with self.path.open("rb") as file:
            for number, block in _below_header(_Lines(file, self.problems)):
                self.offset = file.tell()
                if self._foreign:
                    return
                try:
                    batch = decoder.decode_lines(block)
                    self._numbers = range(number, number + len(batch))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    read = list(self._one_by_one(number, block.splitlines(), decoder))
                    batch, self._numbers = [one for _, one in read], [number for number, _ in read]
                yield batch

    def refuse(self, batch: Sequence[object], line: object, error: Exception) -> None:
        """Add a line of the last batch to the problems: it can be read, but its message is not what its kind says."""
        at = next(index for index, one in enumerate(batch) if one is line)
        self.problems.append(Problem(self._numbers[at], f"not a message of its kind: {error}"))

    def _one_by_one(
        self, first: int, lines: Iterable[bytes], decoder: "msgspec.json.Decoder[T]"
    ) -> Iterator[tuple[int, T]]:
        for number, line in enumerate(lines, first):
            if self._foreign or not line:
                continue
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._complain(number, line, error)

    def _complain(self, number: int, line: bytes, error: Exception) -> None:
        if _HEADER not in line:
            raw = b'"raw":"' in line
            self.problems.append(Problem(number, "a message that is not JSON" if raw else f"not a message: {error}"))
            return
        try:
            other = read_header(line)
        except ValueError as reason:
            self._foreign = True
            self.problems.append(Problem(number, f"another recording begins: {reason}; left out from here on"))
            return
        if (other.domains, other.prefix) != (self.header.domains, self.header.prefix):
            self._foreign = True
            self.problems.append(
                Problem(number, "another recording begins, of another configuration; left out from here on")
            )


def read_header(line: bytes) -> Header:
    """Read a recording's first line.

    Raises:
        ValueError: no header, or of another version.
    """
    try:
        head: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not the header of a recording: {error}") from None
    if head.get("kind") != "recording":
        raise ValueError("not the header of a recording")
    if head.get("v") != FORMAT:
        raise ValueError(f"a recording of version {head.get('v')}; this build reads version {FORMAT}")
    try:
        return msgspec.json.decode(line, type=Header, dec_hook=decode_unit)
    except msgspec.DecodeError as error:
        raise ValueError(f"the header cannot be read: {error}") from None


class _Lines:
    """Whole lines of a file, compressed or plain, with the number of the first of each block."""

    def __init__(self, file: BinaryIO, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._number = 1

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        left = b""
        for text in texts(self._file, self._complain):
            if text is None:
                left = b""
                continue
            end = text.rfind(b"\n") + 1
            if not end:
                left += text
                if len(left) > _LONGEST_LINE:
                    self._complain(f"a line of more than {_LONGEST_LINE} bytes")
                    left = b""
                continue
            block = left + text[:end] if left else text[:end]
            left = text[end:]
            yield self._number, block
            self._number += block.count(b"\n")
        if left and _is_one_line_of_json(left):
            yield self._number, left
        elif left:
            self._complain(f"cut: the file ends within a line ({len(left)} bytes)")

    def _complain(self, what: str) -> None:
        self._problems.append(Problem(self._number, what))


def _below_header(lines: _Lines) -> Iterator[tuple[int, bytes]]:
    blocks = lines.blocks()
    for number, block in blocks:
        first, _, rest = block.partition(b"\n")
        # Where the header is damaged, what follows is no header.
        yield (number + 1, rest) if _HEADER in first else (number, block)
        break
    yield from blocks
