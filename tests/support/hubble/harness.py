"""The factory on real packets with an exporter, and readers for the exporter's pages."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from services.plant.real.plant import RealPlant, parameters
from services.plant.real.testbed import Bed, BedProcess
from services.plant.topology import BOTTLENECK, FABRIC, ROBOT, SCANNER, TELEMETRY
from services.plant.workloads import Apps
from tests.support.hubble.agents import report
from tests.support.hubble.server import HubbleServer
from tests.support.waiting import PATIENCE_S

SLUICE = str(Path(sys.executable).parent / "sluice")
PLACE = "office-0"
"""The exporter's pod is on the far side of the bottleneck, so that the answers to its probes cross it."""
PORTS = {"exporter": 9965, "sampler": 9101, "decision": 9102, "actuator": 9103}
_FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
except OSError:
    pass
"""


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until a condition holds; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def value(page: str, name: str, **labels: str) -> float | None:
    """The sum over a page's series of a name with these labels; None if there is none."""
    found = None
    for line in page.splitlines():
        match = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{text}"' in (match[1] or "") for key, text in labels.items()):
            found = (found or 0.0) + float(match[2])
    return found


class Factory:
    """The testbed, its traffic, and a Hubble-compatible server that receives the flows of all nodes."""

    def __init__(self, bed: Bed, plant: RealPlant, home: Path, relay: str) -> None:
        """Take the running testbed and the address of the Hubble server; files go below ``home``."""
        self.bed = bed
        self.plant = plant
        self.home = home
        self.config = home / "sluice.yaml"
        self.relay = relay

    def configure(self, *, probe: bool, more: str = "", fail_safe: str = "5M") -> None:
        """Write the configuration that all services read, with or without the prober."""
        robot = self.bed.pod(ROBOT)
        probes = f"[{{workload: robot-control, namespace: factory, address: {robot.address}}}]" if probe else "[]"
        self.config.write_text(
            "domains:\n"
            "  - name: floor\n"
            "    critical: [{workload: robot-control, namespace: factory}]\n"
            "    targets:\n"
            f"      - {{deployment: telemetry-upload, namespace: factory, min: 1M, max: 20M, fail_safe: {fail_safe}}}\n"
            f"exporter:\n  relay: {{address: '{self.relay}'}}\n  probes: {probes}\n{more}"
        )

    def start(self, service: str) -> BedProcess:
        """Start a service in the exporter's namespace."""
        return self.bed.start(PLACE, SLUICE, service, "--config", str(self.config))

    def sidecar(self, workload: str, *arguments: str) -> None:
        """Start ``sluice echo`` beside a workload."""
        place = self.bed.pod(workload).name
        echo = self.bed.start(place, "chrt", "-f", "20", SLUICE, "echo", *arguments, stdout=subprocess.PIPE)
        assert echo.stdout.readline().startswith(b"listening")

    def get(self, service: str, path: str) -> str:
        """A page of a service, whatever its status; empty while it does not listen."""
        url = f"http://127.0.0.1:{PORTS[service]}{path}"
        return self.bed.run(PLACE, sys.executable, "-c", _FETCH, url)

    def unleash(self) -> None:
        """Remove the noisy neighbour's limit."""
        for pod in self.plant.pods:
            if pod.target == TELEMETRY:
                self.plant.set_limit(pod.name, None)


# The plant's packets are as small as a SYN, because on a slow link a larger packet takes longer.
APPS = Apps(capacity=20_000, probe=32).with_loads({SCANNER: 5_000})


@contextmanager
def running(home: Path, apps: Apps = APPS, besides: int = 0) -> Iterator[Factory]:
    """Run a factory with the noisy neighbour at a safe limit.

    Args:
        home: where files go.
        apps: the apps that share the bottleneck; a target without a limit is the noisy neighbour.
        besides: other traffic on the bottleneck, kbit/s on the wire.
    """
    with (
        # A Unix socket's path has at most 107 characters, which a test's folder in a deep checkout may exceed.
        TemporaryDirectory(prefix="h") as short,
        Bed(parameters(apps)) as bed,
        HubbleServer(f"unix:{short}/s") as server,
        RealPlant(bed, apps) as plant,
    ):
        for pod in plant.pods:
            if plant.limits[pod.name] is None:
                plant.set_limit(pod.name, (apps.safe_budget() - besides) * 2 // 3)
        # Like a real link of that rate, it sends packets one after another.
        queue = f"tbf rate {apps.capacity}kbit burst 1600 limit {bed.parameters.fifo_bytes}"
        bed.run(FABRIC, "tc", "qdisc", "replace", "dev", BOTTLENECK, "root", "handle", "1:", *queue.split())
        report(bed, server)
        yield Factory(bed, plant, home, f"unix:{short}/s")
