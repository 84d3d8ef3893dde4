"""The one HTTP layer of all sources: TLS, credentials, proxies, bounded reads, and nothing that leaks.

Credentials are read from their files for every request, because they rotate; certificates for every connection.
No redirect is followed: it would carry the headers to another host.  An error text never contains a credential
or a query string.
"""

import asyncio
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, quote_plus, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from schemas.http import Http
from services.common.retry_after import parse_retry_after

_CHUNK = 65536
_SHORTEST_SECRET = 6
_LONGEST_WAIT_S = 60.0
"""For which a server that is too busy is left alone, whatever it asks for."""
_SECRET_WORDS = ("auth", "key", "token", "cookie", "secret", "password")
"""A header with one of them in its name holds a credential."""

T = TypeVar("T")
_Job = tuple[Callable[[], Any], Future[Any]]


class RequestFailed(Exception):
    """The server gave no usable answer; the text has the reason."""


def show_url(url: str) -> str:
    """An address as it may be shown: without user, password, query string and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class _Credentials(AuthBase):
    """Adds the credentials as their files hold them now.  Also keeps requests from reading ``.netrc``."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.sent: tuple[str, ...] = ()
        """What the last request carried, and its encoded form."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._http.token_file is not None:
            token = _read_secret("token_file", self._http.token_file)
            self.sent = (token,)
            request.headers["Authorization"] = f"Bearer {token}"
        elif self._http.username is not None and self._http.password_file is not None:
            password = _read_secret("password_file", self._http.password_file)
            HTTPBasicAuth(self._http.username.encode(), password.encode())(request)
            self.sent = (str(request.headers["Authorization"]).partition(" ")[2], password)
        return request


def _read_secret(name: str, path: str) -> str:
    """The one line in a file.

    Raises:
        RequestFailed: it cannot be read, is empty, or is no line of text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise RequestFailed(f"{name}: {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        raise RequestFailed(f"{name}: {path}: not text") from None
    if not text:
        raise RequestFailed(f"{name}: {path}: empty")
    if len(text.splitlines()) > 1:
        raise RequestFailed(f"{name}: {path}: more than one line")
    # A header holds no other token; a password is encoded.
    if not text.isprintable() or (name == "token_file" and not text.isascii()):
        raise RequestFailed(f"{name}: {path}: has letters that no {name.removesuffix('_file')} has")
    return text


class _Adapter(HTTPAdapter):
    """Connections that may expect another name in the server's certificate than the address has."""

    def __init__(self, server_name: str | None) -> None:
        context = urllib3.util.create_urllib3_context()
        # Python 3.13 refuses authorities without key identifiers or key usage, which other clients accept.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # Before the base class, which makes the first pool.
        self._tls: dict[str, Any] = {"ssl_context": context}
        if server_name is not None:
            self._tls |= {"server_hostname": server_name, "assert_hostname": server_name}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=urllib3.Retry(0, read=False))

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._tls)

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options, **self._tls)
        return manager


