"""How the client proves who it is: the Pod's service account, or a token in a file; both rotate."""

import os
from functools import partial
from pathlib import Path

from services.kube.access import SERVICE_ACCOUNT, https_url
from services.kube.library import ConfigException, Configuration


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
        token = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigException(f"{path} cannot be read: {error}") from None
    if not token:
        raise ConfigException(f"{path} is empty")
    if not (token.isascii() and token.isprintable()):
        raise ConfigException(f"{path} holds no token: other letters than those of one line of ASCII")
    settings.api_key["BearerToken"] = f"Bearer {token}"
