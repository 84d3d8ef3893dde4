"""The hops that nothing can save: two messages over JetStream and the patches, with nothing in between.

Both messages are stored in a stream and delivered by a pull consumer, as the product's are; they are
not decoded, acknowledged or compared with anything.  The patches are sent all at once by a plain HTTP
client: the same operations on the same number of objects as the actuator's.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from msgspec import Struct

from schemas.config import BusConfig
from services.actuator.ownership import KEY
from services.bus.connection import Connection, Msg
from services.kube.objects import BANDWIDTH

_ANSWER_S = 5
_KEPT = 8 * 1024 * 1024
_PATIENCE_S = 30
_RECORD = "x" * 330
"""As long as what the actuator leaves on an object."""


class Took(Struct, frozen=True):
    """One round; ns."""

    hops: int
    patches: int

    @property
    def whole(self) -> int:
        """From the first message to the last patch's answer."""
        return self.hops + self.patches


class Hops:
    """Two hops in a row."""

    def __init__(self, first: Connection, name: str, bodies: tuple[bytes, bytes]) -> None:
        """See ``joined``."""
        self._first = first
        self._name = name
        self._bodies = bodies
        self._arrived: asyncio.Future[None] | None = None

    @classmethod
    @asynccontextmanager
    async def joined(cls, settings: BusConfig, name: str, bodies: tuple[bytes, bytes]) -> AsyncIterator["Hops"]:
        """Set streams up whose names begin with ``name``; ``bodies`` are what the two messages say."""
        async with AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(Connection.open(settings, f"{name}-{number}")) for number in range(3)
            ]
            hops = cls(first, name, bodies)
            sending: set[asyncio.Task[None]] = set()

            def pass_on(message: Msg | Exception) -> None:
                if isinstance(message, Msg) and message.reply:
                    task = asyncio.get_running_loop().create_task(second.send(f"{name}.second", bodies[1]))
                    sending.add(task)
                    task.add_done_callback(sending.discard)

            for hop, connection, take in (("first", second, pass_on), ("second", third, hops._take)):
                await _delivered(stack, connection, (name, hop), take)
            yield hops

    def _take(self, message: Msg | Exception) -> None:
        if isinstance(message, Msg) and message.reply and self._arrived is not None:
            self._arrived.set_result(None)

    async def go(self) -> int:
        """Send a message over both; gives how long it took, ns."""
        self._arrived = asyncio.get_running_loop().create_future()
        began = time.perf_counter_ns()
        await self._first.send(f"{self._name}.first", self._bodies[0])
        async with asyncio.timeout(_PATIENCE_S):
            await self._arrived
        return time.perf_counter_ns() - began


async def _delivered(
    stack: AsyncExitStack, connection: Connection, named: tuple[str, str], take: Callable[[Msg | Exception], None]
) -> None:
    stream, subject = "_".join(named).upper(), ".".join(named)
    wanted: dict[str, object] = {"name": stream, "subjects": [subject], "storage": "file", "max_bytes": _KEPT}
    reader: dict[str, object] = {
        "stream_name": stream,
        "config": {"name": "bare", "ack_policy": "none", "mem_storage": True},
    }
    await _must(connection, f"STREAM.CREATE.{stream}", wanted)
    await _must(connection, f"CONSUMER.CREATE.{stream}.bare", reader)
    ask = await stack.enter_async_context(
        connection.subscribe_replies(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.bare", take)
    )
    # One request for everything that will come: none is on its way while a round is measured.
    await ask(json.dumps({"batch": 1_000_000, "expires": 3600 * 10**9}).encode())


async def _must(connection: Connection, what: str, request: dict[str, object]) -> None:
    answer = json.loads(await connection.request(f"$JS.API.{what}", json.dumps(request).encode(), _ANSWER_S))
    if "error" in answer:
        raise RuntimeError(f"{what}: {answer['error']}")


class Patches:
    """Patches of some objects that carry both annotations, sent all at once."""

    BEGIN = {BANDWIDTH: "1", KEY: "0"}  # noqa: RUF012 - read only
    """What the objects must carry at first."""

    def __init__(self, client: aiohttp.ClientSession, paths: Sequence[str]) -> None:
        """Patch the objects at these paths."""
        self._client = client
        self._paths = paths
        self._numbers = itertools.count(1)
        self._now = self.BEGIN

    async def go(self) -> int:
        """Patch all; gives how long it took, ns."""
        number = next(self._numbers)
        wanted = {BANDWIDTH: str(number + 1), KEY: f"{number}{_RECORD}"}
        tests = [{"op": "test", "path": _at(key), "value": value} for key, value in self._now.items()]
        adds = [{"op": "add", "path": _at(key), "value": value} for key, value in wanted.items()]
        body = json.dumps(tests + adds).encode()
        began = time.perf_counter_ns()
        await asyncio.gather(*(self._patch(path, body) for path in self._paths))
        self._now = wanted
        return time.perf_counter_ns() - began

    async def _patch(self, path: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json-patch+json"}
        async with self._client.patch(path, data=body, headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()


def _at(key: str) -> str:
    return f"/metadata/annotations/{key.replace('/', '~1')}"
