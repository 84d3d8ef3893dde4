"""TLS on the bus as documented: the commands for the certificates, and the component's arguments."""

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.messages import Sample
from services.bus.bus import Bus
from services.runtime.config_loader import load
from tests.support.bus_keys import sample as sample_of
from tests.support.decision_services import ServiceProcess
from tests.support.kube.manifests import MANIFESTS, objects
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, until

DOCS = MANIFESTS.parent / "docs" / "bus.md"
NAME = "nats.sluice.svc"
DOMAINS = """
domains:
- name: line
  critical: [{workload: robot}]
  targets: [{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}]
"""


pytestmark = [pytest.mark.openssl, pytest.mark.kubectl]


def find_documented(kind: str) -> list[str]:
    """The commands of docs/bus.md that begin with a word."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith(f"    {kind} ")]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates from the documented commands, and another authority with a certificate for the service's name only.

    The tests connect to 127.0.0.1, as through a forwarded port.
    """
    home = tmp_path_factory.mktemp("certificates")
    commands = find_documented("openssl")
    assert len(commands) == 3
    (home / "other").mkdir()
    for folder in (home, home / "other"):
        for command in commands:
            here = command if folder == home else re.sub(rf"(DNS:{NAME}),\S+", r"\1", command)
            subprocess.run(["bash", "-c", here], cwd=folder, check=True, capture_output=True)
    return home


@pytest.fixture(scope="module")
def overlay_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The workloads of an overlay with the component, by name."""
    folder = tmp_path_factory.mktemp("overlay")
    at = os.path.relpath(MANIFESTS, folder)
    overlay = {"resources": [at], "components": [f"{at}/components/tls"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return {one["metadata"]["name"]: one for one in objects(folder) if one["kind"] in ("StatefulSet", "Deployment")}


@pytest.fixture
def nats_with_tls(tmp_path: Path, certificates: Path, overlay_objects: dict[str, Any]) -> Iterator[NatsServer]:
    """A server with the component's arguments."""
    arguments = overlay_objects["nats"]["spec"]["template"]["spec"]["containers"][0]["args"]
    given = [one.replace("/etc/nats-tls", str(certificates)) for one in arguments if one.startswith("--tls")]
    assert len(given) == 3
    with NatsServer(tmp_path / "nats", arguments=given) as server:
        yield server


def test_the_component_gives_each_pod_what_it_needs_and_no_more(overlay_objects: dict[str, Any]) -> None:
    """NATS mounts certificate and key, the services the authority only; the names in docs and manifests agree."""
    (secret,) = find_documented("kubectl")
    assert set(re.findall(r"--from-file=(\S+)", secret)) == {"tls.crt", "tls.key", "ca.crt"}
    for name, keys in (
        ("nats", {"tls.crt", "tls.key"}),
        ("sluice-sampler", {"ca.crt"}),
        ("sluice-decision", {"ca.crt"}),
        ("sluice-actuator", {"ca.crt"}),
    ):
        spec = overlay_objects[name]["spec"]["template"]["spec"]
        (volume,) = [one for one in spec["volumes"] if one.get("secret", {}).get("secretName") == "sluice-bus-tls"]
        assert {item["key"] for item in volume["secret"]["items"]} == keys
        (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
        if name != "nats":
            environment = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
            assert environment["SLUICE_NATS_CA"] == f"{mount['mountPath']}/ca.crt"
    (server,) = load(MANIFESTS / "config.yaml", {}).bus.servers
    assert f"nats://{NAME}:4222" == server
    assert any(NAME in command for command in find_documented("openssl"))


async def test_a_service_uses_tls(nats_with_tls: NatsServer, tmp_path: Path, certificates: Path) -> None:
    """The decision service gets the authority from its environment, and answers a sample over TLS."""
    environment = {"SLUICE_NATS_URL": nats_with_tls.url, "SLUICE_NATS_CA": str(certificates / "ca.crt")}
    text = DOMAINS + "listen: {host: 127.0.0.1, decision: 0}\n"
    (tmp_path / "config.yaml").write_text(text)
    settings = load(tmp_path / "config.yaml", environment).bus
    with ServiceProcess("decision", tmp_path / "decision", text, environment=environment):
        async with asyncio.timeout(PATIENCE_S), Bus.connect(settings, "test", lambda _: None) as bus:
            await bus.ensure_streams()
            one = sample_of(1)
            await bus.publish(bus.subjects.sample("line"), one, msg_id=one.id)
            while await bus.ack_floor(Sample, "decision") < 1:  # noqa: ASYNC110 - another process's doing
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("authority", "why"), [("other/ca.crt", "certificate verify failed"), ("missing.crt", "missing.crt")]
)
async def test_a_wrong_authority_is_refused_and_reported(
    nats_with_tls: NatsServer, tmp_path: Path, certificates: Path, authority: str, why: str
) -> None:
    """The bus's entry on /readyz has the reason; nothing is sent."""
    environment = {"SLUICE_NATS_URL": nats_with_tls.url, "SLUICE_NATS_CA": str(certificates / authority)}
    (tmp_path / "config.yaml").write_text(DOMAINS)
    states: list[str | None] = []
    settings = load(tmp_path / "config.yaml", environment).bus
    joining = asyncio.create_task(_join(settings, states))
    await until(lambda: bool(states))
    joining.cancel()
    assert why in str(states[0])


async def test_another_servers_name_is_refused(tmp_path: Path, certificates: Path) -> None:
    """A certificate of the right authority for another name is refused."""
    other = certificates / "other"
    arguments = ["--tls", f"--tlscert={other}/tls.crt", f"--tlskey={other}/tls.key"]
    (tmp_path / "config.yaml").write_text(DOMAINS)
    states: list[str | None] = []
    with NatsServer(tmp_path / "nats", arguments=arguments) as server:
        environment = {"SLUICE_NATS_URL": server.url, "SLUICE_NATS_CA": str(other / "ca.crt")}
        joining = asyncio.create_task(_join(load(tmp_path / "config.yaml", environment).bus, states))
        await until(lambda: bool(states))
        joining.cancel()
    assert "certificate verify failed" in str(states[0])
    assert "127.0.0.1" in str(states[0])


async def _join(settings: Any, states: list[str | None]) -> None:
    async with Bus.connect(settings, "test", states.append):
        pass


def test_plain_text_is_refused(nats_with_tls: NatsServer) -> None:
    """A plaintext client is disconnected before it can send a request."""
    with closing(socket.create_connection(("127.0.0.1", nats_with_tls.port), timeout=PATIENCE_S)) as line:
        line.settimeout(PATIENCE_S)
        greeting = line.recv(4096)
        assert b'"tls_required":true' in greeting
        line.sendall(b'CONNECT {"verbose":true,"user":"decision","pass":"x"}\r\nPING\r\n')
        answer = b""
        try:
            while part := line.recv(4096):
                answer += part
        except ConnectionResetError:
            pass
        assert b"PONG" not in answer
        assert b"+OK" not in answer
