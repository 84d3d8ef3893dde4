"""Sluice in containers: the Dockerfile's images, run by docker-compose."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from testcontainers.community.nats import NatsContainer

from schemas.config import BusConfig
from schemas.messages import Sample
from services.bus.bus import Bus
from tests.support import guard
from tests.support.ports import free_port
from tests.support.readme import commands
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
SERVICES = ("sampler", "decision", "actuator")
STATS = "{{.Name}} {{.MemUsage}}"
MOST_MIB = {"sampler": 64, "decision": 64, "actuator": 80, "ui": 64}
PROMETHEUS_PORT = free_port()
"""On this machine, where another Prometheus may have the usual one."""
UI_PORT = free_port()
pytestmark = pytest.mark.docker


def compose(*words: str) -> str:
    """Run docker-compose on the project's file; return its output."""
    command = ["docker-compose", "--project-name", guard.label(), *words]
    ours = os.environ | {"PROMETHEUS_PORT": str(PROMETHEUS_PORT), "UI_PORT": str(UI_PORT), "SLUICE_TAG": guard.label()}
    done = subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return done.stdout


def logs(service: str) -> str:
    """The log of a container so far."""
    return compose("logs", "--no-color", service)


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """All containers of the file, with images built from this checkout."""
    compose("build")
    try:
        compose("up", "-d")
        yield
    finally:
        compose("down", "--volumes", "--timeout", "5")


def limits() -> list[int]:
    """The limits that the plant enforced on telemetry-upload, kbit/s."""
    return [int(found) for found in re.findall(r"telemetry-upload-0: (\d+) kbit/s", logs("plant"))]


def test_the_loop_closes_between_containers(running: None) -> None:
    """Decisions change the limit that the plant enforces, and the report names the decision as its cause."""
    deadline = time.monotonic() + PATIENCE_S
    while len(set(limits())) < 4:
        assert time.monotonic() < deadline, "\n".join(logs(name)[-1500:] for name in ("plant", *SERVICES))
        time.sleep(1)
    assert '"cause": "decision"' in logs("actuator")


def test_the_bus_of_the_containers_passes_the_audit(running: None) -> None:
    """As the user ``reader``, the audit finds that every action has its cause and is within bounds."""
    user = ("-e", "SLUICE_NATS_USER=reader", "-e", "SLUICE_NATS_PASSWORD=p-reader")
    print(compose("exec", "-T", *user, "sampler", "sluice", "audit", "--config", "/etc/sluice/config.yaml"))


def test_the_page_shows_what_is_decided(running: None) -> None:
    """On a port of loopback; as the user ``reader`` it reads the bus."""
    deadline = time.monotonic() + PATIENCE_S
    shown: dict[str, Any] = {}
    while not any(one.get("policy") for one in shown.get("domains", ())):
        assert time.monotonic() < deadline, (shown, logs("ui"))
        time.sleep(0.5)
        shown = requests.get(f"http://127.0.0.1:{UI_PORT}/api/v1/overview", timeout=PATIENCE_S).json()
    assert shown.get("failure") is None


def test_prometheus_scrapes_all_services(running: None) -> None:
    """All four pages are scraped, and the rules compute P95 and jitter of both critical workloads."""
    deadline = time.monotonic() + PATIENCE_S
    for query, count in (("up == 1", 4), ("namespace_workload:hubble_flow_latency_seconds:p95_1m", 2)):
        found: list[Any] = []
        while len(found) != count:
            assert time.monotonic() < deadline, (query, found)
            time.sleep(0.5)
            url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query"
            answer = requests.get(url, params={"query": query}, timeout=PATIENCE_S)
            found = answer.json()["data"]["result"]


def test_the_images_of_the_install_section_can_be_built() -> None:
    """README's commands, except for the push: there is no registry here."""
    lines = [line for line in commands("Install on a cluster") if line.startswith("docker build")]
    assert len(lines) == 2
    for line in lines:
        # With the run's own tag, so that runs do not remove each other's images.
        ours = line.replace("REGISTRY", "registry.example").replace(":0.1.0", f":{guard.label()}")
        build, _, push = ours.partition(" && ")
        words = build.split()
        image = words[words.index("-t") + 1]
        assert image.endswith(guard.label())
        assert push == f"docker push {image}"
        base = [f"--build-arg=PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"] if "PYTHON_IMAGE" in os.environ else []
        done = subprocess.run([*words, *base], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
        labelled = ("--label", f"{guard.LABEL}={guard.label()}")
        program = ["sluice", "--help"] if "sluice:" in image else ["iperf3", "--version"]
        subprocess.run(["docker", "run", "--rm", *labelled, "--entrypoint", program[0], image, program[1]], check=True)
        subprocess.run(["docker", "image", "rm", image], check=True, capture_output=True)


def test_each_container_keeps_within_its_memory(running: None) -> None:
    """The resident memory of each service, from its own page, is within its limit; image sizes are printed."""
    sizes = {}
    for name, port in zip(SERVICES, (9101, 9102, 9103), strict=True):
        script = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
        page = compose("exec", "-T", name, "python3", "-c", script)
        found = re.search(r"^process_resident_memory_bytes (\S+)", page, re.MULTILINE)
        assert found is not None
        sizes[name] = float(found[1]) / 2**20
        assert sizes[name] <= MOST_MIB[name]
    # The page has no metrics of its own.
    status = compose("exec", "-T", "ui", "python3", "-c", "print(open('/proc/1/status').read())")
    resident = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert resident is not None
    sizes["ui"] = int(resident[1]) / 2**10
    assert sizes["ui"] <= MOST_MIB["ui"]
    images = json.loads(subprocess.check_output(["docker", "image", "inspect", f"sluice:{guard.label()}"]))
    sizes_text = ", ".join(f"{name} {size:.1f} MiB" for name, size in sizes.items())
    base = os.environ.get("PYTHON_IMAGE", "python:3.11-slim-bookworm")
    below = json.loads(subprocess.check_output(["docker", "image", "inspect", base]))[0]["Size"]
    print(f"{sizes_text}; image {images[0]['Size'] / 2**20:.0f} MiB, of it {base} {below / 2**20:.0f} MiB")
    names = [compose("ps", "-q", name).strip() for name in (*SERVICES, "plant", "nats", "prometheus")]
    print(subprocess.check_output(["docker", "stats", "--no-stream", "--format", STATS, *names], text=True))
    assert images[0]["Config"]["User"] == "65532:65532"


async def test_the_bus_on_a_nats_container() -> None:
    """Publish, deduplicate, read and look up on the NATS image of the manifests."""
    image = os.environ.get("NATS_IMAGE", "nats:2.15.1")
    nats = NatsContainer(image, jetstream=True).with_kwargs(labels={guard.LABEL: guard.label()})
    with nats as container:
        settings = BusConfig(servers=(container.nats_uri(),))
        async with Bus.connect(settings, "test", lambda _: None) as bus:
            assert await bus.ensure_streams() == []
            sample = Sample(domain="line", start=0, end=10, period=5, source="test")
            subject = bus.subjects.sample("line")
            assert await bus.publish(subject, sample, msg_id=sample.id) == 1
            assert await bus.publish(subject, sample, msg_id=sample.id) == 1
            last = await bus.get_last(Sample, subject)
            assert last is not None
            assert last.message == sample
