"""The thread that asks other sources than the host's routes lives on whatever they answer."""

import json
import os
from pathlib import Path

from schemas.config import Config
from schemas.meter import Meter
from services.kube.access import Access
from services.meter.host_network import HostNetwork
from services.meter.main import MeterService
from tests.support.node_network import NodeNetwork
from tests.support.ports import free_port


def test_devices_that_cannot_be_read_are_noted_until_they_can(tmp_path: Path) -> None:
    """The kernel's error, from a file that it refuses to read; nothing is raised."""
    NodeNetwork(tmp_path)
    network = HostNetwork(tmp_path)
    config = Config(domains=(), meter=Meter(endpoints=True))
    service = MeterService(config, Access(f"http://127.0.0.1:{free_port()}"), network, "n1")
    counters, folder = network._files[0], os.open(tmp_path, os.O_RDONLY)
    kept = os.dup(counters)
    try:
        os.dup2(folder, counters)
        service.update_sources()
        assert "irectory" in service._list_problems()["network"]
        os.dup2(kept, counters)
        service.update_sources()
        assert "network" not in json.loads(service.answer("/readyz", {}).body).get("notes", {})
        assert "network" not in service._list_problems()
    finally:
        for file in (folder, kept):
            os.close(file)
        network.close()
