"""An agent in every node of the testbed; their flows go to a server."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from services.exporter.observer_pb2 import Flow
from services.plant.real.testbed import Bed
from services.plant.topology import NODES
from tests.support.hubble.capture import LENGTH
from tests.support.hubble.server import HubbleServer

_ROOT = Path(__file__).parents[3]


def report(bed: Bed, server: HubbleServer) -> None:
    """Report every node's packets until the testbed ends."""
    pods = {}
    for place in bed.pods:
        namespace, _, workload = place.workload.partition("/")
        pods[place.address] = {"namespace": namespace, "name": place.name, "workload": workload, "node": place.node}
    for node in NODES:
        devices = [place.device for place in bed.pods if place.node == node]
        plan = json.dumps({"devices": devices, "pods": pods})
        python = ("env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "tests.support.hubble.capture", node, plan)
        agent = bed.start(node, "chrt", "-f", "20", *python, stdout=subprocess.PIPE)
        assert agent.stdout.read(LENGTH.size) == LENGTH.pack(0), f"the agent of {node} does not watch"
        threading.Thread(target=_publish, args=(agent.stdout, server), daemon=True).start()


def _publish(flows: IO[bytes], server: HubbleServer) -> None:
    # The stream ends or is closed with the testbed.
    try:
        while len(head := flows.read(LENGTH.size)) == LENGTH.size:
            server.publish(Flow.FromString(flows.read(LENGTH.unpack(head)[0])))
    except ValueError:
        return
