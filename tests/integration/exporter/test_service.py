"""``sluice exporter`` and ``sluice echo`` as processes, seen by scrapes and kubelet probes."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from msgspec import structs

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical
from services.exporter.pairing import TO_ENDPOINT, TO_NETWORK
from services.runtime.config_loader import load
from tests.support.decision_services import join
from tests.support.hubble.flows import Talk
from tests.support.hubble.harness import SLUICE, until, value
from tests.support.hubble.server import HubbleServer
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

DOMAIN = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}]
    targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
"""


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page; status 0 while the process does not listen."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def eventually_page(port: int, text: str) -> None:
    """Wait until ``/readyz`` says something."""
    await asyncio.to_thread(until, lambda: text in get(port, "/readyz")[1], text)


def sidecar() -> tuple["subprocess.Popen[str]", dict[str, str]]:
    """A running ``sluice echo`` and its ports."""
    process = subprocess.Popen(
        [SLUICE, "echo", "--udp", "0", "--tcp", "0", "--host", "127.0.0.1"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[0] == "listening"
    return process, dict(zip(words[1::2], words[2::2], strict=True))


def test_the_service_measures_flows_and_probes_and_reports_blindness(tmp_path: Path) -> None:
    """Blind at first, ready once both sources have data; SIGTERM ends it in order."""
    echo, ports = sidecar()
    listen = free_port()
    with HubbleServer() as server:
        config = tmp_path / "sluice.yaml"
        config.write_text(
            DOMAIN + "exporter:\n"
            f"  relay: {{address: '{server.address}'}}\n"
            "  probes: [{workload: robot-control, namespace: factory, address: 127.0.0.1, rate: 20, tcp_rate: 5, "
            f"udp: {ports['udp']}, tcp: {ports['tcp']}}}]\n"
            f"listen: {{host: 127.0.0.1, exporter: {listen}}}\n"
        )
        exporter = subprocess.Popen([SLUICE, "exporter", "--config", config])
        try:
            until(lambda: "blind: factory/robot-control" in get(listen, "/readyz")[1], "blindness")
            status, body = get(listen, "/readyz")
            assert status == 503
            assert "observations, 100 needed" in json.loads(body)["wrong"]["observations"]
            until(lambda: value(get(listen, "/metrics")[1], "sluice_exporter_relay_connected") == 1, "connection")

            def publish_and_look() -> bool:
                for port in range(1000, 1060):
                    server.publish(Talk(port=port).ask(time.time_ns(), TO_NETWORK))
                    server.publish(Talk(port=port).answer(time.time_ns(), TO_ENDPOINT))
                return get(listen, "/readyz")[0] == 200

            until(publish_and_look, "readiness")
            page = get(listen, "/metrics")[1]
            for source, protocol in (("handshake", "tcp"), ("probe", "udp"), ("probe", "tcp")):
                name = "hubble_flow_latency_seconds_count"
                assert value(
                    page, name, namespace="factory", workload="robot-control", source=source, protocol=protocol
                )
            assert value(page, "hubble_flow_lost_total", source="probe") == 0
            assert page.count('source="handshake"') >= 29
        finally:
            for process in (exporter, echo):
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(PATIENCE_S) for process in (exporter, echo)]
            if echo.stdout is not None:
                echo.stdout.close()
    assert codes == [0, 0]


async def test_workloads_are_taken_up_from_the_bus(tmp_path: Path, nats: NatsServer) -> None:
    """Another critical workload is followed and measured without a restart; a removed one has no series."""
    listen, config = free_port(), tmp_path / "sluice.yaml"
    config.write_text(DOMAIN)
    before = load(config).domains[0]
    after = structs.replace(before, critical=(Critical("robot-cell", "factory"),))
    with HubbleServer() as server:
        config.write_text(
            DOMAIN + f"exporter: {{relay: {{address: '{server.address}'}}}}\n"
            f"bus: {{servers: ['{nats.url}']}}\nlisten: {{host: 127.0.0.1, exporter: {listen}}}\n"
        )
        async with join(nats.url, "sluice") as bus:
            exporter = subprocess.Popen([SLUICE, "exporter", "--config", config])  # noqa: ASYNC220 - it starts at once
            try:
                await eventually_page(listen, "blind: factory/robot-control")
                definition = Definition("floor", 1, DefinitionSource(name="floor"), after)
                await bus.publish(bus.subjects.definition("floor"), definition, msg_id="1")
                await eventually_page(listen, "blind: factory/robot-cell")
                page = get(listen, "/metrics")[1]
                assert value(page, "hubble_flow_lost_total", workload="robot-cell") == 0
                assert 'workload="robot-control"' not in page

                def names_it() -> bool:
                    return list(server.requests[-1].whitelist[0].source_pod) == ["factory/robot-cell-"]

                await asyncio.to_thread(until, names_it, "a request for the new workload")
            finally:
                exporter.terminate()
                code = await asyncio.to_thread(exporter.wait, PATIENCE_S)
    assert code == 0


def test_a_configuration_without_a_source_is_refused(tmp_path: Path) -> None:
    """Without Relay and probes there would be nothing to measure."""
    config = tmp_path / "sluice.yaml"
    config.write_text(DOMAIN)
    done = subprocess.run([SLUICE, "exporter", "--config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "set 'relay', 'probes' or both" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--udp", "99999"]])
def test_a_sidecar_without_a_port_is_refused(arguments: list[str]) -> None:
    """The error names the missing option."""
    done = subprocess.run([SLUICE, "echo", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--udp" in done.stderr


def test_a_sidecar_is_small() -> None:
    """It runs beside every critical pod, and imports only what it needs."""
    echo, _ = sidecar()
    resident = Path(f"/proc/{echo.pid}/status").read_text()
    heavy = subprocess.run(
        [sys.executable, "-c", "import sys, services.exporter.echo_server; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    echo.terminate()
    echo.wait(PATIENCE_S)
    assert echo.stdout is not None
    echo.stdout.close()
    match = re.search(r"VmRSS:\s+(\d+) kB", resident)
    assert match is not None
    assert int(match[1]) < 24 * 1024
    assert not {"grpc", "google.protobuf", "prometheus_client", "msgspec", "asyncio", "yaml"} & set(heavy)
