"""The admission component: rendered as an overlay has it, and its CEL evaluated on what the actuator may do and not."""

import os
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import celpy
import pytest
import yaml
from celpy.adapter import json_to_cel

from services.actuator.ownership import KEY
from services.kube.objects import BANDWIDTH
from services.runtime.config_loader import load
from tests.support.kube.manifests import MANIFESTS, objects

pytestmark = pytest.mark.kubectl

Change = Callable[[dict[str, Any]], object]

COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {
        "name": "telemetry-upload-5d5x2-abcde",
        "namespace": "factory",
        "generateName": "telemetry-upload-5d5x2-",
        "managedFields": [{"manager": "kube-controller-manager"}],
        "labels": {"app": "upload"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "telemetry-upload-5d5x2", "uid": "1"}],
        "finalizers": ["example.org/keep"],
        "annotations": {"team": "x", BANDWIDTH: "20M"},
    },
    "spec": {"containers": [{"name": "upload", "image": "upload:1"}]},
}


@pytest.fixture(scope="module")
def overlay_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of an overlay with every component at once, by kind and name."""
    folder = tmp_path_factory.mktemp("overlay")
    at = os.path.relpath(MANIFESTS, folder)
    overlay = {"resources": [at], "components": [f"{at}/components/{name}" for name in COMPONENTS]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return {(one["kind"], one["metadata"]["name"]): one for one in objects(folder)}


@pytest.fixture(scope="module")
def policy(overlay_objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The policy's spec."""
    spec: dict[str, Any] = overlay_objects["ValidatingAdmissionPolicy", "sluice-actuator-annotations-only"]["spec"]
    return spec


@cache
def build_program(expression: str) -> Any:
    """A CEL expression, compiled."""
    environment = celpy.Environment()
    return environment.program(environment.compile(expression))


def evaluate(expression: str, given: dict[str, Any]) -> Any:
    """A CEL expression's value."""
    return build_program(expression).evaluate(given)


def find_refusals(policy: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The messages of the validations that an update does not pass."""
    given: dict[str, Any] = {"oldObject": json_to_cel(old), "object": json_to_cel(new)}
    variables: dict[str, Any] = {}
    for one in policy["variables"]:
        variables[one["name"]] = evaluate(one["expression"], given | {"variables": json_to_cel(variables)})
    given["variables"] = json_to_cel(variables)
    return [one["message"] for one in policy["validations"] if not evaluate(one["expression"], given)]


def change_pod(change: Change, obj: dict[str, Any] = POD) -> dict[str, Any]:
    """A copy of a Pod with a change."""
    new = deepcopy(obj)
    change(new)
    return new


def set_annotations(**more: str | None) -> Change:
    """Sets annotations, or removes them; ``bandwidth`` and ``limit`` are Sluice's own two."""
    keys = {"bandwidth": BANDWIDTH, "limit": KEY}

    def change(obj: dict[str, Any]) -> None:
        kept = obj["metadata"].setdefault("annotations", {})
        for name, value in more.items():
            kept.pop(keys.get(name, name), None)
            if value is not None:
                kept[keys.get(name, name)] = value

    return change


DEPLOYMENT: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "telemetry-upload", "namespace": "factory", "annotations": {}},
    "spec": {"replicas": 1},
}


def make_pod_of(name: str, kind: str = "ReplicaSet", namespace: str = "factory") -> dict[str, Any]:
    """A Pod of another owner."""
    pod = deepcopy(POD)
    pod["metadata"] |= {"namespace": namespace, "ownerReferences": [{"kind": kind, "name": name, "uid": "1"}]}
    return pod


BAD_VALUES = ("banana", "", "0", "7", "-5M", "0M", "5", "5m", "5Mi", "5E", "1e9", "5M ", "5M\n", "\u0665M")
"""What Cilium reads as no limit, or what Sluice never writes."""

BARE = change_pod(lambda obj: obj["metadata"].pop("annotations"))


