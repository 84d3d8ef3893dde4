"""The recording: messages of the bus in a file, for replay, audit and report.

A recording is JSON lines, compressed with Zstandard (``zstdcat FILE | jq`` reads it).  The first line
is the header: format version, configuration and policy versions.  Each further line is one message with
its subject, headers, sequence and time; it contains the body byte for byte.

Lines are compressed in frames of at most 128 KiB, each with a checksum, so that reading and writing
take constant memory, and damage costs one frame: the reader names the place, and goes on after it.
Plain JSON lines are read as well.

A recording may come from a stranger.  Lines, integers, nesting and the ratio of compression are bounded,
and whatever exceeds a bound is named by its line.
"""

import time
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Self, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from schemas.config import Config
from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.domain import Domain, without_templates
from schemas.numbers import Integer
from schemas.units import Duration, decode_unit, encode_unit
from services.bus.subjects import KINDS, Subjects
from services.control import Controller, make_policy
from services.tools.common.zstd_frames import compress, read_texts

FORMAT = 1
_FRAME = 128 * 1024
_LONGEST_LINE = 8 * 1024 * 1024
_SLICE = 1024 * 1024
_MOST_PROBLEMS = 1000
_HEADER = b'"kind":"recording"'


class RecordingHeader(Struct, frozen=True, tag="recording", tag_field="kind"):
    """The first line.  It carries no address and no credential."""

    v: int
    """Version of the format."""
    build: str
    """Version of Sluice that wrote it."""
    made: Integer
    """When the recording began, UTC ns."""
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
    """Kinds of message that were recorded; a gap in another kind has no meaning."""
    since: Integer = 0
    """Where the range begins, UTC ns.  Earlier decisions are there for their state."""
    only: tuple[str, ...] = ()
    """The domains that were asked for; without any, the whole bus was recorded."""


