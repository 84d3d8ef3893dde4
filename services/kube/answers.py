"""What the API server answers: objects, errors, and what is neither."""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec
from msgspec import Struct

from services.kube.objects import NotFound, Rejected, StaleObject, Unavailable

if TYPE_CHECKING:
    # The meter decodes answers, too, and cannot afford the library.
    import aiohttp

S = TypeVar("S")
_SECONDS = re.compile(r"\d{1,6}")
_MOST_BYTES = 4 * 1024 * 1024
"""No object of the API is larger; etcd takes 1.5 MiB."""


class Status(Struct, frozen=True):
    """An error, as the API writes it."""

    message: str = ""
    reason: str = ""
    code: int = 0


async def read_lines(content: "aiohttp.StreamReader") -> AsyncIterator[bytes]:
    """Read lines of any length that an object may have; the library stops at 128 KiB.

    Raises:
        Unavailable: a line has no end.
    """
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        *lines, last = rest.split(b"\n") if b"\n" in chunk else [rest]
        rest = bytearray(last)
        for line in lines:
            if line:
                yield bytes(line)
        if len(rest) > _MOST_BYTES:
            raise Unavailable("a watch event is larger than any object", status=200)
    if rest:
        yield bytes(rest)


def decode_as(kind: type[S], body: bytes | msgspec.Raw, text: str = "not what was asked for") -> S:
    """Decode an answer.

    Raises:
        Unavailable: it is something else: a page of a proxy, say.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"the server's answer is {text}: {error}", status=200) from None


def raise_for_status(code: int, body: bytes, retry_after: str | None) -> NoReturn:
    """Raise the error for an HTTP status.

    Raises:
        NotFound, StaleObject, Rejected or Unavailable.
    """
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status = Status(message=body[:200].decode("utf-8", "replace"))
    text = f"{code} {status.reason}: {status.message}"[:500]
    if code in (404, 410):
        raise NotFound(text)
    if code in (409, 422):
        raise StaleObject(text)
    if code in (400, 401, 403, 405, 415):
        raise Rejected(text)
    seconds = float(retry_after) if retry_after is not None and _SECONDS.fullmatch(retry_after) else None
    raise Unavailable(text, status=code, retry_after_s=seconds)