@pytest.mark.parametrize(
    ("old", "change"),
    [
        (POD, set_annotations(bandwidth="5M", limit="{}")),
        (POD, set_annotations(bandwidth=None)),
        (BARE, set_annotations(bandwidth="5M", limit="{}")),
        (change_pod(set_annotations(limit="{}", team=None)), lambda obj: obj["metadata"].pop("annotations")),
        (POD, lambda obj: obj.update(status={"phase": "Running"})),
        (DEPLOYMENT, set_annotations(bandwidth="2500k", limit="{}")),
        (change_pod(set_annotations(bandwidth="1e7")), set_annotations(limit="{}")),
        *(
            (
                change_pod(set_annotations(limit=f'{{"v":1,"found":"{found}"}}')),
                set_annotations(bandwidth=found, limit=None),
            )
            for found in ("1e7", "10Mi", "0.5G")
        ),
    ],
    ids=["set", "removed", "first of all", "last of all", "a status that moved meanwhile", "Deployment", "kept value"]
    + ["restored in another notation"] * 3,
)
def test_its_own_two_annotations_pass(policy: dict[str, Any], old: dict[str, Any], change: Change) -> None:
    """The writes of ``sluice actuator`` and ``sluice restore`` on an object are allowed."""
    assert find_refusals(policy, old, change_pod(change, old)) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda obj: obj["spec"]["containers"][0].update(image="evil:1"), "change a spec"),
        (set_annotations(team="y"), "add or change its own two"),
        (set_annotations(more="y"), "add or change its own two"),
        (set_annotations(team=None, limit="{}"), "remove its own two"),
        (lambda obj: obj["metadata"].pop("annotations"), "remove its own two"),
        (lambda obj: obj["metadata"]["labels"].update(app="other"), "change labels"),
        (lambda obj: obj["metadata"].pop("labels"), "change labels"),
        (lambda obj: obj["metadata"].pop("finalizers"), "change finalizers"),
        (lambda obj: obj["metadata"].pop("ownerReferences"), "change owners"),
        (
            lambda obj: obj["metadata"]["ownerReferences"].append({"kind": "Job", "name": "j", "uid": "2"}),
            "change owners",
        ),
        (lambda obj: obj["metadata"].update(generateName="other-"), "generateName"),
        (lambda obj: obj["metadata"].pop("generateName"), "generateName"),
        (lambda obj: obj["metadata"].update(managedFields=[]), "managedFields"),
        (lambda obj: obj["metadata"].pop("managedFields"), "managedFields"),
        (lambda obj: obj["metadata"].update(managedFields=[{}]), "managedFields"),
        (lambda obj: obj["metadata"].update(managedFields=[{"manager": "x"}]), "managedFields"),
        (lambda obj: obj["metadata"]["managedFields"].append({"manager": "x"}), "managedFields"),
        (lambda obj: obj["metadata"]["managedFields"][0].update(fieldsV1={"f:spec": {}}), "managedFields"),
        (
            lambda obj: obj["metadata"]["managedFields"].append(
                {"manager": "sluice-actuator", "fieldsV1": {"f:spec": {}}}
            ),
            "managedFields",
        ),
        *((set_annotations(limit=value), "record in JSON") for value in ("", "x", "{}\n", "[1]", "{\n}")),
        *((set_annotations(bandwidth=value), "in k, M or G only") for value in BAD_VALUES),
    ],
)
def test_anything_else_is_refused(policy: dict[str, Any], change: Change, why: str) -> None:
    """Any other change is refused by the validation for it."""
    (message,) = find_refusals(policy, POD, change_pod(change))
    assert why in message


@pytest.mark.parametrize(
    "old",
    [
        make_pod_of("robot-control-5d5x2"),
        make_pod_of("telemetry-upload-v2-5d5x2"),
        make_pod_of("telemetry-upload"),
        make_pod_of("telemetry-upload-5d5x2", kind="Job"),
        make_pod_of("telemetry-upload-5d5x2", namespace="kube-system"),
        make_pod_of("telemetryxupload-5d5x2"),
        change_pod(lambda obj: obj["metadata"]["ownerReferences"][0].update(controller=False)),
        change_pod(lambda obj: obj["metadata"]["ownerReferences"][0].update(apiVersion="example.org/v1")),
        change_pod(lambda obj: obj["metadata"].pop("ownerReferences")),
        change_pod(lambda obj: obj["metadata"].update(name="robot-control"), DEPLOYMENT),
        change_pod(lambda obj: obj["metadata"].update(namespace="other"), DEPLOYMENT),
    ],
)
def test_only_configured_targets_may_be_changed(policy: dict[str, Any], old: dict[str, Any]) -> None:
    """Critical pods, other Deployments and other namespaces are out of reach."""
    (message,) = find_refusals(policy, old, change_pod(set_annotations(bandwidth="5M"), old))
    assert "configured targets" in message


def test_its_targets_are_those_of_the_shipped_configuration(policy: dict[str, Any]) -> None:
    """The list in the policy and the one in config.yaml agree."""
    (targets,) = [one["expression"] for one in policy["variables"] if one["name"] == "targets"]
    config = load(MANIFESTS / "config.yaml", {})
    assert set(evaluate(targets, {})) == {target.key for domain in config.domains for target in domain.targets}


