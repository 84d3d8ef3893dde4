"""Below the recording: text in Zstandard frames, read in constant memory and past damage.

Each frame carries a checksum.  A frame's text is passed on only when its checksum holds, so a flipped
bit costs one frame, and reading goes on at the next frame that is whole.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

_CHUNK = 64 * 1024
_PIECE = 512
"""Compressed bytes unpacked at once.  Four bytes can hold a block of 128 KiB, so these give at most 16 MiB."""
_LARGEST_FRAME = 8 * 1024 * 1024
_LARGEST_WINDOW = 8 * 1024 * 1024
"""A frame may ask for up to 2 GiB of memory; the format's own recommendation is to grant this much."""
_LARGEST_RATIO = 200
"""Recordings unpack to 10 to 50 times their size; a file made to exhaust a reader, to 30,000 times."""
_FREE = 64 * 1024 * 1024
"""Bytes of text below which the ratio does not count."""
_MAGIC = b"\x28\xb5\x2f\xfd"


def compress(text: bytes) -> bytes:
    """Compress into one frame with a checksum."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(text)


def read_texts(file: BinaryIO, report: Callable[[str], None]) -> Iterator[bytes | None]:
    """Read the text of a file, compressed or plain, in pieces of at most 24 MiB.

    Yields:
        A piece of text, or None where some of it is lost; ``report`` takes what and why.
    """
    start = file.read(_CHUNK)
    if start.startswith(_MAGIC):
        yield from _FrameReader(file, start, report).read_texts()
        return
    while start:
        yield start
        start = file.read(_CHUNK)


class _FrameReader:
    def __init__(self, file: BinaryIO, start: bytes, report: Callable[[str], None]) -> None:
        self._file = file
        self._data = start
        """Compressed bytes, from the beginning of the frame that is being read."""
        self._report = report
        self._read = len(start)
        self._unpacked = 0
        self._zstandard = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)

    def read_texts(self) -> Iterator[bytes | None]:
        while self._data or self._fill():
            try:
                for text in self._read_frame():
                    self._unpacked += len(text)
                    if self._unpacked > _FREE + _LARGEST_RATIO * self._read:
                        self._report(f"it unpacks to over {_LARGEST_RATIO} times its size: left out from here on")
                        return
                    yield text
            except zstandard.ZstdError as error:
                yield None
                # Go to where the next frame seems to begin.
                lost = 1
                self._data = self._data[1:]
                while (found := self._data.find(_MAGIC)) < 0:
                    # The magic number may lie across two chunks.
                    lost += max(len(self._data) - len(_MAGIC) + 1, 0)
                    self._data = self._data[-len(_MAGIC) + 1 :]
                    if not self._fill():
                        found = len(self._data)
                        break
                self._data = self._data[found:]
                self._report(f"a damaged frame: {lost + found} compressed bytes are lost ({error})")

    def _fill(self) -> bytes:
        chunk = self._file.read(_CHUNK)
        self._read += len(chunk)
        self._data += chunk
        return chunk

    def _read_frame(self) -> Iterator[bytes]:
        decoder = self._zstandard.decompressobj()
        pieces: list[bytes] = []
        size = position = 0
        while not decoder.eof:
            if position == len(self._data) and not self._fill():
                raise zstandard.ZstdError("the file ends within it")
            pieces.append(decoder.decompress(self._data[position : position + _PIECE]))
            position = min(position + _PIECE, len(self._data))
            size += len(pieces[-1])
            if max(size, position) > _LARGEST_FRAME:
                # Another program's frame, too large to be held back until its checksum is known.
                yield b"".join(pieces)
                self._data = self._data[position:]
                pieces, size, position = [], 0, 0
        self._data = decoder.unused_data + self._data[position:]
        yield b"".join(pieces)
