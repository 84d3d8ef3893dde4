"""Definitions change under load: sampler, two decision services and actuator as processes, on a real bus.

``SLUICE_DEFINITION_CHANGES`` says how many changes; the suite makes a few.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Critical, Domain, Target
from schemas.messages import Action, Decision, Sample
from schemas.units import Rate
from services.actuator.ownership import KEY
from services.bus.bus import Received
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import Scene
from tests.support.commands import sluice
from tests.support.decision_services import S, ServiceProcess, join, read_stream
from tests.support.exporter_page import LiveExporter
from tests.support.kube import servers
from tests.support.kube.servers import Server, eventually
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port

CHANGES = int(os.environ.get("SLUICE_DEFINITION_CHANGES", "5"))
PERIOD = S // 10


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The emulator: what is tried is above the API."""
    async with servers.emulate(Emulator(starts_after=None)) as server:
        yield server


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """Two Deployments, and a bus."""
    for name in ("app", "two"):
        await server.deploy(name, replicas=1)
        await server.pods_of(name, 1)
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


class Installation:
    """The three services and their one file."""

    def __init__(self, home: Path, scene: Scene, nats: NatsServer, exporter: LiveExporter) -> None:
        """Prepare; the file is another one for each service, as each Pod has its own mount."""
        self._home, self._scene, self._nats, self._exporter = home, scene, nats, exporter
        self.ports = {name: free_port() for name in ("sampler", "decision", "actuator")}
        first = self.text(0)
        self.services = [ServiceProcess(name, home / name, first) for name in self.ports]
        other = first.replace(f"decision: {self.ports['decision']}", f"decision: {free_port()}")
        self.services.append(ServiceProcess("decision", home / "replica", other))
        # A mounted ConfigMap: the file is a link into a folder that a link points to.
        mount = home / "actuator"
        (mount / "config.yaml").unlink()
        (mount / "config.yaml").symlink_to("..data/config.yaml")
        self.write(first)

    def text(self, number: int) -> str:
        """The file after so many changes: bounds, policy, objectives and targets differ."""
        namespace = self._scene.server.namespace
        most = f"{60 + 5 * (number % 5)}M"
        targets = [f"{{deployment: app, namespace: {namespace}, min: {5 + number % 3}M, max: {most}, fail_safe: 10M}}"]
        if number % 3 == 1:
            targets.append(f"{{deployment: two, namespace: {namespace}, min: 2M, max: 30M, fail_safe: 5M}}")
        ports = ", ".join(f"{name}: {port}" for name, port in self.ports.items())
        return f"""
bus: {{servers: ['{self._nats.url}']}}
kubernetes: {{server: '{self._scene.server.config.server}'}}
listen: {{host: 127.0.0.1, {ports}}}
signal: {{period: 100ms, window: 1s, scrape: {{urls: ['{self._exporter.url}']}}}}
domains:
- name: line
  critical: [{{workload: robot-control, namespace: factory, p95: {2 + number % 2}ms}}]
  targets: [{", ".join(targets)}]
  policy: {("learned", "proportional", "aimd")[number // 2 % 3]}
  min_observations: 20
"""

    def write(self, text: str) -> None:
        """Change the actuator's file as the kubelet does: another folder, and one link that is replaced."""
        mount = self._home / "actuator"
        folder = mount / f"..{len(list(mount.iterdir()))}"
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        (mount / "..new").symlink_to(folder.name)
        (mount / "..new").rename(mount / "..data")

    def notes(self, service: str) -> dict[str, Any]:
        """What a service's ``/readyz`` notes."""
        answer: dict[str, Any] = requests.get(f"http://127.0.0.1:{self.ports[service]}/readyz", timeout=30).json()
        return {**answer.get("notes", {}), **answer["wrong"]}


def revisions(decisions: list[Received[Decision]]) -> list[int]:
    """The revisions that decisions name, each once, in order."""
    named = [one.message.definition for one in decisions]
    return [one for one, before in zip(named, [-1, *named], strict=False) if one != before]