@pytest.mark.parametrize(
    ("target", "passes", "refused"),
    [
        ("factory/statefulset/db", ("StatefulSet", "db"), ("StatefulSet", "db2")),
        ("factory/daemonset/logs", ("DaemonSet", "logs"), ("ReplicaSet", "logs-5d5x2")),
        ("factory/job/load", ("Job", "load"), ("StatefulSet", "load")),
        ("factory/cronjob/backup", ("Job", "backup-28000000"), ("Job", "backups")),
        ("factory/rollout/web", ("ReplicaSet", "web-5f6"), ("ReplicaSet", "web-v2-5f6")),
        ("factory/replicaset/old", ("ReplicaSet", "old"), ("Job", "old")),
    ],
)
def test_pods_of_each_kind_are_known_by_their_owners(
    policy: dict[str, Any], target: str, passes: tuple[str, str], refused: tuple[str, str]
) -> None:
    """Of the object too: its kind is a part of the target's name."""
    edited = edit_variable(policy, "targets", f'["{target}"]')
    for (kind, name), is_refused in ((passes, False), (refused, True)):
        old = make_pod_of(name, kind=kind)
        assert bool(find_refusals(edited, old, change_pod(set_annotations(bandwidth="5M"), old))) is is_refused
    kinds = {"statefulset": "StatefulSet", "daemonset": "DaemonSet", "replicaset": "ReplicaSet"}
    kinds |= {"job": "Job", "cronjob": "CronJob", "rollout": "Rollout"}
    _, word, name = target.split("/")
    for kind in kinds.values():
        old = deepcopy(DEPLOYMENT) | {"kind": kind}
        old["metadata"]["name"] = name
        found = find_refusals(edited, old, change_pod(set_annotations(bandwidth="5M"), old))
        assert bool(found) is (kind != kinds[word])


def test_any_pod_passes_where_labels_select(policy: dict[str, Any]) -> None:
    """The API server cannot tell whom a selector means; other namespaces stay closed."""
    edited = edit_variable(policy, "selected", '["factory"]')
    for namespace, is_refused in (("factory", False), ("kube-system", True)):
        old = make_pod_of("anybody", kind="StatefulSet", namespace=namespace)
        assert bool(find_refusals(edited, old, change_pod(set_annotations(bandwidth="5M"), old))) is is_refused


def edit_variable(policy: dict[str, Any], name: str, expression: str) -> dict[str, Any]:
    """The policy as an overlay has edited it."""
    edited = deepcopy(policy)
    for one in edited["variables"]:
        if one["name"] == name:
            one["expression"] = expression
    return edited


def test_a_dot_in_a_targets_name_is_no_wildcard(policy: dict[str, Any]) -> None:
    """A Deployment's name may hold dots."""
    edited = deepcopy(policy)
    for one in edited["variables"]:
        if one["name"] == "targets":
            one["expression"] = '["factory/a.b"]'
    for owner, refused in (("a.b-5d5x2", False), ("axb-5d5x2", True)):
        old = make_pod_of(owner)
        assert bool(find_refusals(edited, old, change_pod(set_annotations(bandwidth="5M"), old))) is refused


def test_keys_that_webhooks_stamp_can_be_allowed(policy: dict[str, Any]) -> None:
    """A key in ``stamped`` may change with an update; without it the update is refused."""
    stamp = set_annotations(bandwidth="5M", **{"company.example/touched-by": "sluice-actuator"})
    assert find_refusals(policy, POD, change_pod(stamp))
    edited = deepcopy(policy)
    for one in edited["variables"]:
        if one["name"] == "stamped":
            one["expression"] = '["company.example/touched-by"]'
    assert find_refusals(edited, POD, change_pod(stamp)) == []


def test_it_is_about_the_actuator_and_its_two_keys(
    overlay_objects: dict[tuple[str, str], dict[str, Any]], policy: dict[str, Any]
) -> None:
    """It matches the Deployment's ServiceAccount and the code's keys; requests by other accounts pass."""
    actuator = overlay_objects["StatefulSet", "sluice-actuator"]  # components/shards numbers it
    account = f"{actuator['metadata']['namespace']}:{actuator['spec']['template']['spec']['serviceAccountName']}"
    (condition,) = policy["matchConditions"]
    for name, matches in ((account, True), ("sluice:sluice-sampler", False)):
        request = {"userInfo": {"username": f"system:serviceaccount:{name}"}}
        assert bool(evaluate(condition["expression"], {"request": json_to_cel(request)})) is matches
    (allowed,) = [one["expression"] for one in policy["variables"] if one["name"] == "own"]
    assert set(evaluate(allowed, {})) == {BANDWIDTH, KEY}


