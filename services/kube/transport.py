"""Sends requests to one API server, and raises for everything that is not the answer asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from services.kube.access import Access, KubeConfigError
from services.kube.objects import Unavailable, raise_for_status, read_body

_READ_BUFFER = 2**21
"""Bytes; a line of a watch holds a whole object."""


class Transport:
    """Connections to one server, each of which is used again."""

    def __init__(self, access: Access, session: aiohttp.ClientSession, timeout_s: float) -> None:
        """See ``open``."""
        self._access = access
        self._session = session
        self._limits = aiohttp.ClientTimeout(total=timeout_s)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: Access, timeout_s: float) -> AsyncIterator["Transport"]:
        """Prepare to reach a server; it need not be there yet.

        Raises:
            KubeConfigError: the authority or the client's certificate cannot be used.
        """
        try:
            tls = access.build_tls()
        except OSError as error:
            raise KubeConfigError(f"kubernetes: {access.authority or access.certificate}: {error}") from None
        # Every namespace holds two watches open: patches must not wait for one of a limited number of connections.
        connector = aiohttp.TCPConnector(limit=0, ssl=True if tls is None else tls)
        async with aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_READ_BUFFER) as session:
            # Requests whose connection is closed have delays of their own.
            session._retry_connection = False  # noqa: SLF001 - aiohttp has no setting
            yield cls(access, session, timeout_s)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        query: list[tuple[str, str]] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
        account: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once, and follow no redirect, which a sign-in page before the server may send.

        Args:
            method: of HTTP.
            path: below the server's address.
            body: is sent as JSON.
            content_type: of the body.
            query: options.
            limits: instead of the client's own.
            account: in whose place it is sent.

        Raises:
            NotFound, StaleObject, Rejected or Unavailable: up to the end of the context.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "sluice-actuator"}
        headers |= {"Impersonate-User": account} if account is not None else {}
        try:
            authorization = self._access.read_authorization()
            headers |= {"Authorization": authorization} if authorization else {}
            response = await self._session.request(
                method,
                self._access.url + path,
                params=query,
                headers=headers,
                data=None if body is None else msgspec.json.encode(body),
                timeout=limits or self._limits,
                allow_redirects=False,
                proxy=self._access.proxy,
                server_hostname=self._access.server_name,
            )
            try:
                if response.status >= 300:
                    await _refuse(response)
                yield response
            finally:
                response.close()  # a connection whose response was read to its end is kept
        except KubeConfigError as error:
            raise Unavailable(str(error)) from None
        except (*DECODE_ERRORS, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _explain(error) from None


async def _refuse(response: aiohttp.ClientResponse) -> None:
    if "Location" in response.headers and response.status < 400:
        host = urlsplit(response.headers["Location"]).hostname or response.url.host
        raise Unavailable(f"HTTP status {response.status} to {host}", status=response.status)
    raise_for_status(response.status, await read_body(response.content), response.headers.get("Retry-After"))


def _explain(error: Exception) -> Unavailable:
    """What it means that a request failed without an answer that can be read."""
    if isinstance(error, DECODE_ERRORS):
        text = f"the server's answer is not what was asked for: {describe_decode_error(error)}"
        return Unavailable(text, status=200)
    is_unreached = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)
    return Unavailable(f"{type(error).__name__}: {error}".removesuffix(": "), is_unreached=is_unreached)
