"""What the meter reads besides the host's routes: a kubelet's page, and Cilium's endpoints."""

import hashlib
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from services.kube.access import Access
from services.kube.objects import Unavailable
from services.kube.plain_client import PlainClient
from services.meter.endpoints import EndpointDevices
from services.meter.kubelet import KubeletCounters
from services.meter.pod_watch import PATH as PATH_OF_PODS
from services.meter.pod_watch import PodWatch
from services.meter.pods import NodePod
from tests.support.cadvisor_page import UID, Sandbox, write_page
from tests.support.http_server import serve_requests
from tests.support.meters import add_pod, build_emulator, run_meter
from tests.support.node_network import NodeNetwork, node_pod
from tests.support.waiting import until

SANDBOX = "3b8977b0dd99a56e2e4c8369822d02c50cbb6e8a2cbae8ee27ce399393445d10"
TOKEN = "a-token"


class Answers(BaseHTTPRequestHandler):
    """Answers every request with what its subclass has at that path."""

    status = 200
    bodies: dict[str, bytes] = {}  # noqa: RUF012 - replaced as a whole
    asked: list[str] = []  # noqa: RUF012
    cut = 0
    token = ""
    """Where it is given, whoever does not show it is refused."""

    def do_GET(self) -> None:
        """Answer."""
        kind, path = type(self), self.path.partition("?")[0]
        kind.asked.append(path)
        status, body = kind.status, kind.bodies.get(path)
        if kind.token and self.headers["Authorization"] != f"Bearer {kind.token}":
            status = 401
        elif body is None and status == 200:
            status = 404
        body = body if status == 200 and body is not None else b'{"reason":"x","message":"refused"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - kind.cut])
        self.close_connection = bool(kind.cut)


def answering(bodies: dict[str, bytes], **traits: Any) -> type[Answers]:
    """A server's handler of the test's own."""
    return type("OwnAnswers", (Answers,), {"bodies": bodies, "asked": [], **traits})


def uid_pod(name: str = "a", uid: str = UID) -> NodePod:
    """A pod with this uid."""
    pod = node_pod(name, "10.0.1.5")
    return replace(pod, metadata=replace(pod.metadata, uid=uid))


