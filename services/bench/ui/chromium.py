"""A real Chromium without a network, driven over its DevTools protocol: for the bench and for the tests of pages.

The protocol also reports console messages, exceptions and requests.
"""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    # No host on any network can be resolved or reached, but for servers on this machine's loopback.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--proxy-server=127.0.0.1:9",
)


def find_chromium() -> str | None:
    """Find the program; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, process: int, patience: float) -> None:
        """Use the DevTools connection ``socket``; see ``open_page``."""
        self._socket = socket
        self._patience = patience
        self._number = 0
        self.process = process
        """The browser's process id."""
        self.complaints: list[str] = []
        """Errors and warnings on the console, exceptions, and failed requests."""
        self.fetched: list[str] = []
        """Every address that was requested."""

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, recording events in between."""
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._next()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                answer: dict[str, Any] = message["result"]
                return answer

    async def until(self, event: str) -> None:
        """Wait for an event."""
        while (await self._next()).get("method") != event:
            pass

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(self._patience):
            message: dict[str, Any] = json.loads((await self._socket.receive()).data)
        event, details = message.get("method", ""), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(details["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(details["args"])[:500])
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.complaints.append(details["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.fetched.append(details["request"]["url"][:200])
        elif event == "Network.loadingFailed":
            self.complaints.append(f"could not load: {details['errorText']}")
        return message

    async def value(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    async def look(self) -> bytes:
        """A screenshot of the whole page, PNG."""
        size = (await self.ask("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    async def print(self) -> bytes:
        """The printed page, PDF."""
        printed = await self.ask("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    async def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Set the window's size, CSS pixels, and the preferred colours."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.ask("Emulation.setEmulatedMedia", features=scheme)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.ask("Emulation.setDeviceMetricsOverride", **metrics)


@asynccontextmanager
async def open_page(
    place: Path | str, *, dark: bool = False, width: int = 1200, height: int = 900, patience: float = 120.0
) -> AsyncIterator[Page]:
    """Open a file, or an address on this machine, in a separate browser; ``patience`` is in seconds."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            find_chromium() or "chromium", *_FLAGS, f"--user-data-dir={profile}", "about:blank", stderr=subprocess.PIPE
        )
        try:
            port = await find_port(process, patience)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    target = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket, process.pid, patience)
                    for domain in ("Runtime", "Log", "Network", "Page"):
                        await page.ask(f"{domain}.enable")
                    await page.resize(width, height, dark=dark)
                    await page.ask("Page.navigate", url=place.as_uri() if isinstance(place, Path) else place)
                    await page.until("Page.loadEventFired")
                    yield page
        finally:
            process.terminate()
            await process.communicate()


async def find_port(process: asyncio.subprocess.Process, patience: float) -> int:
    """Find the port that the browser prints on standard error."""
    assert process.stderr is not None
    async with asyncio.timeout(patience):
        async for line in process.stderr:
            if found := re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
                return int(found[1])
    raise RuntimeError(f"chromium ended with exit code {await process.wait()}")
