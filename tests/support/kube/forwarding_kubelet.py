"""The part of a kubelet that serves ``kubectl port-forward``: SPDY/3.1 streams, led to TCP ports of loopback.

The API server passes the client's streams on to the node of the pod, so kubectl and API server are real here.
"""

import asyncio
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import requests

from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import MERGE_PATCH
from tests.support.waiting import wait_until

_SYN_STREAM, _SYN_REPLY, _PING, _GOAWAY = 1, 2, 6, 7
_CONTROL, _VERSION, _FIN = 0x8000, 3, 1
_ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    "X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
)
_REFUSAL = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""For WebSockets, which a kubelet of these tests' version does not speak; kubectl then tries SPDY."""


class ForwardingKubelet:
    """Serves port-forwards to any pod of a node."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        """Lead a pod's port (key) to a port of loopback (value)."""
        self._ports = ports
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        """How many connections were forwarded."""

    @asynccontextmanager
    async def running(self, server: ApiServer, node: str) -> AsyncIterator[None]:
        """Serve, and register a node, while the context lasts."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(server.ca, server.ca.with_suffix(".key"))
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        await asyncio.to_thread(_register, server, node, port)
        try:
            yield
        finally:
            await asyncio.to_thread(_unregister, server, node)
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            is_spdy = "upgrade: spdy/3.1" in head.lower()
            writer.write((_ANSWER if is_spdy else _REFUSAL).encode())
            if is_spdy:
                await _Session(reader, writer, self).run()
        writer.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the one forwarded port."""
        (port,) = self._ports.values()
        self.connections += 1
        return await asyncio.open_connection("127.0.0.1", port)


class _Session:
    """One client's streams: of each connection first the one for errors, then the one for data."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kubelet: ForwardingKubelet) -> None:
        self._reader, self._writer, self._kubelet = reader, writer, kubelet
        self._compress = zlib.compressobj()
        self._streams: list[int] = []
        self._pods: dict[int, asyncio.StreamWriter] = {}
        self._pumps: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Serve until the client goes."""
        try:
            while True:
                first, flags_length = struct.unpack(">II", await self._reader.readexactly(8))
                body = await self._reader.readexactly(flags_length & 0xFFFFFF)
                if not first >> 31:
                    self._forward(first, body, is_last=bool(flags_length >> 24 & _FIN))
                elif first & 0xFFFF == _SYN_STREAM:
                    await self._open(struct.unpack(">I", body[:4])[0] & 0x7FFFFFFF)
                elif first & 0xFFFF == _PING:
                    self._writer.write(struct.pack(">II", first, flags_length) + body)
                elif first & 0xFFFF == _GOAWAY:
                    return
        finally:
            for pump in self._pumps:
                pump.cancel()
            for pod in self._pods.values():
                pod.transport.abort()
                with suppress(OSError):
                    await pod.wait_closed()

    async def _open(self, stream: int) -> None:
        # No headers; a block is flushed by itself, and all share one compressor.
        block = self._compress.compress(struct.pack(">I", 0)) + self._compress.flush(zlib.Z_SYNC_FLUSH)
        head = struct.pack(">HHII", _CONTROL | _VERSION, _SYN_REPLY, 4 + len(block), stream)
        self._writer.write(head + block)
        self._streams.append(stream)
        if len(self._streams) % 2 == 0:
            answers, self._pods[stream] = await self._kubelet.connect()
            self._pumps.append(asyncio.create_task(self._answer(self._streams[-2], stream, answers)))

    def _forward(self, stream: int, body: bytes, *, is_last: bool) -> None:
        pod = self._pods.get(stream)
        if pod is not None and not pod.is_closing():
            pod.write(body)
            if is_last:
                pod.write_eof()

    async def _answer(self, errors: int, stream: int, answers: asyncio.StreamReader) -> None:
        while body := await answers.read(65536):
            self._writer.write(struct.pack(">II", stream, len(body)) + body)
        for one in (stream, errors):
            self._writer.write(struct.pack(">II", one, _FIN << 24))


def _register(server: ApiServer, node: str, port: int) -> None:
    server.request("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {"kernelVersion": "6.12.0"},
    }
    server.request("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, MERGE_PATCH)


def _unregister(server: ApiServer, node: str) -> None:
    """Remove the node, and the Pods that DaemonSets had for it, as a cluster does: only then is it not counted."""
    server.request("DELETE", f"/api/v1/nodes/{node}")

    def is_forgotten() -> bool:
        for pod in server.request("GET", "/api/v1/pods")["items"]:
            meta = pod["metadata"]
            if any(owner["kind"] == "DaemonSet" for owner in meta.get("ownerReferences", ())):
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
                with suppress(requests.HTTPError):  # its controller was quicker
                    server.request("DELETE", f"{path}?gracePeriodSeconds=0")
        sets = server.request("GET", "/apis/apps/v1/daemonsets")["items"]
        return not any(one["status"]["desiredNumberScheduled"] for one in sets)

    wait_until(is_forgotten, lambda: f"DaemonSets still count {node}")


def start_pod(server: ApiServer, namespace: str, name: str, node: str) -> None:
    """Bind a Pod to the node, and say that it runs."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    target: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "name": node}
    server.request("POST", f"{path}/binding", {"metadata": {"name": name}, "target": target})
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    server.request("PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)
