"""How the client proves who it is, and to whom: a Pod's service account, or a token in a file; both rotate."""

import os
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from services.kube.access import SERVICE_ACCOUNT, https_url
from services.kube.library import ConfigException, Configuration
from services.kube.objects import Unavailable


def use_service_account(settings: Configuration) -> None:
    """Use the Pod's service account, whose token may be missing for a while.

    Raises:
        ConfigException: this is no Pod, or it has no service account.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigException("Service host/port is not set.")
    authority = SERVICE_ACCOUNT / "ca.crt"
    if not authority.is_file() or not authority.stat().st_size:
        raise ConfigException(f"{authority} is missing or empty.")
    settings.host = https_url(host, port)
    settings.ssl_ca_cert = str(authority)
    use_token_file(settings, SERVICE_ACCOUNT / "token")


def use_token_file(settings: Configuration, path: Path) -> None:
    """Use a bearer token that is read again for every request."""
    settings.api_key["BearerToken"] = ""  # without it the hook is not called
    settings.refresh_api_key_hook = partial(_read_token, path)  # type: ignore[assignment]


def _read_token(path: Path, settings: Configuration) -> None:
    """Read the token for one request: it is replaced from time to time.

    Raises:
        ConfigException: there is none now.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigException(f"{path} cannot be read: {error}") from None
    if not token:
        raise ConfigException(f"{path} is empty")
    settings.api_key["BearerToken"] = f"Bearer {token}"


async def refuse_redirect(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Pass a request on; an API server redirects nobody, but a sign-in page before it may.

    Raises:
        Unavailable: the answer is a redirect; it is not followed.
    """
    response = await send(request)
    if "Location" in response.headers and 300 <= response.status < 400:
        response.close()
        host = urlsplit(response.headers["Location"]).hostname or request.url.host
        raise Unavailable(f"HTTP status {response.status} to {host}", status=response.status)
    return response
