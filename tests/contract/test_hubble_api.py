"""The wire format: generated code matches our .proto, and a client of another .proto reads the same server."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.hubble.flows import CELL, ROBOT, UPLOAD, Talk
from tests.support.hubble.server import HubbleServer
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
CLIENT = """
import json, sys
import grpc, other_pb2, other_pb2_grpc
stub = other_pb2_grpc.ObserverStub(grpc.insecure_channel(sys.argv[1]))
asked = other_pb2.GetFlowsRequest(number=100, first=True)
asked.whitelist.add(source_pod=["factory/robot-control-"], protocol=["tcp"])
asked.whitelist.add(protocol=["udp"])
for response in stub.GetFlows(asked):
    kind = response.WhichOneof("response_types")
    if kind == "node_status":
        print(json.dumps([kind, response.node_status.state_change, list(response.node_status.node_names)]))
    else:
        flow = response.flow
        transport = getattr(flow.l4, flow.l4.WhichOneof("protocol"))
        print(json.dumps([
            kind, flow.time.ToNanoseconds(), flow.IP.source, transport.destination_port,
            flow.source.pod_name, flow.destination.namespace, response.node_name,
        ]))
"""


def protoc(*arguments: str) -> None:
    """Run the compiler, with Google's own messages on its path."""
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, timeout=PATIENCE_S)


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """The committed code is what ``make proto`` writes."""
    name = "services/exporter/observer.proto"
    protoc(f"-I{ROOT}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", str(ROOT / name))
    for ending in ("_pb2.py", "_pb2.pyi"):
        path = name.removesuffix(".proto") + ending
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), f"{path} differs: run `make proto`"


@pytest.mark.parametrize("sort", [False, True])
def test_a_client_with_another_proto_reads_the_server(tmp_path: Path, sort: bool) -> None:
    """A client with stubs from its own .proto gets the nodes, and the flows that pass its filters."""
    here = str(Path(__file__).parents[1] / "support" / "hubble")
    protoc(f"-I{here}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", f"{here}/other.proto")
    (tmp_path / "client.py").write_text(CLIENT)
    now = time.time_ns() - 2_000_000_000
    with HubbleServer(sort=sort) as server:
        server.publish(Talk().ask(now, 11))
        server.publish(Talk(client=UPLOAD).ask(now + 1, 11))
        server.publish(Talk("udp", client=UPLOAD, service=9).ask(now + 2, 11))
        client = [sys.executable, str(tmp_path / "client.py"), server.address]
        done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["node_status", 1, ["n1"]],
        ["flow", now, ROBOT.address, 443, ROBOT.pod, CELL.namespace, "n1"],
        ["flow", now + 2, UPLOAD.address, 9, UPLOAD.pod, CELL.namespace, "n1"],
    ]