def test_whatever_the_actuator_may_patch_is_looked_at_and_denied(
    overlay_objects: dict[tuple[str, str], dict[str, Any]], policy: dict[str, Any]
) -> None:
    """Each resource that its Role allows it to patch is matched, and refused if the policy cannot be evaluated."""
    patched = {
        (group, resource)
        for (kind, name), role in overlay_objects.items()
        if kind == "Role" and name in ("sluice-actuator", "sluice-actuator-workloads", "sluice-actuator-rollouts")
        for rule in role["rules"]
        if "patch" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    looked_at = {
        (group, resource)
        for rule in policy["matchConstraints"]["resourceRules"]
        if rule["operations"] == ["UPDATE"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert patched == looked_at
    assert {("apps", "deployments"), ("apps", "statefulsets"), ("batch", "cronjobs"), ("", "pods")} < looked_at
    binding = overlay_objects["ValidatingAdmissionPolicyBinding", "sluice-actuator-annotations-only"]["spec"]
    assert binding == {"policyName": "sluice-actuator-annotations-only", "validationActions": ["Deny"]}
    assert policy["failurePolicy"] == "Fail"


def test_all_components_go_together(overlay_objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    """No component undoes another's patches: the bus has TLS and no claim, and the policy is present."""
    assert COMPONENTS == [
        "admission",
        "dashboards",
        "ha",
        "keda",
        "meter-endpoints",
        "meter-kubelet",
        "per-label",
        "prometheus-operator",
        "resource-rules",
        "rollouts",
        "selectors",
        "shards",
        "tls",
        "ui",
        "volatile-bus",
        "workloads",
    ]
    meter = overlay_objects["DaemonSet", "sluice-meter"]["spec"]["template"]["spec"]
    assert "hostNetwork" not in meter
    variables = {one["name"]: one.get("value") for one in meter["containers"][0]["env"]}
    assert variables.items() >= {"SLUICE_METER_ENDPOINTS": "true", "SLUICE_METER_KUBELET": "unverified"}.items()
    granted = [(rule["resources"], rule["verbs"]) for rule in overlay_objects["ClusterRole", "sluice-meter"]["rules"]]
    assert granted == [(["pods"], ["list", "watch"]), (["ciliumendpoints"], ["get"]), (["nodes/metrics"], ["get"])]
    spec = overlay_objects["StatefulSet", "nats"]["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"data", "tls"} <= {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert "--tls" in spec["template"]["spec"]["containers"][0]["args"]
    assert ("ValidatingAdmissionPolicy", "sluice-actuator-annotations-only") in overlay_objects


def change_container(**settings: Any) -> Change:
    """Change the security context of the meter's container."""
    return lambda spec: spec["containers"][0]["securityContext"].update(settings)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (dict, False),
        (lambda spec: spec.update(hostNetwork=True), False),
        (lambda spec: spec.update(hostPID=True), True),
        (lambda spec: spec.update(hostIPC=True), True),
        (lambda spec: spec["volumes"].append({"name": "root", "hostPath": {"path": "/"}}), True),
        (lambda spec: spec.update(initContainers=[{"name": "x"}]), True),
        (lambda spec: spec.update(ephemeralContainers=[{"name": "x"}]), True),
        (lambda spec: spec.pop("securityContext"), True),
        (lambda spec: spec["securityContext"].update(runAsNonRoot=False), True),
        (lambda spec: spec["containers"].append({"name": "x", "image": "x:1"}), True),
        (change_container(privileged=True), True),
        (change_container(allowPrivilegeEscalation=True), True),
        (change_container(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), True),
        (change_container(capabilities={}), True),
        (change_container(runAsUser=0), True),
    ],
)
def test_the_meters_namespace_admits_the_meter_only(
    overlay_objects: dict[tuple[str, str], dict[str, Any]], change: Change, refused: bool
) -> None:
    """A pod there may use the host's network and nothing else of the host."""
    spec = deepcopy(overlay_objects["DaemonSet", "sluice-meter"]["spec"]["template"]["spec"])
    change(spec)
    rules = overlay_objects["ValidatingAdmissionPolicy", "sluice-meter-network-only"]["spec"]
    assert rules["matchConstraints"]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": overlay_objects["DaemonSet", "sluice-meter"]["metadata"]["namespace"]
    }
    given = {"object": json_to_cel({"kind": "Pod", "spec": spec})}
    assert [bool(evaluate(one["expression"], given)) for one in rules["validations"]].count(False) == int(refused)
