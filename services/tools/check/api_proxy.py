"""Lets a person's check reach what only the cluster's own network reaches: through the API server.

    check_live.py --> a port of loopback --> API server --> Service

A Service that is not there yet, or whose name is known here, is left as it is.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import SplitResult, urlsplit

from aiohttp import web
from msgspec.structs import replace

from schemas.config import Config
from services.kube.client import KubeClient, KubeConfigError
from services.kube.objects import NotFound, Rejected, Unavailable
from services.sampler.source_factory import source_class
from services.tools.check.cluster_reader import service_of


@asynccontextmanager
async def reachable(config: Config) -> AsyncIterator[Config]:
    """The configuration with a source of measurements that can be asked from here, while the context lasts."""
    signal = config.signal
    async with AsyncExitStack() as stack:
        try:
            api = await stack.enter_async_context(KubeClient.connect(config.kubernetes))
        except KubeConfigError:
            yield config
            return
        source = source_class(signal.source)
        urls = await _opened(stack, api, source.addresses(signal))
        yield replace(config, signal=source.with_addresses(signal, urls))


async def _opened(stack: AsyncExitStack, api: KubeClient, urls: Sequence[str]) -> tuple[str, ...]:
    found = []
    for url in urls:
        parts = urlsplit(url)
        if await _needs_help(api, url, parts):
            port = await stack.enter_async_context(_forwarding(api, _root(url, parts)))
            url = parts._replace(scheme="http", netloc=f"127.0.0.1:{port}").geturl()  # noqa: PLW2901
        found.append(url)
    return tuple(found)


async def _needs_help(api: KubeClient, url: str, parts: SplitResult) -> bool:
    service = service_of(url)
    if service is None:
        return False
    try:
        await asyncio.to_thread(socket.getaddrinfo, parts.hostname, parts.port or 80)
    except socket.gaierror:
        namespace, _, name = service.partition("/")
        try:
            await api.read_json(f"/api/v1/namespaces/{namespace}/services/{name}")
        except (NotFound, Rejected, Unavailable):
            return False
        return True
    return False


def _root(url: str, parts: SplitResult) -> str:
    """Where the API server has a Service's own paths."""
    namespace, _, name = (service_of(url) or "").partition("/")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    secure = "https:" if parts.scheme == "https" else ""
    return f"/api/v1/namespaces/{namespace}/services/{secure}{name}:{port}/proxy"


@asynccontextmanager
async def _forwarding(api: KubeClient, root: str) -> AsyncIterator[int]:
    """Serve what the API server has below ``root``; gives the port of loopback."""

    async def forward(request: web.Request) -> web.Response:
        try:
            return web.Response(body=await api.fetch(root + request.raw_path))
        except (NotFound, Rejected, Unavailable) as error:
            return web.Response(status=502, text=str(error))

    app = web.Application()
    app.router.add_get("/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
