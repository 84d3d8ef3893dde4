"""The bus's disk fills up and has room again: the liveness probe says that only a restart helps, and it does."""

import asyncio
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas.config import BusConfig
from schemas.messages import Sample
from tests.support.attack_tally import Attacks
from tests.support.bus_keys import join, publish, sample
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.root

MANIFEST = Path(__file__).parents[3] / "manifests" / "nats.yaml"
PATH = re.findall(r"livenessProbe: {httpGet: {path: \"([^\"]+)\"", MANIFEST.read_text(encoding="utf-8"))[0]
SETTINGS = BusConfig(keep_bytes=8 * 2**20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    home = tmp_path / "disk"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", home], check=True)
    try:
        yield home
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def probe(port: int) -> int:
    """The status that the manifest's liveness probe gets."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{PATH}", timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


async def test_a_full_disk_is_seen_by_the_liveness_probe(disk: Path, attacks: Attacks) -> None:
    """Alive before; not while a stream cannot be written, nor afterwards; alive and storing after the restart."""
    port = free_port()
    with NatsServer(disk / "nats", f'http: "127.0.0.1:{port}"') as server:
        async with join(server, settings=SETTINGS) as (bus, _):
            await publish(bus, sample(1))
            assert await asyncio.to_thread(probe, port) == 200
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(2**20)) == 2**20:
                    pass
            large = [replace(sample(number), no_data="x" * 100_000) for number in range(2, 80)]
            filling = asyncio.create_task(publish(bus, *large))
            async with asyncio.timeout(PATIENCE_S):
                while await asyncio.to_thread(probe, port) == 200:  # noqa: ASYNC110 - the server's doing
                    await asyncio.sleep(0.2)
            filling.cancel()
        (disk / "filler").unlink()
        assert await asyncio.to_thread(probe, port) == 503, "nothing is stored until the restart"
        server.stop()
        server.start()
        async with join(server, settings=SETTINGS) as (bus, _), asyncio.timeout(PATIENCE_S):
            await publish(bus, sample(100))
            assert await asyncio.to_thread(probe, port) == 200
            stored = await bus.stream_info(Sample)
            assert stored is not None
            assert stored.first == 1
    attacks.add("disk full and room again", "1 disks")
