"""The page behind the proxy of a real API server, which reaches it as a Pod."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.integration.tools.test_running_services import run_pod
from tests.integration.ui.test_server import read_events
from tests.support.bus_stream import config
from tests.support.decision_services import join
from tests.support.kube.servers import REAL, Server, open_server
from tests.support.nats_server import NatsServer
from tests.support.ui_server import publish, recent_stream, serve_page


@pytest.fixture(params=[REAL])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A real API server."""
    async with open_server(request) as one:
        yield one


async def test_the_page_is_live_behind_an_api_server(server: Server, nats: NatsServer) -> None:
    """Page, policy and events pass as they are; a name that the page does not know is refused with the way out."""
    of = config(2)
    async with join(nats.url, "sluice") as bus, serve_page(nats.url, of, host="0.0.0.0") as url:
        port = urlsplit(url).port
        assert port is not None
        await run_pod(server, "ui", port)
        home = f"{server.pods}/sluice-ui-0:{port}/proxy/"
        async with server.open(home) as page:
            assert 'src="app.js"' in await page.text()
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        async with server.open(f"{home}api/v1/events") as events:
            await publish(bus, recent_stream(of, 1))
            assert (await read_events(events, "overview"))["domains"]
        # `kubectl proxy` names the API server in place of itself.
        async with server.open(home, Host="k8s.example:6443") as refused:
            assert refused.status == 403
            assert "--allow-host k8s.example" in (await refused.json())["error"]
