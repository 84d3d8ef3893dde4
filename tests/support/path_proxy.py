"""A proxy that serves a page below a path, as an API server does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

from tests.support.ui_server import find_connections
from tests.support.waiting import until


@asynccontextmanager
async def behind(address: str, path: str) -> AsyncIterator[str]:
    """A proxy that serves the page below a path, as an API server does; gives the new address."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        target = f"{address}{request.match_info['rest']}"
        headers = {"Content-Type": request.content_type} if request.can_read_body else {}
        response = web.StreamResponse(status=502)
        # The browser, or the server behind, may be gone meanwhile.
        with suppress(ConnectionResetError, aiohttp.ClientError):
            async with session.request(
                request.method, target, params=request.query, data=await request.read(), headers=headers
            ) as answer:
                response.set_status(answer.status)
                for name, value in answer.headers.items():
                    if name in ("Content-Type", "Content-Security-Policy"):
                        response.headers[name] = value
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        return response

    application = web.Application()
    application.router.add_route("*", f"{path}{{rest:.*}}", pass_on)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        port = 0
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{port}{path}"
        finally:
            await runner.cleanup()
            await until(lambda: not find_connections(port), lambda: f"still open: {find_connections(port)}")