class RecordedMessage(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message as it was on the bus."""

    kind: Annotated[str, Meta(pattern=f"^({'|'.join(KINDS)})$")]
    """``sample``, ``definition``, ``decision``, ``action`` or ``dead``."""
    subject: str
    seq: Integer
    """Its sequence in the kind's stream; 0 where it never was in one."""
    time: Integer
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


class ReadProblem(Struct, frozen=True):
    """A place in a recording that could not be read."""

    line: int
    """Counted from 1 in the lines that could be read."""
    what: str

    def __str__(self) -> str:
        """For people."""
        return f"line {self.line}: {self.what}"


class InvalidRecording(ValueError):
    """The file is no recording, or of a version that this build does not read."""


def build_header(config: Config, origin: str, build: str, since: int, only: tuple[str, ...] = ()) -> RecordingHeader:
    """Build the header of a recording that begins now.

    Args:
        config: only its domains, signal times and prefix are kept.
        origin: ``bus`` or ``prometheus``.
        build: version of Sluice.
        since: where the range begins, UTC ns.
        only: record these domains; all without any.
    """
    # Instances of a definition are in the definitions that the bus has.
    domains = without_templates(config.domains) if origin == "bus" else config.domains
    chosen = tuple(domain for domain in domains if not only or domain.name in only)
    return RecordingHeader(
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


def build_message(
    kind: str, subject: str, seq: int, time: int, headers: dict[str, str], payload: bytes
) -> RecordedMessage:
    """Build a recorded message from what the bus delivered; ``time`` is UTC ns."""
    if _is_single_line_json(payload):
        return RecordedMessage(kind, subject, seq, time, headers, Raw(payload))
    return RecordedMessage(kind, subject, seq, time, headers, raw=payload)


def _is_single_line_json(payload: bytes) -> bool:
    if b"\n" in payload or b"\r" in payload:
        return False
    try:
        payload.decode()
        msgspec.json.decode(payload, type=Raw)
    except DECODE_ERRORS:
        return False
    return True


class RecordingWriter:
    """Writes a recording; what was flushed survives the death of the process."""

    def __init__(self, file: BinaryIO, header: RecordingHeader) -> None:
        """Write the header to ``file``."""
        self._file = file
        self._encoder = msgspec.json.Encoder(enc_hook=encode_unit)
        self._lines: list[bytes] = []
        self._size = 0
        self._add(self._encoder.encode(header))
        self.flush()

    def write(self, message: RecordedMessage) -> None:
        """Append one message."""
        self._add(self._encoder.encode(message))

    def flush(self) -> None:
        """Flush all lines so far to the operating system."""
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


class RecordingReader:
    """Reads a recording from its beginning; each reading is independent of the others."""

    def __init__(self, path: Path, fallback: RecordingHeader | None = None) -> None:
        """Read the header.

        Args:
            path: the file.
            fallback: used where the file's own header is damaged.

        Raises:
            InvalidRecording: it cannot be opened, is no recording, or is of another version.
        """
        self.path = path
        self.problems: list[ReadProblem] = []
        """What the last reading could not read; complete when it has ended."""
        self.offset = 0
        """Bytes of the file taken in by the last reading, to show progress."""
        self._ended = False
        damage: list[ReadProblem] = []
        try:
            with path.open("rb") as file:
                first = next(_LineReader(file, damage).read_blocks(), (1, b""))[1].split(b"\n", 1)[0]
        except OSError as error:
            raise InvalidRecording(f"{path}: cannot be read: {error.strerror}") from None
        try:
            self.header = parse_header(first)
        except ValueError as error:
            if fallback is None or _HEADER in first:
                why = (
                    f": {damage[0].what}; tap, audit, report, calibrate and explain read the rest with --config"
                    if damage
                    else ""
                )
                raise InvalidRecording(f"{path}: line 1: {error}{why}") from None
            self.header = fallback

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def read_messages(self) -> Iterator[RecordedMessage]:
        """Read every message in order."""
        for batch in self.read_batches(msgspec.json.Decoder(RecordedMessage)):
            yield from batch

    def read_batches(
        self, decoder: "msgspec.json.Decoder[T]", wanted: Container[int] | None = None
    ) -> Iterator[list[T]]:
        """Read every message in order, as a type of the caller's choice, in batches of about 128 KiB.

        A line that cannot be decoded becomes a problem, and nothing else is lost.

        Args:
            decoder: of one line.
            wanted: the numbers of the batches to decode, from 0; the others are empty.  All without it.
        """
        self.problems = []
        self._numbers: Sequence[int] = ()
        self._ended = False
        with self.path.open("rb") as file:
            for at, (number, block) in enumerate(_LineReader(file, self.problems).read_blocks()):
                first, _, rest = block.partition(b"\n") if at == 0 else (b"", b"", b"")
                # Where the header is damaged, the first line that can be read is a message.
                if _HEADER in first:
                    number, block = number + 1, rest  # noqa: PLW2901
                self.offset = file.tell()
                if self._ended:
                    return
                if wanted is not None and at not in wanted:
                    yield []
                    continue
                try:
                    batch = decoder.decode_lines(block)
                    self._numbers = range(number, number + len(batch))
                except DECODE_ERRORS:
                    read = list(self._decode_one_by_one(number, block.splitlines(), decoder))
                    batch, self._numbers = [one for _, one in read], [number for number, _ in read]
                yield batch

    def add_problem(self, batch: Sequence[object], message: object, error: Exception | str) -> None:
        """Name a message of the last batch whose line can be read, but whose body is not what its kind promises."""
        at = next(index for index, one in enumerate(batch) if one is message)
        self._report(self._numbers[at], f"not a message of its kind: {describe_decode_error(error)}")

    def _decode_one_by_one(
        self, first: int, lines: Iterable[bytes], decoder: "msgspec.json.Decoder[T]"
    ) -> Iterator[tuple[int, T]]:
        for number, line in enumerate(lines, first):
            if self._ended or not line:
                continue
            try:
                yield number, decoder.decode(line)
            except DECODE_ERRORS as error:
                if b'"raw":"' in line and _HEADER not in line:
                    self._report(number, "a message that is not JSON")
                    continue
                if _HEADER not in line:
                    self._report(number, f"not a message: {describe_decode_error(error)}")
                    continue
                # Go on where another recording of the same configuration follows in the file.
                try:
                    other = parse_header(line)
                except ValueError as reason:
                    why = f": {reason}"
                else:
                    if (other.domains, other.prefix) == (self.header.domains, self.header.prefix):
                        continue
                    why = ", of another configuration"
                self._ended = True
                self._report(number, f"another recording begins{why}; left out from here on")

    def _report(self, number: int, what: str) -> None:
        if len(self.problems) == _MOST_PROBLEMS:
            self._ended = True
            what = f"over {_MOST_PROBLEMS:,} places cannot be read; left out from here on"
        if len(self.problems) <= _MOST_PROBLEMS:
            self.problems.append(ReadProblem(number, what))


class _Preamble(Struct):
    kind: str = ""
    v: Integer = 0


def parse_header(line: bytes) -> RecordingHeader:
    """Parse a recording's first line.

    Raises:
        ValueError: no header, of another version, or with a configuration that this build cannot use.
    """
    if not line:
        raise ValueError("not the header of a recording: the line is empty")
    try:
        preamble = msgspec.json.decode(line, type=_Preamble)
    except DECODE_ERRORS as error:
        raise ValueError(f"not the header of a recording: {describe_decode_error(error)}") from None
    if preamble.kind != "recording":
        raise ValueError("not the header of a recording")
    if preamble.v != FORMAT:
        raise ValueError(f"a recording of version {preamble.v}; this build reads version {FORMAT}")
    try:
        header = msgspec.json.decode(line, type=RecordingHeader, dec_hook=decode_unit)
        Subjects(header.prefix)
        for domain in header.domains:
            Controller(domain)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"the header cannot be read: {describe_decode_error(error)}") from None
    return header


class _LineReader:
    """Whole lines of a file, compressed or plain, with the number of the first of each block."""

    def __init__(self, file: BinaryIO, problems: list[ReadProblem]) -> None:
        self._file = file
        self._problems = problems
        self._number = 1

    def read_blocks(self) -> Iterator[tuple[int, bytes]]:
        left = b""
        too_long = False
        slices = (
            part if part is None else part[at : at + _SLICE]
            for part in read_texts(self._file, self._report)
            for at in range(0, len(part or b" "), _SLICE)
        )
        for text in slices:
            if text is None:
                left = b""
                continue
            end = text.rfind(b"\n") + 1
            if too_long:
                begin = text.find(b"\n") + 1
                if not begin:
                    continue
                too_long = False
                self._number += 1
                text, end = text[begin:], end - begin  # noqa: PLW2901
            if end:
                block = left + text[:end] if left else text[:end]
                left = text[end:]
                yield self._number, block
                self._number += block.count(b"\n")
                continue
            left += text
            if len(left) > _LONGEST_LINE:
                self._report(f"a line of more than {_LONGEST_LINE} bytes")
                left, too_long = b"", True
        if left and _is_single_line_json(left):
            yield self._number, left
        elif left:
            self._report(f"cut: the file ends within a line ({len(left)} bytes)")

    def _report(self, what: str) -> None:
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(ReadProblem(self._number, what))
