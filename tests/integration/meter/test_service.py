"""``sluice meter`` as a process beside an API that comes, changes and goes away."""

import asyncio
import hashlib
import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.meters import add_pod, build_emulator, run_meter
from tests.support.node_network import NodeNetwork
from tests.support.ports import free_port
from tests.support.waiting import until


@pytest.fixture
def network(tmp_path: Path) -> NodeNetwork:
    """A node with two pods' devices."""
    folder = tmp_path / "net"
    folder.mkdir()
    network = NodeNetwork(folder)
    network.attach("10.0.1.5", "lxc1", received=100)
    network.attach("10.0.1.6", "lxc2", received=200)
    return network


async def test_pods_come_and_go_and_so_does_the_api(tmp_path: Path, network: NodeNetwork) -> None:
    """It serves no page before it knows the pods, and the last known ones while the API is away."""
    port = free_port()
    emulator = build_emulator(port)
    add_pod(emulator, "a", "10.0.1.5")
    add_pod(emulator, "elsewhere", "10.0.1.6", node="n2")
    with run_meter(tmp_path, {"server": f"http://127.0.0.1:{port}"}, network.folder) as meter:

        async def shows(expected: dict[str, int]) -> None:
            await until(lambda: meter.sent() == expected, meter.sent)

        async def watches(value: int) -> None:
            await until(lambda: f'sluice_meter_watching{{node="n1"}} {value}' in meter.get()[1])

        await until(lambda: "refused" in meter.get()[1])
        assert meter.get()[0] == 503
        assert meter.get("/readyz")[0] == 503
        async with emulator:
            await shows({"a": 100})
            assert meter.get("/readyz")[0] == 200
            add_pod(emulator, "b", "10.0.1.6")
            await shows({"a": 100, "b": 200})
            network.attach("10.0.1.5", "lxc1", received=101)
            assert meter.sent() == {"a": 101, "b": 200}
            emulator.objects.delete(("pods", "factory", "b"))
            await shows({"a": 101})
        network.attach("10.0.1.5", "lxc1", received=150)
        await watches(0)
        assert meter.sent() == {"a": 150}
        assert "notes" in meter.get("/readyz")[1]
        add_pod(emulator, "c", "10.0.1.6")
        async with emulator:
            await shows({"a": 150, "c": 200})
            await watches(1)
        meter.process.terminate()
        assert await asyncio.to_thread(meter.process.wait) == 0


async def test_a_device_is_found_by_its_endpoint(tmp_path: Path, network: NodeNetwork) -> None:
    """Without endpoint routes, by the name that Cilium gives it; asked for until Cilium tells."""
    sandbox = "3b8977b0dd99a56e2e4c8369822d02c50cbb6e8a2cbae8ee27ce399393445d10:eth0"
    device = "lxc" + hashlib.sha256(sandbox.encode()).hexdigest()[:12]
    network.counters[device] = (300, 1)
    network.write()
    emulator = build_emulator()
    add_pod(emulator, "a", "10.0.9.9")
    async with emulator as url:
        with run_meter(tmp_path, {"server": url}, network.folder, meter="{endpoints: true}") as meter:
            await until(lambda: "no route of its own to 10.0.9.9" in meter.get()[1])
            endpoint = {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumEndpoint",
                "metadata": {"name": "a", "namespace": "factory"},
                "status": {"external-identifiers": {"cni-attachment-id": sandbox}, "networking": {}},
            }
            emulator.apply([endpoint])
            await until(lambda: meter.sent() == {"a": 300})


async def test_connections_stay_open_and_pages_can_be_narrowed(tmp_path: Path, network: NodeNetwork) -> None:
    """A sampler that reads a thousand meters asks for its own namespaces only."""
    emulator = build_emulator()
    add_pod(emulator, "a", "10.0.1.5")
    async with emulator as url:
        with run_meter(tmp_path, {"server": url}, network.folder) as meter:
            await until(lambda: meter.sent() == {"a": 100})
            connection = http.client.HTTPConnection(urlsplit(meter.url).netloc)
            for namespace, count in (("factory", 1), ("other", 0), ("factory", 1)):
                connection.request("GET", f"/metrics?namespace={namespace}&namespace=third")
                answer = connection.getresponse()
                assert answer.version == 11
                assert answer.read().decode().count("\ncontainer_network_transmit_bytes_total{") == count
            connection.request("GET", "/nothing")
            assert connection.getresponse().status == 404
            connection.close()
            # Whoever holds many connections displaces only the oldest.
            held = [http.client.HTTPConnection(urlsplit(meter.url).netloc) for _ in range(100)]
            for one in held:
                one.connect()
            assert meter.sent() == {"a": 100}
            for one in held:
                one.close()