def endpoint(name: str, owner: str, **identifiers: str) -> bytes:
    """A CiliumEndpoint, as Cilium writes it."""
    meta = {"name": name, "namespace": "factory", "uid": "cep", "resourceVersion": "933"}
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": owner}]
    status = {"encryption": {}, "external-identifiers": identifiers, "networking": {}, "state": "ready"}
    tree = {"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "status": status}
    return json.dumps(tree | {"metadata": meta | {"ownerReferences": owners}}).encode()


def name_of(attachment: str) -> str:
    """The device that Cilium makes for an attachment."""
    return "lxc" + hashlib.sha256(attachment.encode()).hexdigest()[:12]


def test_a_page_that_cannot_be_read_leaves_no_counters_and_a_reason() -> None:
    """Refused, cut off within a line and between two, and not there; then it is read."""
    page = b"".join(write_page([Sandbox("a", 5)]))
    kubelet = answering({"/metrics/cadvisor": page})
    with serve_requests(kubelet) as url:
        counters = KubeletCounters(PlainClient(Access(url), 5.0), 5.0)
        last_line = len(page) - page.rindex(b"\n", 0, -1) - 1
        for trait, value, reason in (
            ("status", 403, "403"),
            ("cut", 3, "ended"),
            ("cut", last_line, "ended"),
            ("bodies", {}, "404"),
        ):
            before = getattr(kubelet, trait)
            counters.counters = {("factory", "a"): counters.counters.get(("factory", "a"))}  # type: ignore[dict-item]
            setattr(kubelet, trait, value)
            counters.update((uid_pod(),))
            assert not counters.counters, trait
            assert reason in str(counters.problem)
            setattr(kubelet, trait, before)
        counters.update((uid_pod(),))
        assert counters.problem is None
        assert counters.counters["factory", "a"].sent == 5


@pytest.mark.parametrize(
    ("identifiers", "attachment"),
    [
        ({"cni-attachment-id": f"{SANDBOX}:eth0", "container-id": SANDBOX}, f"{SANDBOX}:eth0"),
        ({"container-id": SANDBOX}, SANDBOX),
        ({}, None),
    ],
    ids=["1.14 and later", "before 1.14", "not yet"],
)
def test_a_device_is_named_by_its_pods_endpoint(identifiers: dict[str, str], attachment: str | None) -> None:
    """Where Cilium does not tell the attachment, it made the device by the sandbox alone."""
    path = "/apis/cilium.io/v2/namespaces/factory/ciliumendpoints/a"
    with serve_requests(answering({path: endpoint("a", UID, **identifiers)})) as url:
        devices = EndpointDevices(PlainClient(Access(url), 5.0))
        devices.update((uid_pod(),), ())
    assert devices.names == ({UID: name_of(attachment)} if attachment else {})


def test_an_endpoint_of_a_pod_that_had_the_same_name_is_not_believed() -> None:
    """A StatefulSet's pod is made again under its name; its endpoint comes later."""
    path = "/apis/cilium.io/v2/namespaces/factory/ciliumendpoints/a"
    identifiers = {"cni-attachment-id": f"{SANDBOX}:eth0"}
    api = answering({path: endpoint("a", "0683e192-de93-11ed-855f-b496913f5328", **identifiers)})
    now = 0.0
    with serve_requests(api) as url:
        devices = EndpointDevices(PlainClient(Access(url), 5.0), lambda: now)
        devices.update((uid_pod(),), ())
        assert not devices.names
        api.bodies = {path: endpoint("a", UID, **identifiers)}
        now += 1
        devices.update((uid_pod(),), ())
        assert devices.names == {UID: name_of(f"{SANDBOX}:eth0")}


def test_it_asks_less_and_less_for_a_pod_without_a_device_and_not_at_all_for_others() -> None:
    """A node with a hundred pods that Cilium does not manage must not ask a hundred times a second."""
    api = answering({})
    now = 0.0
    with serve_requests(api) as url:
        devices = EndpointDevices(PlainClient(Access(url), 5.0), lambda: now)
        devices.names = {"known": "lxc1"}
        for second in range(600):
            now = float(second)
            devices.update((uid_pod(), uid_pod("b", "known")), ("lxc1",))
        assert len(api.asked) < 20
        assert {path.rpartition("/")[2] for path in api.asked} == {"a"}
        # Its sandbox was made again: the device that was known is gone.
        devices.update((uid_pod("b", "known"),), ())
        assert api.asked[-1].endswith("/b")
        api.status, now = 403, 1000.0
        devices.update((uid_pod("c", "c"),), ())
        assert "403" in str(devices.problem)


@contextmanager
def serve_kubelet(folder: Path, handler: type[Answers]) -> Iterator[int]:
    """A kubelet, whose certificate nobody signed; gives its port."""
    key, certificate = folder / "kubelet.key", folder / "kubelet.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=n1", "-days", "1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with serve_requests(handler, context) as address:
        yield int(address.rpartition(":")[2])


@pytest.mark.openssl
async def test_a_meter_without_the_hosts_network_reads_its_kubelet(tmp_path: Path) -> None:
    """Its own network has no pod's route; the page names the source, and each pod that the kubelet does not show."""
    network = NodeNetwork(tmp_path)
    emulator = build_emulator()
    add_pod(emulator, "a", "10.0.1.5")
    add_pod(emulator, "unseen", "10.0.1.6")
    # The emulator's own uids are none that a control group could show.
    page = b"".join(write_page([Sandbox("a", 23_174_557, group="/kubepods/{sandbox}"), Sandbox("gone", 9)]))
    kubelet = answering({"/metrics/cadvisor": page}, token=TOKEN)
    with serve_kubelet(tmp_path, kubelet) as port:
        async with emulator as url:
            config = {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
            }
            (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
            section = f"{{kubelet: unverified, kubelet_port: {port}}}"
            access = {"kubeconfig": str(tmp_path / "kubeconfig")}
            with run_meter(tmp_path, access, network.folder, meter=section) as meter:
                await until(lambda: meter.sent() == {"a": 23_174_557}, meter.sent)
                text = meter.get()[1]
                assert 'pod="a",node="n1",source="kubelet"} 23174557 1795814400000\n' in text
                assert 'sluice_meter_pods{node="n1",source="kubelet"} 1' in text
                assert "kubelet: its page has no counter of the pod" in text
                assert meter.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("body", "cut", "why"),
    [(b" " * 9_000_000, 0, "larger than 8388608 bytes"), (b'{"metadata": {}, "items": []}', 5, "ended 5 bytes early")],
)
def test_an_answer_that_is_too_long_or_cut_off_is_given_up(body: bytes, cut: int, why: str) -> None:
    """Neither fills the meter's memory nor counts as a list without pods."""
    with serve_requests(answering({PATH_OF_PODS: body}, cut=cut)) as url:
        watch = PodWatch(PlainClient(Access(url), 5.0), "node-1")
        with pytest.raises(Unavailable, match=why):
            next(watch.follow())
    assert not watch.listed.is_set()
