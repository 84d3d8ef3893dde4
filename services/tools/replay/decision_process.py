"""A decision service for the time of a replay, under an unused prefix."""

import asyncio
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from schemas.config import BusConfig
from schemas.units import encode_unit
from services.tools.common.bus_reader import connect_reader
from services.tools.common.recording import RecordingHeader

_PROGRAM = (sys.executable, "-c", "from services.cli import main; main()")
_STOP_S = 10.0


@asynccontextmanager
async def run_decision_service(header: RecordingHeader, settings: BusConfig) -> AsyncIterator[BusConfig]:
    """Run ``sluice decision`` on a recording's configuration; gives the bus's settings with its prefix.

    The streams under that prefix are deleted in the end.
    """
    own = structs.replace(settings, prefix=f"replay-{secrets.token_hex(4)}")
    with tempfile.TemporaryDirectory(prefix="sluice-replay-") as folder:
        path = Path(folder) / "config.yaml"
        # Every JSON document is a YAML document.
        path.write_text(json.dumps(build_configuration(header, own)))
        environment = {key: value for key, value in os.environ.items() if key != "SLUICE_BUS_PREFIX"}
        process = await asyncio.create_subprocess_exec(
            *_PROGRAM, "decision", "--config", str(path), env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            yield own
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            async with connect_reader(own, "replay") as reader:
                await reader.bus.delete_streams()


def build_configuration(header: RecordingHeader, settings: BusConfig) -> dict[str, Any]:
    """The configuration file of a decision service, as a tree."""
    tree: dict[str, Any] = {
        "domains": header.domains,
        "bus": settings,
        "signal": {"period": header.period, "window": header.window},
        "listen": {"host": "127.0.0.1", "decision": 0},
        "log": "error",
    }
    return msgspec.to_builtins(tree, enc_hook=encode_unit)  # type: ignore[no-any-return]
