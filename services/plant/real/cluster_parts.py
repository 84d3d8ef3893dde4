"""Runs on a bed what the shipped manifests run on a cluster: the exporter with its echo sidecars, and a meter a node.

    echo sidecars of robot-control and safety-scanner <-- probes -- exporter (beyond the bottleneck) --> sampler
    routes and lxc* counters of n1 and n2 --> a meter for each node --> sampler

The sampler reads nothing else.  The signal is the shipped one but for the addresses: the exporter in ``scrape.urls``,
the meters in ``scrape.meters``.  What the exporter reads from
Hubble on a cluster is not there: the probes alone are measured.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
from msgspec.structs import replace

from schemas.config import Config, Kubernetes, Listen, Scrape, Signal
from schemas.domain import Domain
from schemas.exporter import Exporter, Probe
from services.plant.harness.bandwidth_agent import NAME_LABEL
from services.plant.harness.pipeline import NotReady, find_free_ports, find_program, format_config
from services.plant.harness.processes import Processes
from services.plant.real.testbed import Bed, BedProcess
from services.plant.topology import EXPORTER, NAMESPACE

_ECHO_PORT = "7007"
_EXPORTER_PORT = 9965
_HERE, _THERE = "10.78.0.1", "10.78.0.2"
"""The two ends of the link on which the exporter's page is read: a cluster's nodes have such a network, too."""
_READY_S = 30.0
_POLL_S = 0.05
_PROMPT = ("chrt", "-f", "20")
"""With real-time priority, so that a busy processor does not look like a busy network."""


class ClusterParts:
    """The parts of one bed."""

    def __init__(self, bed: Bed, domain: Domain, *, meters: bool = True, exporter: bool = True) -> None:
        """Choose what runs; without meters nothing measures throughput, without exporter the plant's probes count."""
        self._bed = bed
        self._domain = domain
        self._meters = meters
        self._exporter = exporter
        self._placed: Counter[str] = Counter()

    def place(self, pod: dict[str, Any]) -> tuple[str, str] | None:
        """The node and the address of the bed's next pod of that workload, for the API's Pod; None: there is none."""
        meta = pod["metadata"]
        workload = f"{meta['namespace']}/{(meta.get('labels') or {}).get(NAME_LABEL)}"
        places = [one for one in self._bed.pods if one.workload == workload]
        number = self._placed[workload]
        self._placed[workload] += 1
        return (places[number].node, places[number].address) if number < len(places) else None

    async def start(self, processes: Processes, page: str, api: str, signal: Signal) -> Signal:
        """Start them, wait until they answer, and return the signal with the addresses of their pages.

        Raises:
            NotReady: one does not answer in time.
            ProcessDied: one ended.
        """
        url = await self._start_exporter() if self._exporter else page
        meters: list[str] = []
        if self._meters:
            senders = {one.key for one in self._domain.critical} | {one.key for one in self._domain.targets}
            nodes = sorted({one.node for one in self._bed.pods if one.workload in senders})
            meters = [await self._start_meter(processes, node, api) for node in nodes]
        return replace(signal, source="scrape", scrape=Scrape(urls=(url,), meters=tuple(meters)))

    async def _start_meter(self, processes: Processes, node: str, api: str) -> str:
        keeper = await _wait_for_pid(self._bed.start(node, "sleep", "infinity"))
        [port] = find_free_ports(1)
        listen = Listen("127.0.0.1", meter=port)
        path = processes.home / f"meter-{node}.yaml"
        config = Config(domains=(self._domain,), kubernetes=Kubernetes(server=api), listen=listen)
        path.write_text(format_config(config), encoding="utf-8")
        words = ("meter", "--config", path, "--node", node, "--proc", f"/proc/{keeper}/net")
        name = f"meter-{node}"
        await processes.start(name, find_program("sluice"), *words)

        def runs() -> bool:
            processes.check(name)
            return True

        await _wait_until_ready(name, f"http://127.0.0.1:{port}", runs)
        return f"http://127.0.0.1:{port}/metrics"

    async def _start_exporter(self) -> str:
        critical = [self._bed.pod(one.key) for one in self._domain.critical]
        for place in critical:
            echo = (*_PROMPT, str(find_program("sluice")), "echo", "--udp", _ECHO_PORT, "--tcp", _ECHO_PORT)
            self._bed.start(place.name, *echo)
        place = self._bed.pod(EXPORTER)
        keeper = await _wait_for_pid(self._bed.start(place.name, "sleep", "infinity"))
        # The kernel removes the device of an earlier bed some time after that bed's end.
        await _run_ip("link delete mgmt", may_fail=True)
        await _run_ip(f"link add mgmt type veth peer name mgmt netns {keeper}")
        await _run_ip(f"addr add {_HERE}/30 dev mgmt")
        await _run_ip("link set mgmt up")
        for command in (f"addr add {_THERE}/30 dev mgmt", "link set mgmt up"):
            self._bed.run(place.name, "ip", *command.split())
        probes = tuple(
            Probe(workload=one.workload.partition("/")[2], namespace=NAMESPACE, address=one.address) for one in critical
        )
        config = Config(
            domains=(self._domain,),
            exporter=Exporter(probes=probes),
            listen=Listen("0.0.0.0", exporter=_EXPORTER_PORT),  # noqa: S104 - inside the bed
        )
        path = "/run/exporter.yaml"  # of the bed's own
        self._bed.run(None, "sh", "-c", f"cat > {path}", text=format_config(config))
        # Not one of ``processes``: what is killed in a bed must be reaped by what entered it, or the bed never ends.
        exporter = self._bed.start(place.name, *_PROMPT, str(find_program("sluice")), "exporter", "--config", path)
        await _wait_until_ready("exporter", f"http://{_THERE}:{_EXPORTER_PORT}", lambda: exporter.ended is None)
        return f"http://{_THERE}:{_EXPORTER_PORT}/metrics"


async def _run_ip(command: str, *, may_fail: bool = False) -> None:
    process = await asyncio.create_subprocess_exec("ip", *command.split(), stderr=asyncio.subprocess.PIPE)
    _, wrong = await process.communicate()
    if process.returncode and not may_fail:
        raise NotReady(f"ip {command}: {wrong.decode().strip()}")


async def _wait_for_pid(process: BedProcess) -> int:
    """The process id of what was started in the bed, once it runs."""
    deadline = time.monotonic() + _READY_S
    while (pid := process.pid) is None:
        if time.monotonic() > deadline:
            raise NotReady("a process of the bed does not start")
        await asyncio.sleep(_POLL_S)
    return pid


async def _wait_until_ready(name: str, url: str, runs: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    why = "not asked yet"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while time.monotonic() < deadline:
            if not runs():
                raise NotReady(f"{name} ended: {why}")
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
                    why = await answer.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                why = str(error)
            await asyncio.sleep(_POLL_S)
    raise NotReady(f"{name} is not ready after {_READY_S:g} s: {why}")
