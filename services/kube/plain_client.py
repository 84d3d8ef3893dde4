"""Reads the API, or a kubelet, with the standard library alone.

The meter runs on every node, and the services' HTTP client would cost each of them 12 MiB.
It only reads, and it blocks: a thread of its own calls it.
"""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlencode, urlsplit

from services.kube.access import Access, KubeConfigError, read_token
from services.kube.objects import Unavailable, raise_for_status

_LONGEST_LINE = 4 * 1024 * 1024
"""No object of the API is larger; etcd takes 1.5 MiB."""
_LONGEST_BODY = 8 * 1024 * 1024
"""Of a page of a list, say: a whole order more than it has, and what the meter's memory holds."""
_KEEP_ALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 5),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)
"""A watch on a connection that died silently ends after 25 s."""


class PlainClient:
    """One server."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        """Prepare; nothing is requested yet."""
        self._access = access
        self._timeout_s = timeout_s

    def fetch(self, path: str, query: list[tuple[str, str]] | None = None) -> bytes:
        """Read what is at a path.

        Raises:
            NotFound: there is nothing.
            Rejected: reading is not allowed.
            Unavailable: no answer.
        """
        with self._request(path, query or [], self._timeout_s) as answer:
            body = answer.read(_LONGEST_BODY + 1)
            if len(body) > _LONGEST_BODY:
                raise Unavailable(f"the server's answer is larger than {_LONGEST_BODY} bytes", status=200)
            if answer.length:
                raise Unavailable(f"the connection ended {answer.length} bytes early", status=200)
            return body

    def follow(self, path: str, query: list[tuple[str, str]], silence_s: float) -> Iterator[bytes]:
        """Read lines as they come, until the server ends them.

        Args:
            path: of a watch.
            query: its options.
            silence_s: after so long without a line the connection is given up.

        Raises:
            NotFound: there is nothing.
            Rejected: reading is not allowed.
            Unavailable: no answer, or the connection was lost.
        """
        with self._request(path, query, silence_s) as answer:
            while line := answer.readline(_LONGEST_LINE):
                if not line.endswith(b"\n"):
                    raise Unavailable("the connection ended within an object", status=200)
                if line.strip():
                    yield line
            # Between two lines the library does not tell an early end from the last line.
            if answer.length:
                raise Unavailable(f"the connection ended {answer.length} bytes early", status=200)

    @contextmanager
    def _request(self, path: str, query: list[tuple[str, str]], timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and raise the library's errors, up to the end of the context, as the API's."""
        access, parts = self._access, urlsplit(self._access.url)
        try:
            authorization = access.authorization if access.token_file is None else read_token(access.token_file)
            tls = access.build_tls()
            headers = {"Accept": "application/json, */*;q=0.5", "User-Agent": "sluice-meter"}
            headers |= {"Authorization": authorization} if authorization else {}
            host = parts.hostname or ""
            connection = (
                http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
                if tls is None
                else http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=tls)
            )
            with closing(connection):
                connection.connect()
                for option, value in _KEEP_ALIVE:
                    connection.sock.setsockopt(*option, value)
                connection.request("GET", f"{parts.path}{path}?{urlencode(query)}", headers=headers)
                answer = connection.getresponse()
                if answer.status >= 300:
                    raise_for_status(answer.status, answer.read(_LONGEST_LINE), answer.getheader("Retry-After"))
                yield answer
        except KubeConfigError as error:
            raise Unavailable(str(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}".removesuffix(": ")) from None
