"""The lower bound of the pipeline's latency: two messages over JetStream and the patches, with no work between.

Both messages are stored in a stream and delivered by a pull consumer, as the product's are; they are
not decoded, acknowledged or compared with anything.  The patches are sent all at once by a plain HTTP
client: the same operations on the same number of objects as the actuator's.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from msgspec import Struct

from schemas.config import BusConfig
from services.actuator.ownership import KEY
from services.bus.connection import Connection, Msg
from services.kube.objects import BANDWIDTH

_ANSWER_S = 5
_MAX_BYTES = 8 * 1024 * 1024
_PATIENCE_S = 30
_RECORD = "x" * 330
"""As long as the record that the actuator writes on an object."""


class BareRound(Struct, frozen=True):
    """One round; ns."""

    hops: int
    patches: int

    @property
    def whole(self) -> int:
        """From the first message to the last patch's answer."""
        return self.hops + self.patches


class BareHops:
    """Two hops in a row."""

    def __init__(self, first: Connection, name: str, bodies: tuple[bytes, bytes]) -> None:
        """See ``open``."""
        self._first = first
        self._name = name
        self._bodies = bodies
        self._arrived: asyncio.Future[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: BusConfig, name: str, bodies: tuple[bytes, bytes]) -> AsyncIterator["BareHops"]:
        """Set streams up whose names begin with ``name``; ``bodies`` are those of the two messages."""
        async with AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(Connection.open(settings, f"{name}-{number}")) for number in range(3)
            ]
            hops = cls(first, name, bodies)
            sending: set[asyncio.Task[None]] = set()

            async def pass_on(message: Msg) -> None:
                if message.reply:
                    task = asyncio.get_running_loop().create_task(second.send(f"{name}.second", bodies[1]))
                    sending.add(task)
                    task.add_done_callback(sending.discard)

            async def arrive(message: Msg) -> None:
                if message.reply and hops._arrived is not None:
                    hops._arrived.set_result(None)

            for hop, connection, take in (("first", second, pass_on), ("second", third, arrive)):
                stream, subject = f"{name}_{hop}".upper(), f"{name}.{hop}"
                desired: dict[str, object] = {"name": stream, "subjects": [subject], "storage": "file"}
                reader: dict[str, object] = {
                    "stream_name": stream,
                    "config": {"name": "bare", "ack_policy": "none", "mem_storage": True},
                }
                await _request(connection, f"STREAM.CREATE.{stream}", desired | {"max_bytes": _MAX_BYTES})
                await _request(connection, f"CONSUMER.CREATE.{stream}.bare", reader)
                requests = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.bare"
                # Whoever waits for a message that no longer comes does so for a bounded time.
                ask = await stack.enter_async_context(connection.subscribe_replies(requests, take, lambda _: None))
                # One request for everything that will come: none is sent while a round is measured.
                await ask(json.dumps({"batch": 1_000_000, "expires": 3600 * 10**9}).encode())
            yield hops

    async def send(self) -> int:
        """Send a message over both; gives how long it took, ns."""
        self._arrived = asyncio.get_running_loop().create_future()
        began = time.perf_counter_ns()
        await self._first.send(f"{self._name}.first", self._bodies[0])
        async with asyncio.timeout(_PATIENCE_S):
            await self._arrived
        return time.perf_counter_ns() - began


async def _request(connection: Connection, what: str, request: dict[str, object]) -> None:
    answer = json.loads(await connection.request(f"$JS.API.{what}", json.dumps(request).encode(), _ANSWER_S))
    if "error" in answer:
        raise RuntimeError(f"{what}: {answer['error']}")


class BarePatches:
    """Patches of some objects that carry both annotations, sent all at once."""

    BEGIN = {BANDWIDTH: "1", KEY: "0"}  # noqa: RUF012 - read only
    """What the objects must carry at first."""

    def __init__(self, client: aiohttp.ClientSession, paths: Sequence[str]) -> None:
        """Patch the objects at these paths."""
        self._client = client
        self._paths = paths
        self._numbers = itertools.count(1)
        self._now = self.BEGIN

    async def send(self) -> int:
        """Patch all; gives how long it took, ns."""
        number = next(self._numbers)
        values = {BANDWIDTH: str(number + 1), KEY: f"{number}{_RECORD}"}
        tests = [{"op": "test", "path": _path(key), "value": value} for key, value in self._now.items()]
        adds = [{"op": "add", "path": _path(key), "value": value} for key, value in values.items()]
        body = json.dumps(tests + adds).encode()
        headers = {"Content-Type": "application/json-patch+json"}

        async def patch(path: str) -> None:
            async with self._client.patch(path, data=body, headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()

        began = time.perf_counter_ns()
        await asyncio.gather(*(patch(path) for path in self._paths))
        self._now = values
        return time.perf_counter_ns() - began


def _path(key: str) -> str:
    return f"/metadata/annotations/{key.replace('/', '~1')}"
