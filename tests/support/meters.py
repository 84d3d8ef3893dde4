"""``sluice meter`` as a process, and its page."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.plant.kube_emulator.emulator import Emulator
from tests.support.commands import SLUICE
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

CONFIG = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}]
    targets: [{deployment: upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
"""


class RunningMeter:
    """A process and its address."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        """See ``run_meter``."""
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str = "/metrics") -> tuple[int, str]:
        """Status and body of a page; status 0 while the process does not listen."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def sent(self) -> dict[str, int]:
        """Bytes by pod, as the page has them."""
        found = {}
        for line in self.get()[1].splitlines():
            if line.startswith("container_network_transmit_bytes_total{"):
                labels, _, numbers = line.partition("} ")
                found[labels.partition('pod="')[2].partition('"')[0]] = int(numbers.split()[0])
        return found


def add_pod(emulator: Emulator, name: str, address: str, node: str = "n1") -> None:
    """Add a running pod without an owner: the emulator removes the pods of an owner that it has not."""
    tree = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "factory"},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app:1"}]},
    }
    emulator.apply([tree])
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    emulator.objects.update(("pods", "factory", name), lambda tree: tree | {"status": status}, status=True)


def build_emulator(port: int | None = None) -> Emulator:
    """An API without a kubelet."""
    emulator = Emulator(starts_after=None, port=port)
    emulator.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "factory"}}])
    return emulator


@contextmanager
def run_meter(
    folder: Path, kubernetes: dict[str, str], proc: Path, *more: str, node: str = "n1", meter: str = "{}"
) -> Iterator[RunningMeter]:
    """Run ``sluice meter`` for a node while the context lasts.

    Args:
        folder: for its configuration.
        kubernetes: that section.
        proc: where it reads the network.
        more: arguments.
        node: the node's name.
        meter: that section, as YAML.
    """
    port = free_port()
    config = folder / f"meter-{port}.yaml"
    listen = json.dumps({"host": "127.0.0.1", "meter": port})
    config.write_text(CONFIG + f"kubernetes: {json.dumps(kubernetes)}\nlisten: {listen}\nmeter: {meter}\n")
    with subprocess.Popen([SLUICE, "meter", "--config", config, "--node", node, "--proc", proc, *more]) as process:
        try:
            yield RunningMeter(process, port)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
