"""How servers are asked over HTTP, and which addresses and headers a configuration may name."""

import re
from urllib.parse import urlsplit

from msgspec import field

from schemas.settings import Settings


def has_host(url: str) -> bool:
    """Whether a URL names a host, and no port that does not exist."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def without_query(url: str) -> str:
    """An address without its query string and fragment, which may hold a secret."""
    return url.partition("?")[0].partition("#")[0]


def check_url(what: str, url: str) -> None:
    """Check that a URL is one of HTTP.

    Raises:
        ValueError: it is not.
    """
    is_address = url.startswith(("http://", "https://")) and has_host(url) and not urlsplit(url).fragment
    # A password may hold any letter: what stands before an @ may be one, unless the address could be read up to there.
    before, at, _ = url.partition("@")
    if at and (not is_address or not has_host(before) or "/" not in before.partition("//")[2]):
        # Not shown: it would be in a log.
        raise ValueError(f"{what}: an address must not hold credentials: see signal.http")
    if not is_address:
        raise ValueError(f"{what}: {without_query(url)!r} is no address: expected http://HOST:PORT")


class Http(Settings, frozen=True):
    """How every source of measurements is asked, and ``check`` with it.

    Proxies come from the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    """

    ca: str | None = None
    """Path of the certificate authorities that sign servers' certificates; without it the public ones."""
    certificate: str | None = None
    """Path of the client's certificate, for mutual TLS; ``key`` goes with it.  Read again for every connection."""
    key: str | None = None
    """Path of the key of ``certificate``."""
    server_name: str | None = None
    """Name in the server's certificate, where the address has another."""
    token_file: str | None = None
    """Path of a bearer token.  Read again for every request."""
    username: str | None = None
    """User name of basic authentication; ``password_file`` goes with it."""
    password_file: str | None = None
    """Path of the password of ``username``.  Read again for every request."""
    headers: dict[str, str] = field(default_factory=dict)
    """HTTP headers of every request, such as a tenant's ``X-Scope-OrgID``."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: settings that do not go together, or no HTTP header; never shows its value.
        """
        super().__post_init__()
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate, key: both are needed")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username, password_file: both are needed")
        if self.token_file is not None and self.username is not None:
            raise ValueError("token_file and username: only one of the two")
        check_headers(self.headers)


def check_headers(headers: dict[str, str]) -> None:
    """Check that headers can be sent.

    Raises:
        ValueError: a name or a value is none; does not show the value.
    """
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"headers: {name!r} is no name of a header")
        if value != value.strip() or not value.isprintable() or not value.isascii():
            raise ValueError(f"headers: the value of {name} is not one line of ASCII")
