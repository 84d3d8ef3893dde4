"""A Kubernetes API in the exporter's namespace; passes the bandwidth agent's limits on to the testbed.

Runs in the testbed: ``python -m tests.support.hubble.cluster CONFIG POD=TARGET...``.  It serves an emulated API
on port 8001 with the factory's Deployments, and writes a line ``POD KBIT`` for each limit that the
agent sets.  The parent process applies these limits to the plant.
"""

import asyncio
import sys
from pathlib import Path

from services.plant.harness.bandwidth_agent import BandwidthAgent
from services.plant.harness.manifests import build_manifests
from services.plant.interface import Pod
from services.plant.kube_emulator.emulator import Emulator
from services.plant.workloads import Apps
from services.runtime.config_loader import load

API = 8001


class Orders:
    """A plant that runs in another process."""

    def __init__(self, pods: list[Pod]) -> None:
        """Take the names of its pods."""
        self.pods = pods

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Write the limit to standard output."""
        print(pod, kbit, flush=True)


async def main() -> None:
    """Serve until killed."""
    config = load(Path(sys.argv[1]))
    pods = [Pod(*pair.split("=", 1)) for pair in sys.argv[2:]]
    emulator = Emulator(port=API)
    emulator.apply(build_manifests(Apps(), config.domains[0]))
    async with emulator as url:
        await BandwidthAgent(url, [Orders(pods)]).run()


if __name__ == "__main__":
    asyncio.run(main())
