"""Reads the health and metrics page of a service under measurement."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from typing import Any

from services.plant.harness.processes import Processes

_POLL_S = 0.01


class ServicePage:
    """One service's health and metrics page."""

    def __init__(self, port: int) -> None:
        """On a port of loopback."""
        self._port = port

    async def wait_ready(self, processes: Processes, name: str, *conditions: str) -> float:
        """Wait until these conditions hold (all, if none is named); gives the seconds that took.

        Raises:
            ProcessDied: the process ended.
        """
        began = time.monotonic()
        while True:
            text = await self.get("/readyz")
            wrong: dict[str, Any] = json.loads(text)["wrong"] if text else {"http": "no answer"}
            if not ({"http", *conditions} & set(wrong) if conditions else wrong):
                return time.monotonic() - began
            processes.check(name)
            await asyncio.sleep(_POLL_S)

    async def metric(self, name: str) -> float:
        """The sum over a metric's series; 0 without any."""
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", await self.get("/metrics"), re.MULTILINE)))

    async def resident_mib(self) -> float:
        """The process's resident memory."""
        return await self.metric("process_resident_memory_bytes") / 1024**2

    async def get(self, path: str) -> str:
        """Get a page, whatever its status; empty where nothing answers."""

        def fetch() -> str:
            try:
                # The address is that of the bench's own service.
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                with error:
                    return error.read().decode()
            except OSError:
                return ""

        return await asyncio.to_thread(fetch)