def _unpack(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """A body that a server or a gateway compressed, though it was not asked for, in pieces of bounded size.

    Raises:
        RequestFailed: it is cut off or damaged, or the coding is not known.
    """
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise RequestFailed(f"content encoding {coding}, which was not asked for")
    either = 32 + zlib.MAX_WBITS
    decoder = zlib.decompressobj(either)
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if decoder.eof:  # a gzip file may have several members
                    decoder = zlib.decompressobj(either)
                yield decoder.decompress(rest, _CHUNK)
                rest = decoder.unconsumed_tail or decoder.unused_data
    except zlib.error:
        raise RequestFailed(f"content encoding {coding}, and the body is not in it") from None
    if not decoder.eof:
        raise RequestFailed(f"content encoding {coding}, and the body is cut off")


class _Session(requests.Session):
    """Finds no redirect: to find one, the library reads the whole body, of any size, and any address."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """There is none."""


class Answer:
    """What a server sent: the status and the head at once, the body as it comes."""

    def __init__(self, response: requests.Response, deadline: float) -> None:
        """Read ``response`` until ``deadline``, by the monotonic clock."""
        self._response = response
        self._deadline = deadline
        self.status = response.status_code
        self.has_length = bool({"Content-Length", "Transfer-Encoding"} & {name.title() for name in response.headers})
        """Whether the server tells where the body ends, so that a shorter one is an error."""
        self.headers = response.headers
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def chunks(self, max_bytes: int) -> Iterator[bytes]:
        """The body in pieces, unpacked.

        Raises:
            RequestFailed: it is longer than ``max_bytes``, or comes too slowly.
        """
        size = 0
        length = self._response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > max_bytes:
            raise RequestFailed(f"the answer is larger than {max_bytes} bytes")
        coding = self._response.headers.get("Content-Encoding", "").strip().lower()
        pieces = self._response.raw.stream(_CHUNK, decode_content=False)
        for chunk in pieces if coding in ("", "identity") else _unpack(pieces, coding):
            size += len(chunk)
            if size > max_bytes:
                raise RequestFailed(f"the answer is larger than {max_bytes} bytes")
            if time.monotonic() > self._deadline:
                raise RequestFailed("the answer came too slowly")
            yield chunk

    def text(self) -> str:
        """A short text that explains an error; empty where there is none."""
        if self.content_type not in ("text/plain", "application/json", ""):
            return ""
        try:
            text = next(self.chunks(_CHUNK), b"").decode(errors="replace")
        except (RequestFailed, OSError, urllib3.exceptions.HTTPError):
            return ""
        return "".join(letter if letter.isprintable() else " " for letter in text).strip()


class HttpClient:
    """Requests to one server."""

    def __init__(self, url: str, http: Http, timeout: float, headers: Mapping[str, str]) -> None:
        """Prepare; nothing is requested yet.

        Args:
            url: its address; a query string becomes part of every request.
            http: how to reach it.
            timeout: of each request, seconds.
            headers: of every request; those of ``http`` come first.
        """
        parts = urlsplit(url)
        self.base = parts._replace(query="", fragment="").geturl()
        self._timeout = timeout
        self._credentials = _Credentials(http)
        self._session = _Session()
        self._session.headers.clear()
        self._session.headers.update({"User-Agent": "sluice-sampler", "Accept-Encoding": "identity", **headers})
        self._session.headers.update(http.headers)
        self._not_before, self._busy = 0.0, 0
        self._query = f"?{parts.query}" if parts.query else ""
        self._session.auth = self._credentials
        self._session.verify = http.ca or True
        self._session.cert = (http.certificate, http.key) if http.certificate and http.key else None
        self._session.mount("http://", _Adapter(None))
        self._session.mount("https://", _Adapter(http.server_name))
        headers = {name.lower(): str(value) for name, value in self._session.headers.items()}
        self._secrets = [value for name, value in headers.items() if any(word in name for word in _SECRET_WORDS)]
        self._secrets += [value.rpartition(" ")[2] for value in self._secrets]  # behind the name of a scheme
        self._secrets += [value for _, value in parse_qsl(parts.query) if len(value) >= _SHORTEST_SECRET]

    @contextmanager
    def request(
        self, method: str, url: str, params: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None
    ) -> Iterator[Answer]:
        """Send one request; its connection is released when the context ends.

        Raises:
            RequestFailed: the server redirects, asked to be left alone, or a credential cannot be read.
            OSError, HTTPError: the connection failed.
        """
        left_s = self._not_before - time.monotonic()
        if left_s > 0:
            raise RequestFailed(f"HTTP status {self._busy}: the server asks for no request for {left_s:.0f} s more")
        deadline = time.monotonic() + self._timeout
        # A name may have an address that does not answer, of IPv6 say: leave time for its next one.
        timeout = (self._timeout / 2, self._timeout)
        response = self._session.request(
            method,
            url + self._query,
            params=params,
            data=data,
            timeout=timeout,
            stream=True,
            allow_redirects=False,
            # Otherwise an authority that the environment names would take the place of the configured one.
            verify=self._session.verify,
        )
        try:
            if 300 <= response.status_code < 400:
                host = _find_host(url, response.headers.get("Location", ""))
                text = f"HTTP status {response.status_code} to {host}: redirects are not followed"
                raise RequestFailed(text)  # noqa: TRY301 - the connection is closed below
            if response.status_code in (429, 503):
                retry_after_s = parse_retry_after(response.headers.get("Retry-After")) or 0.0
                self._not_before, self._busy = (
                    time.monotonic() + min(retry_after_s, _LONGEST_WAIT_S),
                    response.status_code,
                )
            yield Answer(response, deadline)
        except BaseException:
            response.raw.close()
            raise
        finally:
            response.close()

    def hide(self, text: str) -> str:
        """A text without the credentials that it may repeat."""
        for secret in (*self._secrets, *self._credentials.sent):
            for form in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
                # A short one may be a part of any word.
                edges = ("", "") if len(form) >= _SHORTEST_SECRET else (r"(?<!\w)", r"(?!\w)")
                text = re.sub(edges[0] + re.escape(form) + edges[1], "***", text)
        return text

    def close(self) -> None:
        """Release the connections."""
        self._session.close()


def _find_host(url: str, location: str) -> str:
    """The host that a redirect of ``url`` leads to, without credentials."""
    try:
        return urlsplit(urljoin(url, location)).netloc.rpartition("@")[2] or "no host"
    except ValueError:
        return "no valid address"


class HttpWorker:
    """One thread for the requests to one server, beside the event loop: one at a time, each with a deadline.

    A server that sends single bytes can hold a thread for longer than any socket timeout.  The caller gets
    its error on time all the same.  Until the thread is free again further requests fail at once, so that
    they do not pile up.  The thread is a daemon and never keeps the process from ending.
    """

    def __init__(self, name: str, timeout: float) -> None:
        """Start the thread.

        Args:
            name: shown in a debugger.
            timeout: of each request, seconds.
        """
        self._timeout = timeout
        self._busy = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, request: Callable[[], T]) -> T:
        """Run ``request`` in the thread and return its result.

        Raises:
            RequestFailed: the connection failed, the previous request is still running, or this one did
                not return in time; its result will be dropped.
            Exception: anything else that the request raises.
        """
        if self._busy:
            raise RequestFailed("the previous request is still running")
        self._busy = True
        future: Future[T] = Future()
        self._jobs.put((request, future))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            cause = _find_root_cause(error)
            if isinstance(cause, TimeoutError):
                raise RequestFailed(f"no answer within {self._timeout:g} s") from None
            if isinstance(cause, OSError) and cause.strerror:
                raise RequestFailed(cause.strerror.lower()) from error
            raise RequestFailed(f"{type(cause).__name__}: {cause}") from error

    def close(self) -> None:
        """Let the thread end once it is free."""
        self._jobs.put(None)

    def _work(self) -> None:
        for request, future in iter(self._jobs.get, None):
            if not future.set_running_or_notify_cancel():
                self._busy = False
                continue
            try:
                result = request()
            except Exception as error:  # noqa: BLE001 - raised again in the waiting coroutine
                self._busy = False
                if isinstance(error, (RequestFailed, OSError, urllib3.exceptions.HTTPError, ValueError)):
                    _release_frames(error)
                future.set_exception(error)
            else:
                self._busy = False
                future.set_result(result)


def _release_frames(error: BaseException | None) -> None:
    """Drop the tracebacks: their frames would hold what was read, megabytes, until cycles are collected."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _find_root_cause(error: BaseException) -> BaseException:
    """The error that the client libraries wrapped: as an argument, as ``reason`` or as a cause."""
    wrapped = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    inner = next((one for one in wrapped if isinstance(one, Exception) and one is not error), None)
    return error if inner is None else _find_root_cause(inner)
