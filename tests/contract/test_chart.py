"""The Helm chart: it renders the kustomization's objects, and its values change what they say."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.kube.helm import CHART, HelmFailure, by_name, helm, render
from tests.support.kube.manifests import MANIFESTS, objects

pytestmark = pytest.mark.helm

DEMONSTRATION = ("--set", "factory.enabled=true")
SAME = (
    "--set",
    "factory.enabled=true,namespace.create=true,bus.secret.create=false,restore.onUninstall=false,crds.rules=never",
    "--set",
    "restartForSettings=false",
)
"""The values with which the chart has neither more nor less than the kustomization."""
SETTINGS = "sluice.dev/settings"
"""On pods, a hash of the configuration without its domains."""
OWN = """
bus: {servers: [nats://nats.net.svc:4222]}
domains:
- name: line
  critical: [{namespace: robots, workload: arm}]
  targets:
  - {namespace: office, deployment: backup, min: 1M, max: 90M, fail_safe: 5M}
  - {namespace: lab, deployment: logs, min: 1M, max: 90M, fail_safe: 5M}
"""


@pytest.fixture(scope="module")
def shipped() -> list[dict[str, Any]]:
    """What ``kubectl apply -k manifests`` applies."""
    return objects()


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, ...]:
    """Options that name a configuration with two targets, each in a namespace of its own."""
    path = tmp_path / "own.yaml"
    path.write_text(OWN, encoding="utf-8")
    return ("--set-file", f"config={path}")


def kustomized(folder: Path, *components: str) -> list[dict[str, Any]]:
    """What ``kubectl kustomize`` renders of an overlay with components."""
    folder.mkdir()
    places = [MANIFESTS, *(MANIFESTS / "components" / one for one in components)]
    resources, *parts = [os.path.relpath(place, folder.resolve()) for place in places]
    tree = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [resources]}
    (folder / "kustomization.yaml").write_text(json.dumps({**tree, "components": parts}), encoding="utf-8")
    return objects(folder)


def test_it_renders_what_kustomize_renders(shipped: list[dict[str, Any]]) -> None:
    """Every object is equal, including the hash in a ConfigMap's name; only options add or remove objects."""
    ours, theirs = by_name(render(*SAME)), by_name(shipped)
    assert ours == theirs
    assert len(ours) >= 35
    plain = by_name(render(*DEMONSTRATION))
    added = set(plain) ^ set(theirs)
    assert added == {
        ("Namespace", None, "sluice"),
        ("Secret", "sluice", "sluice-bus"),
        ("Job", "sluice", "sluice-restore"),
    }
    restarted = {name[2] for name, one in plain.items() if SETTINGS in str(one)}
    assert restarted == {"sluice-sampler", "sluice-decision", "sluice-actuator", "sluice-exporter", "sluice-meter"}
    assert all(SETTINGS not in str(one) for one in theirs.values())
    print(f"{len(ours)} objects, equal")


NEW_BOUND, NEW_PERIOD = ("max: 900M", "max: 800M"), ("period: 500ms", "period: 250ms")
"""A change of a domain, and one of what is read at the start."""


@pytest.mark.parametrize("change", [NEW_BOUND, NEW_PERIOD])
def test_definitions_travel_without_a_restart(tmp_path: Path, change: tuple[str, str]) -> None:
    """A changed domain changes ConfigMaps in place and no pod; with Helm other changes restart what reads them."""
    text = (MANIFESTS / "config.yaml").read_text(encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(*change), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    manifests = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, manifests, ignore=shutil.ignore_patterns("chart", "components"))
    shutil.copy(path, manifests)
    configs = {("ConfigMap", "sluice", "sluice-config"), ("ConfigMap", "sluice-meter", "sluice-meter-config")}
    assert find_changed(objects(), objects(manifests)) == configs
    found = find_changed(render(*DEMONSTRATION), render(*DEMONSTRATION, "--set-file", f"config={path}"))
    restarted = {name for name in found if name[0] in {"Deployment", "DaemonSet", "StatefulSet"}}
    assert found - restarted - {("Secret", "sluice", "sluice-bus")} == configs
    assert len(restarted) == (0 if change == NEW_BOUND else 5)


def find_changed(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """The objects that differ; both have the same names."""
    one, other = by_name(before), by_name(after)
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    ("component", "value"),
    [
        ("volatile-bus", "bus.volatile=true"),
        ("tls", "bus.tls=true"),
        ("admission", "admission.enabled=true"),
        ("dashboards", "monitoring.dashboards.enabled=true"),
        ("ha", "ha.enabled=true"),
        ("shards", "ha.shards=true"),
        ("keda", "ha.keda=true"),
        ("ui", "ui.enabled=true"),
        ("meter-endpoints", "meter.endpoints=true"),
        ("meter-kubelet", "meter.kubelet=true"),
        ("resource-rules", "crds.rules=always"),
        ("workloads", "rights.workloads=true"),
        ("rollouts", "rights.rollouts=true"),
        ("selectors", "rights.selectors=true"),
        ("per-label", "rights.nodes=true"),
        ("prometheus-operator", "monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true"),
    ],
)
def test_its_options_are_the_components(tmp_path: Path, component: str, value: str) -> None:
    """With an option, the chart equals an overlay with the component."""
    assert by_name(render(*SAME, "--set", value)) == by_name(kustomized(tmp_path / "overlay", component))


def test_the_hook_restores_whatever_kind_the_actuator_is() -> None:
    """Numbered replicas are a StatefulSet's Pods."""
    for value in ("ha.enabled=true", "ha.shards=true"):
        objects = by_name(render(*DEMONSTRATION, "--set", value))
        job = objects["Job", "sluice", "sluice-restore"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["args"][0] == "restore"


def test_every_component_is_an_option() -> None:
    """A new component needs an option, and a row in the test above."""
    marks = {mark.args[1][n][0] for mark in _parametrize() for n in range(len(mark.args[1]))}
    assert marks == {path.name for path in (MANIFESTS / "components").iterdir()}


def _parametrize() -> list[pytest.Mark]:
    marks: list[pytest.Mark] = test_its_options_are_the_components.pytestmark  # type: ignore[attr-defined]
    return [one for one in marks if one.name == "parametrize"]


def test_it_links_to_every_file_of_the_kustomization() -> None:
    """The chart reads the manifests' own files, so nothing is written twice."""
    tree = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))
    named = {*tree["resources"], *(file for one in tree["configMapGenerator"] for file in one["files"])}
    links = {path.name: path.resolve() for path in (CHART / "files").iterdir()}
    assert named <= set(links)
    assert all(target == MANIFESTS / name for name, target in links.items())


def test_a_package_holds_the_files(tmp_path: Path, shipped: list[dict[str, Any]]) -> None:
    """``helm package`` replaces the links by what they lead to."""
    helm("package", str(CHART), "-d", str(tmp_path))
    (package,) = tmp_path.iterdir()
    assert by_name(render(*SAME, chart=package)) == by_name(shipped)


def test_every_port_of_a_service_names_its_protocol(shipped: list[dict[str, Any]]) -> None:
    """API servers before 1.21 refuse a server-side apply, which Helm 4 uses, without it."""
    ports = [port for one in shipped if one["kind"] == "Service" for port in one["spec"]["ports"]]
    assert [port for port in ports if "protocol" not in port] == []


def test_versions_agree() -> None:
    """The chart, the images of the kustomization and the package have one version."""
    project = tomllib.loads((MANIFESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    images = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    assert {project["version"]} == {chart["version"], chart["appVersion"], *(one["newTag"] for one in images)}


def test_rights_follow_the_configuration(own: tuple[str, ...]) -> None:
    """Role and RoleBinding are in each target's namespace, and the admission policy lists each target."""
    found = by_name(
        render(*own, "--set", "admission.enabled=true", "--set", "admission.stamped={a.example/b}", namespace="net")
    )
    rights = {(kind, namespace) for kind, namespace, _ in found if kind in {"Role", "RoleBinding"}}
    assert rights == {(kind, name) for kind in ("Role", "RoleBinding") for name in ("office", "lab")}
    binding = found["RoleBinding", "lab", "sluice-actuator"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "sluice-actuator", "namespace": "net"}]
    policy = found["ValidatingAdmissionPolicy", None, "sluice-actuator-annotations-only"]["spec"]
    lists = {one["name"]: one["expression"] for one in policy["variables"]}
    assert json.loads(lists["targets"]) == ["office/backup", "lab/logs"]
    assert json.loads(lists["stamped"]) == ["a.example/b"]
    assert "system:serviceaccount:net:sluice-actuator" in policy["matchConditions"][0]["expression"]
    namespaces = {namespace for _, namespace, _ in found}
    assert namespaces == {"net", "office", "lab", "sluice-meter", None}
    assert found["ConfigMap", "net", "sluice-config"]["data"]["config.yaml"] == OWN


def test_the_demonstration_follows_the_namespace() -> None:
    """The demonstration's configuration names the bus and the exporter of the release's own namespace."""
    found = by_name(render(*DEMONSTRATION, namespace="net"))
    text = found["ConfigMap", "net", "sluice-config"]["data"]["config.yaml"]
    assert set(re.findall(r"[a-z-]+\.[a-z]+\.svc", text)) >= {"nats.net.svc", "sluice-exporter.net.svc"}
    assert "sluice.svc" not in text


def test_the_lease_and_the_routes_follow_the_namespace(own: tuple[str, ...]) -> None:
    """The actuators' Lease and the names of the bus's servers are the release's own."""
    found = render(*own, "--set", "ha.enabled=true", namespace="net")
    seen = pods(found)
    environment = {one["name"]: one.get("value") for one in seen["sluice-actuator"]["containers"][0]["env"]}
    assert environment["SLUICE_LEASE"] == "net/sluice-actuator"
    assert ("Lease", "net", "sluice-actuator") in by_name(found)
    assert "nats://nats-1.net.svc:6222" in seen["nats"]["containers"][0]["args"][-1]


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by the workload's name."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found if "template" in one.get("spec", {})
    }


def test_values_reach_the_pods(own: tuple[str, ...]) -> None:
    """Images, resources, placement and patches are on each pod that they are meant for, and on no other."""
    values = (
        "image.repository=registry.example/sluice,image.tag=1.2.3,image.pullPolicy=Always,imagePullSecrets[0].name=pull",
        "resources.actuator.limits.memory=128Mi,nodeSelector.disk=ssd,tolerations[0].operator=Exists",
        "bus.storage.size=9Gi,bus.storage.storageClass=fast",
        "patches[0].target.kind=Deployment,patches[0].target.name=sluice-(sampler|decision),patches[0].patch[0].op=add",
        "patches[0].patch[0].path=/spec/template/spec/priorityClassName,patches[0].patch[0].value=high",
    )
    found = render(*own, *(word for one in values for word in ("--set", one)), namespace="net")
    seen = pods(found)
    ours = {name: one for name, one in seen.items() if name != "nats"}
    assert {container["image"] for one in ours.values() for container in one["containers"]} == {
        "registry.example/sluice:1.2.3"
    }
    assert all(one["containers"][0]["imagePullPolicy"] == "Always" for one in ours.values())
    assert all(one["imagePullSecrets"] == [{"name": "pull"}] for one in seen.values())
    # The meter runs on every node.
    assert all(one["nodeSelector"] == {"disk": "ssd"} for name, one in seen.items() if name != "sluice-meter")
    assert "nodeSelector" not in seen["sluice-meter"]
    assert seen["sluice-actuator"]["containers"][0]["resources"] == {
        "requests": {"cpu": "20m", "memory": "64Mi"},
        "limits": {"memory": "128Mi"},
    }
    assert {name for name, one in seen.items() if one.get("priorityClassName") == "high"} == {
        "sluice-sampler",
        "sluice-decision",
    }
    (nats,) = [one for one in found if one["kind"] == "StatefulSet"]
    claim = nats["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "9Gi")


def test_the_secret_has_a_password_for_each_user(own: tuple[str, ...]) -> None:
    """Each user of nats.conf has one; they differ, and none begins with a digit, which NATS would read as a number."""
    found = by_name(render(*own, namespace="net"))
    data = found["Secret", "net", "sluice-bus"]["data"]
    users = set(re.findall(r"password: \$(\w+)_PASSWORD", (MANIFESTS / "nats.conf").read_text(encoding="utf-8")))
    assert {user.lower() for user in users} == set(data)
    assert len(set(data.values())) == len(data)


def test_the_operators_objects(own: tuple[str, ...]) -> None:
    """The monitors find what prometheus-scrape.yaml finds; the rule has the file's groups; labels are added."""
    names = ("serviceMonitor", "podMonitor", "prometheusRule")
    values = ",".join(f"monitoring.{one}.enabled=true,monitoring.{one}.labels.release=prom" for one in names)
    values += ",monitoring.prometheusRule.runbooks=https://docs.example/"
    found = by_name(render(*own, "--set", values, namespace="net"))
    rule = found["PrometheusRule", "net", "sluice"]
    service, pod = found["ServiceMonitor", "net", "sluice-exporter"], found["PodMonitor", "net", "sluice"]
    assert all(one["metadata"]["labels"]["release"] == "prom" for one in (rule, service, pod))
    text = (MANIFESTS / "prometheus-rules.yaml").read_text(encoding="utf-8")
    assert rule["spec"] == yaml.safe_load(text.replace(": docs/", ": https://docs.example/docs/"))
    jobs = yaml.safe_load((MANIFESTS / "prometheus-scrape.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    exporter, meter, services = jobs
    (endpoint,) = service["spec"]["endpoints"]
    assert (endpoint["honorLabels"], endpoint["interval"]) == (exporter["honor_labels"], exporter["scrape_interval"])
    (endpoint,) = found["PodMonitor", "sluice-meter", "sluice-meter"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["honorLabels"], endpoint["interval"]) == (meter["honor_labels"], meter["scrape_interval"])
    (expression,) = pod["spec"]["selector"]["matchExpressions"]
    names_by_regex = re.fullmatch(r"sluice-\((.+)\);http", services["relabel_configs"][0]["regex"])
    assert names_by_regex is not None
    assert expression["values"] == [f"sluice-{name}" for name in names_by_regex[1].split("|")]
    (endpoint,) = pod["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == services["scrape_interval"]


OLD = (*DEMONSTRATION, "--kube-version", "1.20.2")
REFUSED = {
    "config is empty": (),
    "it has no domains": ("--set", "config=bus: {}"),
    "'tsl' not allowed": ("--set", "factory.enabled=true,bus.tsl=true"),
    "got string, want boolean": ("--set-string", "bus.tls=yes"),
    "does not match pattern": ("--set", "bus.storage.size=big"),
    "components/ha needs Kubernetes 1.21, and this is v1.20.2": (*OLD, "--set", "ha.enabled=true"),
    "components/admission needs Kubernetes 1.30": (*OLD, "--set", "admission.enabled=true"),
    "components/resource-rules needs Kubernetes 1.25": (*OLD, "--set", "crds.rules=always"),
    "value must be one of": ("--set", "image.pullPolicy=Sometimes"),
    "there is no /spec/nothing/here": (
        *DEMONSTRATION,
        "--set",
        "patches[0].target.kind=Role,patches[0].patch[0].op=add,patches[0].patch[0].path=/spec/nothing/here",
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_values_are_refused(message: str) -> None:
    """Helm stops before it installs anything, and says what is wrong."""
    with pytest.raises(HelmFailure, match=re.escape(message)):
        render(*REFUSED[message])


def test_a_configuration_for_another_namespace_is_refused() -> None:
    """A file that names another namespace's bus would leave every pod waiting."""
    words = ("--set-file", f"config={MANIFESTS / 'config.yaml'}")
    with pytest.raises(HelmFailure, match=re.escape("this release's bus is nats.net.svc")):
        render(*words, namespace="net")


def test_every_value_is_described() -> None:
    """The schema has each value of values.yaml, with a description, and accepts the defaults."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(values, schema)

    def compare(tree: dict[str, Any], node: dict[str, Any]) -> int:
        count = 0
        for key, value in tree.items():
            assert node["properties"][key]["description"], key
            has_more = isinstance(value, dict) and "properties" in node["properties"][key]
            count += 1 + (compare(value, node["properties"][key]) if has_more else 0)
        return count

    assert compare(values, schema) >= 40


@pytest.mark.prometheus
def test_the_operators_rule_is_valid(own: tuple[str, ...], tmp_path: Path) -> None:
    """Promtool accepts the groups as the chart renders them."""
    found = by_name(render(*own, "--set", "monitoring.prometheusRule.enabled=true", namespace="net"))
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(found["PrometheusRule", "net", "sluice"]["spec"]), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
