"""README's install section, run literally on a real API server."""

import json
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
import yaml

from services.runtime.config_loader import load
from tests.support.kube.manifests import BUS_USERS, MANIFESTS, objects
from tests.support.readme import Installed, Typed, commands

pytestmark = pytest.mark.apiserver

CHECK = "sluice check"
APPLY = "kubectl apply -k manifests"


def of(installed: Installed, beginning: str) -> Typed:
    """The one command with this prefix."""
    (one,) = [one for one in installed.typed if one.command.startswith(beginning)]
    return one


def test_every_command_succeeds(installed: Installed) -> None:
    """All commands succeed, except the check before the install, and except the kinds that only Cilium defines.

    kubectl continues after kinds that the server does not know, and ends with 1.
    """
    transcript = "\n".join(f"$ {one.command}\n{one.output}" for one in installed.typed)
    wrong = [one.command for one in installed.typed if one.code]
    assert [command for command in wrong if not command.startswith((CHECK, APPLY))] == [], transcript
    assert len(installed.typed) >= 4
    complaints = [line for line in of(installed, APPLY).output.splitlines() if "error" in line or "not found" in line]
    assert len(complaints) == 3
    assert all('no matches for kind "CiliumNetworkPolicy"' in line for line in complaints), complaints
    print("\n".join(f"{one.code} $ {one.command}" for one in installed.typed))


def test_everything_is_on_the_server_afterwards(installed: Installed) -> None:
    """Each object that the kustomization has can be read back."""
    wanted = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in objects()
        if "cilium.io" not in one["apiVersion"]
    }
    kinds = ",".join(sorted({kind for kind, _, _ in wanted}))
    listed = json.loads(installed.type(f"kubectl get {kinds} --all-namespaces -o json").output)["items"]
    there = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in listed}
    assert wanted <= there
    secret = installed.server.request("GET", "/api/v1/namespaces/sluice/secrets/sluice-bus")
    assert set(secret["data"]) == set(BUS_USERS)
    assert len(set(secret["data"].values())) == len(BUS_USERS)


def test_the_check_finds_the_factory_missing_before_and_nothing_after(installed: Installed) -> None:
    """Before the install four Deployments, two echo Services and the meter are missing; afterwards nothing is."""
    before = of(installed, CHECK)
    assert before.code == 1
    found = [line for line in before.output.splitlines() if line.startswith(("error", "warning"))]
    missing = [line for line in found if "deployment factory/" in line and "not found" in line]
    silent = [line for line in found if "there is no Service factory/" in line]
    assert (len(missing), len(silent), len(found)) == (4, 2, 7), before.output
    after = installed.type(before.command)
    assert after.code == 0, after.output
    assert "nothing found" in after.output


def test_the_bus_is_watched_through_a_forwarded_port(installed: Installed) -> None:
    """With the exported variables, the tools connect to the forwarded port as the bus's reader, with its password."""
    (forward,) = [one for one in commands("Watch, record, replay") if "port-forward" in one]
    exports = [one for one in commands("Watch, record, replay") if one.startswith("export ")]
    assert forward == "kubectl -n sluice port-forward svc/nats 4222 &"
    nats = installed.server.request("GET", "/api/v1/namespaces/sluice/services/nats")
    assert [port["port"] for port in nats["spec"]["ports"]] == [4222]
    result = installed.type("; ".join([*exports, "env"]))
    environment = dict(line.split("=", 1) for line in result.output.splitlines() if line.startswith("SLUICE_"))
    secret = installed.server.request("GET", "/api/v1/namespaces/sluice/secrets/sluice-bus")
    assert environment.pop("SLUICE_NATS_PASSWORD") == b64decode(secret["data"]["reader"]).decode()
    bus = load(MANIFESTS / "config.yaml", environment).bus
    assert (bus.servers, bus.user) == (("nats://127.0.0.1:4222",), "reader")
    assert f"user: {bus.user}\n" in (MANIFESTS / "nats.conf").read_text()
    assert all(line in (MANIFESTS.parent / "docs" / "cluster.md").read_text() for line in (forward, *exports))


def test_a_registry_is_named_in_one_place(tmp_path: Path) -> None:
    """With ``newName`` in the kustomization, all of our images come from that registry, including the sidecars'."""
    folder = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, folder)
    path = folder / "kustomization.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for image in tree["images"]:
        image["newName"] = f"registry.example/{image['name']}"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    templates = [one["spec"]["template"]["spec"] for one in objects(folder) if "template" in one.get("spec", {})]
    images = {container["image"] for spec in templates for container in spec["containers"]}
    ours = {image for image in images if "sluice" in image}
    assert ours == {"registry.example/sluice:0.1.0", "registry.example/sluice-factory:0.1.0"}
    assert images - ours == {"nats:2.15.1-alpine", "nginx:1.28.0-alpine"}


def test_a_bus_without_a_volume(tmp_path: Path) -> None:
    """The component replaces the claim by a volume with the pod's lifetime, and changes nothing else."""
    folder = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, folder)
    before = objects(folder)
    with (folder / "kustomization.yaml").open("a", encoding="utf-8") as kustomization:
        kustomization.write("components: [components/volatile-bus]\n")
    changed = [(old, new) for old, new in zip(before, objects(folder), strict=True) if old != new]
    ((old, new),) = changed
    assert new["metadata"] == old["metadata"]
    assert "volumeClaimTemplates" not in new["spec"]
    (data,) = [one for one in new["spec"]["template"]["spec"]["volumes"] if one["name"] == "data"]
    assert data["emptyDir"] == {"sizeLimit": "4Gi"}
