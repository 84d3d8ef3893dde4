"""``kubectl sluice`` as a reader of the README would type it, on the cluster that README's commands installed.

kubectl, API server and bus are real.  There is no kubelet, so a part of one serves the forwarded port.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from schemas.config import BusConfig
from services.actuator.ownership import KEY, OwnershipRecord
from services.bus.bus import Bus
from tests.support.actuators import Decider
from tests.support.kube.forwarding_kubelet import ForwardingKubelet, start_pod
from tests.support.kube.manifests import BUS_USERS, MANIFESTS
from tests.support.kube.servers import BANDWIDTH, MERGE_PATCH
from tests.support.nats_server import NatsServer
from tests.support.readme import Installed

pytestmark = pytest.mark.apiserver

PAUSED = "sluice.dev/paused"
UPLOAD = "/apis/apps/v1/namespaces/factory/deployments/telemetry-upload"


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment variables, for the time of a context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def passwords(installed: Installed) -> dict[str, str]:
    """The bus users' passwords, as the cluster has them."""
    data = installed.server.request("GET", "/api/v1/namespaces/sluice/secrets/sluice-bus")["data"]
    return {user: base64.b64decode(data[user]).decode() for user in BUS_USERS}


@pytest.fixture
async def kubelet(installed: Installed, tmp_path: Path) -> AsyncIterator[ForwardingKubelet]:
    """The bus with the manifests' users and one decision on it, behind the pod ``nats-0``."""
    text = (MANIFESTS / "nats.conf").read_text(encoding="utf-8")
    known = passwords(installed)
    environment = {f"{user.upper()}_PASSWORD": password for user, password in known.items()}
    settings = text[text.index("authorization {") :]
    with variables(POD_NAME="nats-0", **environment), NatsServer(tmp_path / "nats", settings) as nats:
        for user in ("actuator", "decision"):
            with variables(SLUICE_NATS_PASSWORD=known[user]):
                settings_of = BusConfig(servers=(nats.url,), user=user)
                async with Bus.connect(settings_of, user, lambda _: None) as bus:
                    if user == "actuator":
                        assert await bus.ensure_streams() == []
                    else:
                        await Decider(bus, "factory", "factory").publish_limit("60M", "telemetry-upload")
        one = ForwardingKubelet({4222: nats.port})
        async with one.running(installed.server, "worker-9"):
            await asyncio.to_thread(start_pod, installed.server, "sluice", "nats-0", "worker-9")
            yield one


def annotate(installed: Installed, changes: dict[str, str | None]) -> None:
    """Change annotations of the Deployment telemetry-upload."""
    installed.server.request("PATCH", UPLOAD, {"metadata": {"annotations": changes}}, MERGE_PATCH)


def annotations(installed: Installed) -> dict[str, Any]:
    """Those of the Deployment telemetry-upload."""
    tree = installed.server.request("GET", UPLOAD)
    found: dict[str, Any] = tree["metadata"].get("annotations") or {}
    return found


WATCH = """
kubectl sluice tap --since 1h --kind decision > {out} & pid=$!
until grep -q telemetry-upload {out} || ! kill -0 $pid; do sleep 0.1; done
kill -TERM $pid; wait $pid; echo "code $?"; cat {out}
pgrep -f 'port-forward svc/nats :422[2]' || true; ls -d ${{TMPDIR:-/tmp}}/kubectl-sluice-* 2>&1 || true
"""


