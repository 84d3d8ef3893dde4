"""Lets a check on a person's machine reach Services of the cluster, through the API server.

    check_connectivity --> a port of loopback --> API server --> Service

The address of a Service that does not exist, or whose name resolves here, stays as it is.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import SplitResult, urlsplit

from aiohttp import web
from msgspec.structs import replace

from schemas.config import Config
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, Unavailable
from services.sampler.source_factory import source_class
from services.tools.check.cluster_reader import parse_service
from services.tools.check.connectivity import CheckResult, check_connectivity


async def check_through_api(config: Config) -> list[CheckResult]:
    """Check the bus and the source of measurements; where that is a Service, through the API server."""
    signal, source, urls = config.signal, source_class(config.signal.source), []
    async with AsyncExitStack() as stack:
        try:
            api = await stack.enter_async_context(KubeClient.connect(config.kubernetes))
        except KubeConfigError:
            return await check_connectivity(config)
        for url in source.addresses(signal):
            parts, service = urlsplit(url), parse_service(url)
            if service is None or not await _needs_forwarding(api, service, parts):
                urls.append(url)
                continue
            namespace, _, name = service.partition("/")
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            secure = "https:" if parts.scheme == "https" else ""
            path = f"/api/v1/namespaces/{namespace}/services/{secure}{name}:{port}/proxy"
            port = await stack.enter_async_context(_serve_forwarder(api, path))
            urls.append(parts._replace(scheme="http", netloc=f"127.0.0.1:{port}").geturl())
        results = await check_connectivity(replace(config, signal=source.with_addresses(signal, tuple(urls))))
    names = dict(zip(urls, source.addresses(signal), strict=True))
    where = f"{', '.join(names.values())} (through the API server)"
    for at, one in enumerate(results):
        if one.what == signal.source and tuple(urls) != source.addresses(signal):
            # Findings name the forwarded addresses, which are gone by now.
            findings = []
            for finding in one.findings:
                text = finding.what
                for address, name in names.items():
                    text = text.replace(address, name)
                findings.append(replace(finding, what=text))
            results[at] = replace(one, where=where, findings=tuple(findings))
    return results


async def _needs_forwarding(api: KubeClient, service: str, parts: SplitResult) -> bool:
    """Return whether the Service exists, and its name is not known here."""
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


@asynccontextmanager
async def _serve_forwarder(api: KubeClient, root: str) -> AsyncIterator[int]:
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
