"""The containers of the factory and the bus, run by Docker under the restrictions of the manifests.

The root file system is read-only, the user is unprivileged, and memory is limited.  A program that writes needs a
volume.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.exporter.echo_server import MAGIC, PACKET
from tests.support import guard
from tests.support.kube.manifests import BUS_USERS, objects
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

ROOT = Path(__file__).parents[2]
KILLED = 137
PAIRS = (("robot-control", "robot-cell"), ("safety-scanner", "safety-plc"), ("telemetry-upload", "telemetry-store"))
ENOUGH = 200_000
"""Enough bytes to show that an app sends, and does not only connect."""


def network() -> str:
    """A network for this run of the tests."""
    return f"factory-{guard.label()}"


def make_labels() -> tuple[str, str]:
    """The options that label a container for the clean-up at the end of the run."""
    return "--label", f"{guard.LABEL}={guard.label()}"


def tagged(image: str) -> str:
    """One of our images under this run's own tag, so that runs do not remove each other's images."""
    return image.replace(":0.1.0", f":{guard.label()}")


def docker(*words: str) -> str:
    """Run docker; return its output."""
    done = subprocess.run(["docker", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr[-3000:]}{done.stdout[-1000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def specs() -> Iterator[dict[str, dict[str, Any]]]:
    """Pod specifications by Deployment; builds the images and creates a network."""
    base = [f"--build-arg=PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"] if "PYTHON_IMAGE" in os.environ else []
    for image, target in (("sluice:0.1.0", "sluice"), ("sluice-factory:0.1.0", "factory")):
        docker("build", "-t", tagged(image), "--target", target, *base, ".")
    docker("network", "create", *make_labels(), network())
    try:
        workloads = [one for one in objects() if one["kind"] in {"Deployment", "StatefulSet"}]
        yield {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in workloads}
    finally:
        docker("network", "rm", network())


def list_restrictions(spec: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """The manifest's restrictions on a container as options of docker."""
    user, security = spec["securityContext"], container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    words = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    words += [f"--user={user['runAsUser']}:{user['runAsGroup']}"]
    words += [f"--memory={container['resources']['limits']['memory'].replace('Mi', 'm')}"]
    for mount in container.get("volumeMounts", []):
        if not mount.get("readOnly"):
            words.append(f"--tmpfs={mount['mountPath']}:mode=1777")
    return words


@contextmanager
def run_container(
    specs: dict[str, dict[str, Any]], name: str, which: int = 0, *more: str, image: str | None = None
) -> Iterator[str]:
    """Run a workload's container, reachable under the workload's name; return the container's name."""
    spec = specs[name]
    container = spec["containers"][which]
    mine = f"{network()}-{name}-{which}"
    words = ["run", "--detach", "--name", mine, *make_labels(), "--network", network(), "--network-alias", name]
    words += [*list_restrictions(spec, container), *more]
    if "command" in container:
        program, *arguments = container["command"]
        docker(*words, "--entrypoint", program, tagged(container["image"]), *arguments)
    else:
        docker(*words, image or tagged(container["image"]), *container["args"])
    try:
        yield mine
    finally:
        docker("rm", "--force", mine)


def count_received(container: str) -> int:
    """Bytes received at a container's network device."""
    line = re.search(r"eth0:\s*(\d+)", docker("exec", container, "cat", "/proc/net/dev"))
    assert line is not None
    return int(line[1])


def read_logs(*containers: str) -> str:
    """The containers' logs."""
    command = ["docker", "logs"]
    found = []
    for one in containers:
        done = subprocess.run([*command, one], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        found.append(f"{one}: {done.stdout[-2500:]}")
    return "\n".join(found)


@pytest.mark.parametrize(("app", "peer"), PAIRS)
def test_an_app_sends_to_its_peer(specs: dict[str, dict[str, Any]], app: str, peer: str) -> None:
    """Traffic arrives under the names and ports of the manifests.

    Both containers end on SIGTERM, without being killed.
    """
    with run_container(specs, peer) as sink, run_container(specs, app) as source:
        deadline = time.monotonic() + PATIENCE_S
        while count_received(sink) < ENOUGH:
            assert time.monotonic() < deadline, read_logs(source, sink)
            time.sleep(0.5)
        for container in (source, sink):
            docker("stop", "-t", "30", container)
            code = docker("inspect", "--format", "{{.State.ExitCode}}", container)
            assert int(code) != KILLED, container


def echoes(address: str, kind: socket.SocketKind, packet: bytes) -> bool:
    """Whether an echo answers one packet within a second."""
    try:
        with socket.socket(type=kind) as one:
            one.settimeout(1)
            one.connect((address, 7007))
            one.send(packet)
            return len(one.recv(2048)) == len(packet)
    except OSError:
        return False


@pytest.mark.parametrize("app", ["robot-control", "safety-scanner"])
def test_the_echo_sidecar_answers(specs: dict[str, dict[str, Any]], app: str) -> None:
    """It answers over UDP and TCP, within its memory; the resident part is printed."""
    (which,) = [number for number, one in enumerate(specs[app]["containers"]) if one["name"] == "echo"]
    packet = PACKET.pack(MAGIC, 1, 1, 0, 0, 0)
    with run_container(specs, app, which) as sidecar:
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = docker("inspect", "--format", where, sidecar).strip()
        deadline = time.monotonic() + PATIENCE_S
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            while not echoes(address, kind, packet):
                assert time.monotonic() < deadline, read_logs(sidecar)
                time.sleep(0.2)
        print(docker("exec", sidecar, "grep", "VmRSS", "/proc/1/status").strip())


def test_the_bus_starts(specs: dict[str, dict[str, Any]]) -> None:
    """With the manifest's configuration and users, it stores its streams in its volume only."""
    more = [f"--volume={ROOT / 'manifests' / 'nats.conf'}:/etc/nats/nats.conf:ro", "--env=POD_NAME=nats-0"]
    more.append("--env=SYNC_INTERVAL=always")
    more += [f"--env={user.upper()}_PASSWORD=p-{user}" for user in BUS_USERS]
    image = os.environ.get("NATS_IMAGE")
    with run_container(specs, "nats", 0, *more, image=image) as bus:
        deadline = time.monotonic() + PATIENCE_S
        while "Server is ready" not in (log := read_logs(bus)):
            assert time.monotonic() < deadline, log
            time.sleep(0.2)
    assert "Starting JetStream" in log