async def test_it_finds_everything_by_itself(installed: Installed, kubelet: ForwardingKubelet, tmp_path: Path) -> None:
    """Without an export or an option, the bus is read; a command that is ended leaves nothing behind."""
    watched = await asyncio.to_thread(installed.type, WATCH.format(out=tmp_path / "out"))
    code, line, *left = watched.output.splitlines()
    assert code == "code 0"  # a signal is the end of `tap`
    assert "telemetry-upload" in line
    assert len(left) == 1, watched.output
    assert "No such file" in left[0]
    assert kubelet.connections >= 1
    explained = await asyncio.to_thread(installed.type, "kubectl sluice explain factory")
    assert "set by the test" in explained.output, explained.output
    checked = await asyncio.to_thread(installed.type, "kubectl sluice check --offline --cluster")
    assert "0 errors" in checked.output, checked.output
    record = OwnershipRecord(action="", cause="decision", value="60M", limit=60_000, at=1, found="90M")
    await asyncio.to_thread(annotate, installed, {BANDWIDTH: "60M", KEY: json.encode(record).decode()})
    restored = await asyncio.to_thread(installed.type, "kubectl sluice restore")
    assert restored.code == 0, restored.output
    assert "telemetry-upload: 60M -> 90M" in restored.output
    assert "not reported" not in restored.output
    after = annotations(installed)
    assert (after[BANDWIDTH], KEY in after) == ("90M", False)
    await asyncio.to_thread(annotate, installed, {BANDWIDTH: None})


def test_pause_and_resume(installed: Installed) -> None:
    """The annotation is set and removed on the one target that is named; others are refused by name."""
    paused = installed.type("kubectl sluice pause telemetry-upload --reason 'maintenance of the uplink'")
    assert paused.code == 0, paused.output
    assert annotations(installed)[PAUSED] == "maintenance of the uplink"
    resumed = installed.type("kubectl sluice resume factory/telemetry-upload")
    assert "handed back" in resumed.output
    assert PAUSED not in annotations(installed)
    unknown = installed.type("kubectl sluice pause robot-control")
    assert unknown.code == 2
    assert "is no target: factory/telemetry-upload, factory/erp-dashboard" in unknown.output


def test_numbered_actuators_are_found(installed: Installed) -> None:
    """With `components/shards` the actuator is a StatefulSet; its configuration is found all the same."""
    apps = "/apis/apps/v1/namespaces/{}/{}"
    spec = installed.server.request("GET", apps.format("sluice", "deployments/sluice-actuator"))["spec"]
    pod = spec["template"]["spec"]
    (name,) = [one["configMap"]["name"] for one in pod["volumes"]]
    config = installed.server.request("GET", f"/api/v1/namespaces/sluice/configmaps/{name}")["data"]
    installed.server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "numbered"}})
    body: dict[str, Any] = {"metadata": {"name": name}, "data": config}
    installed.server.request("POST", "/api/v1/namespaces/numbered/configmaps", body)
    kept = {key: spec[key] for key in ("selector", "template")}
    body = {"metadata": {"name": "sluice-actuator"}, "spec": {**kept, "serviceName": "x", "replicas": 0}}
    installed.server.request("POST", apps.format("numbered", "statefulsets"), body)
    unknown = installed.type("kubectl sluice -n numbered pause robot-control")
    assert "is no target: factory/telemetry-upload" in unknown.output


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("kubectl sluice -n elsewhere tap", "is Sluice in another namespace (-n)?"),
        ("kubectl sluice --context nowhere tap", "nowhere"),
        ("kubectl sluice tap", "error: "),  # no node has the bus's pod, so that no port can be forwarded
    ],
)
def test_what_is_missing_is_named(installed: Installed, command: str, text: str) -> None:
    """It ends with one line that says what it could not find."""
    done = installed.type(command)
    assert done.code == 4, done.output
    assert text in done.output
    assert "Traceback" not in done.output


def test_help_needs_no_cluster(installed: Installed) -> None:
    """Help and shell completion work without a context."""
    done = installed.type("KUBECONFIG=/nowhere kubectl sluice pause --help")
    assert "--reason" in done.output
    done = installed.type(
        "_KUBECTL_SLUICE_COMPLETE=bash_complete COMP_WORDS='kubectl-sluice pau' COMP_CWORD=1 kubectl-sluice"
    )
    assert "pause" in done.output
