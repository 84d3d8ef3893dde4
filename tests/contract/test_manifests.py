"""The manifests on a real API server: accepted as they are, and nobody may do more than the table says.

Cilium's own policies are left out there: the API server of these tests (v1.20 built with Go 1.19)
dies of any custom resource, in its JSON library.  They are checked as text instead.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.bus.subjects import Subjects
from services.operation.config import load
from tests import apiserver

MANIFESTS = Path(__file__).parents[2] / "manifests"

ALLOWED = {
    ("actuator", "factory", "deployments.apps"): {"get", "list", "watch", "patch"},
    ("actuator", "factory", "pods"): {"get", "list", "watch", "patch"},
    ("actuator", "factory", "events"): {"create"},
}
"""Everything that the services' accounts may do."""

ACCOUNTS = ("sampler", "decision", "actuator")
NAMESPACES = ("factory", "sluice", "kube-system", "default")
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = (
    *("deployments.apps", "replicasets.apps", "daemonsets.apps", "pods", "pods/exec", "pods/eviction"),
    *("events", "secrets", "configmaps", "serviceaccounts", "nodes", "roles.rbac.authorization.k8s.io"),
    *("ciliumnetworkpolicies.cilium.io", "services", "namespaces"),
)


def kubectl(server: apiserver.ApiServer, *words: str, stdin: str | None = None) -> str:
    """Run kubectl as the administrator; gives what it printed."""
    program = shutil.which("kubectl")
    assert program is not None, "kubectl is not on PATH"
    config = {"KUBECONFIG": str(server.kubeconfig())}
    done = subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, check=False, env=os.environ | config
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects() -> list[dict[str, Any]]:
    """Every object that ``kubectl apply -k manifests`` applies."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("needs the program kubectl")
    return list(yaml.safe_load_all(subprocess.check_output([program, "kustomize", str(MANIFESTS)])))


def builtin() -> str:
    """The objects that need no custom resource definition, as YAML."""
    return yaml.safe_dump_all(one for one in objects() if "cilium.io" not in one["apiVersion"])


@pytest.fixture(scope="module")
def installed() -> Iterator[apiserver.ApiServer]:
    """An API server on which README's install commands were run."""
    with apiserver.running() as server:
        kubectl(server, "create", "namespace", "sluice")
        users = [f"--from-literal={user}=p-{user}" for user in ("sampler", "decision", "actuator", "reader")]
        kubectl(server, "-n", "sluice", "create", "secret", "generic", "sluice-bus", *users)
        kubectl(server, "apply", "-f", "-", stdin=builtin())
        yield server


@pytest.mark.apiserver
def test_everything_is_accepted(installed: apiserver.ApiServer) -> None:
    """Applied twice: the second time nothing changes, so the server stored what the files say.

    kubectl calls a StatefulSet with volume claims "configured" each time; its generation tells.
    """
    again = kubectl(installed, "apply", "-f", "-", stdin=builtin()).splitlines()
    assert len(again) >= 29
    assert {line for line in again if not line.endswith("unchanged")} <= {"statefulset.apps/nats configured"}
    nats = installed.request("GET", "/apis/apps/v1/namespaces/sluice/statefulsets/nats")
    assert nats["metadata"]["generation"] == 1


def may(server: apiserver.ApiServer, account: str, namespace: str, verb: str, resource: str) -> bool:
    """Ask the server's authoriser."""
    name, _, group = resource.partition(".")
    name, _, sub = name.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": sub}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:sluice:sluice-{account}", "resourceAttributes": attributes},
    }
    answer: Any = server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.apiserver
def test_nobody_may_do_more_than_the_table_says(installed: apiserver.ApiServer) -> None:
    """The whole matrix of accounts, namespaces, resources and verbs."""
    asked = 0
    for account, namespace, resource in itertools.product(ACCOUNTS, NAMESPACES, RESOURCES):
        granted = {verb for verb in VERBS if may(installed, account, namespace, verb, resource)}
        assert granted == ALLOWED.get((account, namespace, resource), set()), (account, namespace, resource)
        asked += len(VERBS)
    print(f"{asked} questions, {sum(map(len, ALLOWED.values()))} allowed")


def test_what_is_configured_is_in_the_application() -> None:
    """Each target and critical workload is a Deployment; each target's template carries its fail-safe limit."""
    deployments = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["spec"]["template"]
        for one in objects()
        if one["kind"] == "Deployment"
    }
    for domain in load(MANIFESTS / "config.yaml", {}).domains:
        for target in domain.targets:
            annotations = deployments[target.namespace, target.deployment]["metadata"]["annotations"]
            assert annotations["kubernetes.io/egress-bandwidth"] == str(target.fail_safe)
            assert annotations["bandwidth.cilium.io/priority"] == "bestEffort"
        for critical in domain.critical:
            template = deployments[critical.namespace, critical.workload]
            assert template["metadata"]["annotations"]["bandwidth.cilium.io/priority"] == "guaranteed"
            assert "kubernetes.io/egress-bandwidth" not in template["metadata"]["annotations"]
            assert "echo" in [container["name"] for container in template["spec"]["containers"]]


def test_no_image_is_unpinned_and_no_pod_is_privileged() -> None:
    """Every container names a version, runs as nobody, and may write nowhere but into volumes."""
    seen = 0
    for one in objects():
        if one["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            assert re.search(r":v?\d+\.\d+\.\d+", container["image"]), container["image"]
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            seen += 1
    assert seen >= 12


def test_policies_stay_below_layer_seven() -> None:
    """An L7 rule at egress would switch the bandwidth limit of the pods that it selects off."""
    policies = [one for one in objects() if one["kind"] == "CiliumNetworkPolicy"]
    assert len(policies) == 2
    text = json.dumps(policies)
    assert not [word for word in ('"rules"', '"toFQDNs"', '"bandwidth"', '"http"', '"l7"') if word in text]


def test_the_bus_permissions_name_the_streams_that_there_are() -> None:
    """A subject or stream that is renamed in the code must be renamed for the users of the bus."""
    text = (MANIFESTS / "nats.conf").read_text()
    subjects = Subjects()
    streams = {subjects.stream(kind) for kind in ("sample", "decision", "action", "dead")}
    assert set(re.findall(r"SLUICE_[A-Z]+", text)) == streams
    assert set(re.findall(r"sluice\.[a-z]+\.v1\.(?:>|[a-z]+)", text)) == {
        *(subjects.every(kind) for kind in ("sample", "decision", "action")),
        *(subjects.dead(service) for service in ("decision", "actuator")),
    }


@pytest.mark.apiserver
def test_the_cluster_check_finds_what_is_missing(installed: apiserver.ApiServer) -> None:
    """On a cluster without Cilium it says so; with its settings there, the manifests leave nothing to say."""
    program = Path(sys.executable).parent / "sluice"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
    environment["KUBECONFIG"] = str(installed.kubeconfig())
    words = [str(program), "check", str(MANIFESTS / "config.yaml"), "--offline", "--cluster", "--json"]

    def checked() -> tuple[int, dict[str, str]]:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, {one["where"]: one["what"] for one in json.loads(done.stdout)["findings"]}

    code, found = checked()
    assert code == 1
    assert "without Cilium" in found["kube-system/cilium-config"]
    settings = {"enable-bandwidth-manager": "true", "enable-hubble": "true"}
    data = {"metadata": {"name": "cilium-config"}, "data": settings}
    installed.request("POST", "/api/v1/namespaces/kube-system/configmaps", data)
    code, found = checked()
    assert code == 0, found
    assert not [where for where in found if "cilium" in where or "deployment" in where], found
