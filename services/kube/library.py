"""The parts of Kubernetes's library that the services use, alone: the rest would cost every pod 8 MiB.

The library's top package imports its synchronous client, requests and oauthlib, and the package of its asynchronous
part imports the dynamic client and urllib3.  No service uses them.
"""

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from services.kube.objects import Unavailable

# An empty module in the place of each of the two packages.  Every part of them can still be imported by its name.
for _name in ("kubernetes", "kubernetes.aio"):
    _spec = find_spec(_name)
    if _spec is not None and _name not in sys.modules:
        _package = ModuleType(_name)
        _package.__path__ = list(_spec.submodule_search_locations or ())
        _package.__spec__ = _spec
        sys.modules[_name] = _package
        _parent, _, _child = _name.rpartition(".")
        if _parent:
            setattr(sys.modules[_parent], _child, _package)

from kubernetes.aio.client.api_client import ApiClient  # noqa: E402
from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.config.config_exception import ConfigException  # noqa: E402
from kubernetes.aio.config.kube_config import load_kube_config  # noqa: E402

__all__ = (
    "ApiClient",
    "ConfigException",
    "Configuration",
    "explain",
    "load_kube_config",
    "send_once",
)


async def _refuse_redirect(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    response = await send(request)
    if "Location" in response.headers and 300 <= response.status < 400:
        response.close()
        host = urlsplit(response.headers["Location"]).hostname or request.url.host
        raise Unavailable(f"HTTP status {response.status} to {host}", status=response.status)
    return response


def send_once(client: ApiClient) -> None:
    """Have a client follow no redirect, which a sign-in page before the API server may send, and send nothing twice.

    Requests whose connection is closed have delays of their own.
    """
    rest: Any = client.rest_client
    rest.configuration.client_session_kwargs = {"middlewares": (_refuse_redirect,)}
    rest.pool_manager = rest._create_pool_manager()  # noqa: SLF001 - for subclasses, by its documentation
    rest.pool_manager._retry_connection = False  # noqa: SLF001 - aiohttp has no setting


def explain(error: Exception) -> Unavailable:
    """What it means that a request failed without an answer that can be read."""
    if isinstance(error, DECODE_ERRORS):
        text = f"the server's answer is not what was asked for: {describe_decode_error(error)}"
        return Unavailable(text, status=200)
    is_unreached = isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)
    return Unavailable(f"{type(error).__name__}: {error}".removesuffix(": "), is_unreached=is_unreached)
