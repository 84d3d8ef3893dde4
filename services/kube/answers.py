"""What the API server answers: objects, errors, and what is neither."""

import re
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from services.kube.objects import NotFound, Rejected, StaleObject, Unavailable

S = TypeVar("S")
_SECONDS = re.compile(r"\d{1,6}")
_MOST_BYTES = 4 * 1024 * 1024
"""No object of the API is larger; etcd takes 1.5 MiB."""
_LONGEST_BODY = 32 * 1024 * 1024
"""No page of a list is larger; a proxy may send anything."""


class StatusDetails(Struct, frozen=True, rename="camel"):
    """More about an error."""

    retry_after_seconds: int = 0


class Status(Struct, frozen=True):
    """An error, as the API writes it."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


async def read_body(content: aiohttp.StreamReader) -> bytes:
    """Read an answer that is no watch.

    Raises:
        Unavailable: it is larger than any list that was asked for.
    """
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise Unavailable(f"the server's answer is larger than {_LONGEST_BODY} bytes", status=200)
    return bytes(body)


async def read_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
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
    seconds = _parse_retry_after(retry_after)
    if seconds is None and status.details is not None and status.details.retry_after_seconds > 0:
        seconds = float(status.details.retry_after_seconds)
    if code in (404, 410):
        raise NotFound(text, retry_after_s=seconds)
    if code in (409, 422):
        raise StaleObject(text, retry_after_s=seconds)
    if code in (400, 401, 403, 405, 415):
        raise Rejected(text, retry_after_s=seconds)
    raise Unavailable(text, status=code, retry_after_s=seconds)


def _parse_retry_after(text: str | None) -> float | None:
    """The header in seconds from now: a number, or a date as some proxies write it; None where it is neither."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
