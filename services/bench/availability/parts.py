"""The parts of a highly available installation, as processes that can be killed and started again.

Two samplers, two decision services and two actuators with a Lease; three NATS servers that keep three copies.
"""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from schemas.config import BusConfig, Config, Kubernetes, Listen
from schemas.domain import Domain
from services.plant.harness.orphan_guard import tie_command
from services.plant.harness.pipeline import build_scrape_signal, find_free_ports, find_program, format_config

SERVERS, REPLICAS = 3, 2
SERVICES = ("decision", "actuator", "sampler")
LEASE = ("default", "sluice-actuator")
"""Namespace and name."""
_STOP_S = 10.0


class ProcessPart(Struct):
    """One process."""

    kind: str
    """``nats``, ``sampler``, ``decision`` or ``actuator``."""
    name: str
    command: Sequence[str]
    log: Path
    port: int
    """Of its clients (nats), or of its health page."""
    process: asyncio.subprocess.Process | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started, and has not ended."""
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it, in a session of its own; it ends with this process."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *tie_command(list(self.command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def freeze(self) -> None:
        """Stop it with its connections open, as when its node is gone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        """Send SIGKILL, and wait until it has ended."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """End it in order, or after a while by SIGKILL."""
        if not self.runs:
            return
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()


def build_servers(home: Path) -> list[ProcessPart]:
    """The NATS servers, which replicate JetStream among each other."""
    ports = find_free_ports(2 * SERVERS)
    clients, routes = ports[:SERVERS], ports[SERVERS:]
    addresses = ", ".join(f"nats-route://127.0.0.1:{port}" for port in routes)
    parts = []
    for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
        path = home / f"nats-{number}.conf"
        path.write_text(
            f'server_name: nats-{number}\nlisten: "127.0.0.1:{client}"\n'
            f'jetstream {{ store_dir: "{home / path.stem}", max_file_store: 2GB, sync_interval: always }}\n'
            f'cluster {{ name: sluice, listen: "127.0.0.1:{route}", routes: [{addresses}], no_advertise: true }}\n',
            encoding="utf-8",
        )
        command = (str(find_program("nats-server")), "-c", str(path))
        parts.append(ProcessPart("nats", path.stem, command, home / f"{path.stem}.log", client))
    return parts


def build_config(domain: Domain, servers: Sequence[ProcessPart], api: str, page: str) -> Config:
    """The configuration of the services; each replica has ports of its own."""
    urls = tuple(f"nats://127.0.0.1:{one.port}" for one in servers)
    return Config(
        domains=(domain,),
        bus=BusConfig(servers=urls, replicas=SERVERS),
        signal=build_scrape_signal([page]),
        kubernetes=Kubernetes(server=api, lease="/".join(LEASE)),
        listen=Listen("127.0.0.1", *find_free_ports(3)),
    )


def build_services(home: Path, configs: Mapping[int, Config]) -> list[ProcessPart]:
    """Each service, once for each replica's configuration."""
    parts = []
    for replica, config in configs.items():
        path = home / f"sluice-{replica}.yaml"
        path.write_text(format_config(config), encoding="utf-8")
        for service in SERVICES:
            name = f"{service}-{replica}"
            command = (str(find_program("sluice")), service, "--config", str(path))
            parts.append(ProcessPart(service, name, command, home / f"{name}.log", getattr(config.listen, service)))
    return parts
