"""Below the recording: text in Zstandard frames, read in constant memory and past damage.

Each frame carries a checksum.  A frame's text is handed on only when the checksum holds, so a
flipped bit costs the frame it is in, and reading goes on at the next frame that is whole.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

_CHUNK = 64 * 1024
_LARGEST = 8 * 1024 * 1024
_MAGIC = b"\x28\xb5\x2f\xfd"

Complain = Callable[[str], None]


def compress(text: bytes) -> bytes:
    """One frame."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(text)


def texts(file: BinaryIO, complain: Complain) -> Iterator[bytes | None]:
    """The text of a file, compressed or plain, piece by piece; None stands where some of it is lost."""
    start = file.read(_CHUNK)
    if start.startswith(_MAGIC):
        yield from _Frames(file, start, complain).texts()
        return
    while start:
        yield start
        start = file.read(_CHUNK)


class _Frames:
    def __init__(self, file: BinaryIO, start: bytes, complain: Complain) -> None:
        self._file = file
        self._data = start
        """Compressed bytes from the beginning of the frame that is being read."""
        self._complain = complain
        self._zstandard = zstandard.ZstdDecompressor()

    def texts(self) -> Iterator[bytes | None]:
        while self._data or self._read():
            try:
                yield from self._frame()
            except zstandard.ZstdError as error:
                yield None
                self._skip(str(error))

    def _read(self) -> bytes:
        chunk = self._file.read(_CHUNK)
        self._data += chunk
        return chunk

    def _frame(self) -> Iterator[bytes]:
        decoder = self._zstandard.decompressobj()
        pieces = [decoder.decompress(self._data)]
        size = len(pieces[0])
        while not decoder.eof:
            chunk = self._read()
            if not chunk:
                raise zstandard.ZstdError("the file ends within it")
            pieces.append(decoder.decompress(chunk))
            size += len(pieces[-1])
            if max(size, len(self._data)) > _LARGEST:
                # Another program's frame, too large to be held back until its checksum is known.
                yield b"".join(pieces)
                pieces, size, self._data = [], 0, b""
        self._data = decoder.unused_data
        yield b"".join(pieces)

    def _skip(self, why: str) -> None:
        """Go to where the next frame seems to begin."""
        lost = 1
        self._data = self._data[1:]
        while (found := self._data.find(_MAGIC)) < 0:
            # The magic number may lie across two chunks.
            lost += max(len(self._data) - len(_MAGIC) + 1, 0)
            self._data = self._data[-len(_MAGIC) + 1 :]
            if not self._read():
                lost += len(self._data)
                self._data = b""
                break
        else:
            lost += found
            self._data = self._data[found:]
        self._complain(f"a damaged frame: {lost} compressed bytes are lost ({why})")
