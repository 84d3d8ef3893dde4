"""The health page is answered over both families of addresses."""

import asyncio
import urllib.request

import pytest

from services.runtime.health import Health, serve


@pytest.mark.parametrize(
    ("host", "answering"),
    [
        ("::", ("127.0.0.1", "[::1]")),
        ("::1", ("[::1]",)),
        ("127.0.0.1", ("127.0.0.1",)),
        ("0.0.0.0", ("127.0.0.1",)),
    ],
)
async def test_both_families_are_answered(host: str, answering: tuple[str, ...]) -> None:
    """By default, in a cluster of IPv4, of IPv6 and of both."""
    async with serve(Health(), host, 0) as port:
        for address in answering:
            url = f"http://{address}:{port}/healthz"
            with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
                assert answer.status == 200