async def test_definitions_change_under_load(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """No restart, no decision lost or out of order, and a replay that decides the same, bit for bit."""
    with LiveExporter() as exporter, ExitStack() as stack:
        exporter.traffic(400)
        installation = Installation(tmp_path, scene, nats, exporter)
        running = [stack.enter_context(one) for one in installation.services]
        pids = [one.pid for one in running]

        async def has_revision(revision: int) -> bool:
            decisions = await read_stream(scene.bus, Decision)
            return bool(decisions) and decisions[-1].message.definition >= revision

        await eventually(lambda: has_revision(1))
        for number in range(1, CHANGES + 1):
            installation.write(installation.text(number))
            await eventually(lambda revision=number + 1: has_revision(revision))  # type: ignore[misc]
        if CHANGES % 3 != 1:

            async def is_restored() -> bool:
                two = await scene.server.must("GET", f"{scene.server.deployments}/two")
                return KEY not in (two["metadata"].get("annotations") or {})

            await eventually(is_restored)
        installation.write(installation.text(CHANGES).replace("max: ", "max: 1k, m: "))

        async def is_refused() -> bool:
            return "refused, the one before holds" in installation.notes("actuator").get("configuration", "")

        await eventually(is_refused)
        assert [one.pid for one in running] == pids
        assert all(one.stop() == 0 for one in running)
    await judge(scene, tmp_path, nats)


async def judge(scene: Scene, home: Path, nats: NatsServer) -> None:
    """Every sample is answered once and in order; revisions grow; the recording replays and passes the audit."""
    samples = await read_stream(scene.bus, Sample)
    decisions = await read_stream(scene.bus, Decision)
    definitions = await read_stream(scene.bus, Definition)
    actions = await read_stream(scene.bus, Action)
    assert [one.message.revision for one in definitions] == list(range(1, CHANGES + 2))
    assert revisions(decisions) in ([*range(CHANGES + 2)], [*range(1, CHANGES + 2)])
    answered = [one.message.sample for one in decisions]
    assert answered == [one.message.id for one in samples][: len(answered)]
    assert len(samples) - len(answered) <= 5  # those that the services were stopped on
    assert [one.message.seq for one in decisions] == list(range(1, len(decisions) + 1))
    changed = [(one, two) for one, two in pairwise(decisions) if one.message.definition != two.message.definition]
    assert all(one.message.epoch == two.message.epoch for one, two in changed)
    assert any(one.message.cause == "restore" for one in actions)
    (config,) = (home / "decision").glob("config.yaml")
    recording = home / "run.rec"
    made = await asyncio.to_thread(sluice, "record", "--config", config, "--since", "1h", "-o", recording)
    assert made.returncode == 0, made.stderr
    for command in (("replay", recording), ("report", recording, "-o", home / "run.html")):
        done = await asyncio.to_thread(sluice, *command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    audited = await asyncio.to_thread(sluice, "audit", recording, "--json")
    assert json.loads(audited.stdout)["findings"]["breaks"] == []
    print(
        f"{CHANGES} changes of the definition: {len(samples):,} samples, {len(decisions):,} decisions, "
        f"{len(definitions)} definitions, 0 restarts, 0 decisions lost or out of order, replay identical"
    )


async def test_services_begin_without_a_domain(nats: NatsServer, tmp_path: Path) -> None:
    """A file with none is for clusters whose domains are all resources: what the bus brings is measured and decided."""
    ports = {name: free_port() for name in ("sampler", "decision")}
    listen = ", ".join(f"{name}: {port}" for name, port in ports.items())
    with LiveExporter() as exporter, ExitStack() as stack:
        exporter.traffic(400)
        text = f"""
bus: {{servers: ['{nats.url}']}}
listen: {{host: 127.0.0.1, {listen}}}
signal: {{period: 100ms, window: 1s, scrape: {{urls: ['{exporter.url}']}}}}
domains: []
"""
        async with join(nats.url, "sluice") as bus:
            running = [stack.enter_context(ServiceProcess(name, tmp_path / name, text)) for name in ports]
            domain = Domain(
                "line",
                (Critical("robot-control", "factory"),),
                (Target(min=Rate(5000), max=Rate(60000), fail_safe=Rate(10000), deployment="app"),),
                min_observations=20,
            )
            definition = Definition("line", 1, DefinitionSource("resource", "factory", "line", "uid-1", 1), domain)
            await bus.publish(bus.subjects.definition("line"), definition, msg_id="1")

            async def decides() -> bool:
                decisions = await read_stream(bus, Decision)
                return bool(decisions) and decisions[-1].message.stress is not None

            await eventually(decides)
            assert all(one.stop() == 0 for one in running)
