"""`sluice check --cluster` against a real API server."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import sluice
from tests.support.exporter_page import LiveExporter
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.servers import deployment
from tests.support.ports import free_port
from tests.support.prometheus_server import PrometheusServer

pytestmark = pytest.mark.apiserver

SETTINGS = "/api/v1/namespaces/{}/configmaps"
SERVICES = "/api/v1/namespaces/{}/services"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
AGENTS = "/apis/apps/v1/namespaces/{}/daemonsets"
LIMITED = {"kubernetes.io/egress-bandwidth": "2M", "bandwidth.cilium.io/priority": "bestEffort"}


def write_config(home: Path, namespace: str, kubeconfig: Path | None = None, server: str = "") -> Path:
    """A configuration for a namespace."""
    kubernetes = f"server: '{server}'" if server else f"kubeconfig: '{kubeconfig}'"
    config = home / "config.yaml"
    config.write_text(
        "bus: {servers: ['nats://nats.sluice.svc:4222']}\n"
        f"kubernetes: {{{kubernetes}}}\n"
        "exporter:\n"
        "  relay: {address: 'hubble-relay.kube-system.svc.cluster.local:80'}\n"
        f"  probes: [{{namespace: {namespace}, workload: robot, address: robot.{namespace}.svc}}]\n"
        "domains:\n"
        "- name: cell\n"
        f"  critical: [{{workload: robot, namespace: {namespace}}}]\n"
        f"  targets: [{{deployment: upload, namespace: {namespace}, min: 1M, max: 10M, fail_safe: 2M}}]\n"
    )
    return config


@contextmanager
def namespace(api: ApiServer, name: str) -> Iterator[str]:
    """A namespace."""
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield f"/apis/apps/v1/namespaces/{name}/deployments"


@contextmanager
def cilium(api: ApiServer, home: str = "kube-system", **data: str) -> Iterator[None]:
    """Cilium's settings, agent and Relay, as its chart creates them in a namespace; and volumes for the bus."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    objects: dict[str, dict[str, Any]] = {
        CLASSES: {"metadata": {"name": "standard", "annotations": default}, "provisioner": "example.org/x"},
        SETTINGS.format(home): {"metadata": {"name": "cilium-config"}, "data": data},
        SERVICES.format("kube-system"): service("hubble-relay"),
        AGENTS.format(home): agent("quay.io/cilium/cilium:v1.18.3"),
    }
    for path, body in objects.items():
        api.request("POST", path, body)
    yield
    for path, body in objects.items():
        api.request("DELETE", f"{path}/{body['metadata']['name']}")


def service(name: str) -> dict[str, Any]:
    """A Service."""
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": name}}}


def agent(image: str) -> dict[str, Any]:
    """Cilium's DaemonSet."""
    labels = {"k8s-app": "cilium"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "cilium-agent", "image": image}]}}
    return {"metadata": {"name": "cilium"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


def test_a_cluster_where_limits_hold(apiserver: ApiServer, tmp_path: Path) -> None:
    """The manager is on, and both workloads match the manifests: nothing is found."""
    on = {"enable-bandwidth-manager": "true", "enable-hubble": "true"}
    with namespace(apiserver, "check-good") as deployments, cilium(apiserver, **on):
        apiserver.request("POST", deployments, deployment("upload", 1, template=LIMITED))
        guaranteed = {"bandwidth.cilium.io/priority": "guaranteed"}
        apiserver.request("POST", deployments, deployment("robot", 1, template=guaranteed))
        apiserver.request("POST", SERVICES.format("check-good"), service("robot"))
        ended = sluice("check", "--offline", "--cluster", write_config(tmp_path, "check-good", apiserver.kubeconfig()))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of the configured workloads" in ended.stdout
    # Nodes are the server's: those of other tests come and go.
    findings = [line for line in ended.stdout.splitlines() if line.startswith(("error", "warning"))]
    assert [one for one in findings if " node " not in one] == []


def test_workloads_of_every_kind_are_known_as_what_they_are(apiserver: ApiServer, tmp_path: Path) -> None:
    """A critical StatefulSet and DaemonSet, targets of other kinds, a selector: none is called a missing Deployment."""
    home = "check-kinds"
    bounds = f"namespace: {home}, min: 1M, max: 10M, fail_safe: 2M"
    others = (
        f"  critical: [{{workload: robot, namespace: {home}}}, {{workload: eye, namespace: {home}, kind: DaemonSet}}]\n"
        "  targets:\n"
        f"  - {{kind: StatefulSet, name: db, {bounds}}}\n"
        f"  - {{kind: CronJob, name: gone, apiVersion: batch/v1beta1, {bounds}}}\n"
        f"  - {{name: hogs, selector: {{matchLabels: {{a: b}}}}, {bounds}}}\n"
    )
    path = write_config(tmp_path, home, apiserver.kubeconfig())
    path.write_text(path.read_text().partition("  critical:")[0] + others)
    with namespace(apiserver, home) as deployments:
        folder = deployments.rpartition("/")[0]
        for name, kind, plural, template in (
            ("robot", "StatefulSet", "statefulsets", {"bandwidth.cilium.io/priority": "guaranteed"}),
            ("eye", "DaemonSet", "daemonsets", {}),
            ("db", "StatefulSet", "statefulsets", LIMITED),
        ):
            body = deployment(name, 1, template=template) | {"kind": kind}
            if kind == "DaemonSet":
                del body["spec"]["replicas"]
            apiserver.request("POST", f"{folder}/{plural}", body)
        ended = sluice("check", "--offline", "--cluster", path)
    findings = ended.stdout.partition("Kubernetes ")[2]
    assert "4 of the configured workloads" in findings, ended.stdout
    assert "deployment " not in findings
    assert "error cronjob check-kinds/gone: not found: the configuration names it as a target" in findings
    assert "daemonset check-kinds/eye: its template's bandwidth.cilium.io/priority is not set" in findings
    assert "statefulset check-kinds/robot" not in findings


def test_cilium_in_a_namespace_of_its_own_is_found(apiserver: ApiServer, tmp_path: Path) -> None:
    """Its settings are read where it is: a fault in them is named with that namespace."""
    off = {"enable-bandwidth-manager": "false", "enable-hubble": "true"}
    path = write_config(tmp_path, "check-elsewhere", apiserver.kubeconfig())
    with (
        namespace(apiserver, "cilium-system"),
        namespace(apiserver, "check-elsewhere"),
        cilium(apiserver, "cilium-system", **off),
    ):
        ended = sluice("check", "--offline", "--cluster", path)
    assert "cilium-system/cilium-config: the bandwidth manager is off" in ended.stdout
    assert "without Cilium" not in ended.stdout


def test_a_cluster_where_they_would_not(apiserver: ApiServer, tmp_path: Path) -> None:
    """No Cilium, a missing workload, an earlier limit of another client: each is reported, and the exit code is 1."""
    with namespace(apiserver, "check-bad") as deployments:
        foreign = deployment("upload", 1, own={"kubernetes.io/egress-bandwidth": "5M"})
        apiserver.request("POST", deployments, foreign)
        ended = sluice("check", "--offline", "--cluster", write_config(tmp_path, "check-bad", apiserver.kubeconfig()))
    assert ended.returncode == 1
    for text in (
        "without Cilium nothing enforces",
        "warning deployment check-bad/upload: kubernetes.io/egress-bandwidth is 5M already, set by ",
        "a new pod is unlimited until",
        "deployment check-bad/robot: not found",
        "there is no default StorageClass",
        "there is no Service kube-system/hubble-relay: the exporter sees probes only",
        "there is no Service check-bad/robot: its probes have no target",
    ):
        assert text in ended.stdout


def test_refused_and_failed_requests_are_reported(apiserver: ApiServer, tmp_path: Path) -> None:
    """A kubeconfig that the server does not accept, and no server at all."""
    refused = sluice("check", "--offline", "--cluster", write_config(tmp_path, "x", apiserver.kubeconfig("nobody")))
    unreachable = f"http://127.0.0.1:{free_port()}"
    away = sluice("check", "--offline", "--cluster", write_config(tmp_path, "x", server=unreachable))
    assert refused.returncode == away.returncode == 1
    assert "error kubernetes: 401 Unauthorized" in refused.stdout
    assert "error kubernetes: " in away.stdout


def my_address() -> str:
    """This machine's address, not loopback, which the API server does not proxy to."""
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))
        return str(one.getsockname()[0])


def put_behind_a_service(api: ApiServer, home: str, name: str, port: int) -> None:
    """A Service of the cluster that leads to a Pod, which is this machine."""
    api.wait_for("kube-controller-manager", f"/api/v1/namespaces/{home}/serviceaccounts/default")
    pods, mine = f"/api/v1/namespaces/{home}/pods", my_address()
    container = {"name": name, "image": "exporter:1"}
    api.request("POST", pods, {"metadata": {"name": name}, "spec": {"containers": [container]}})
    status = {"status": {"phase": "Running", "podIP": mine, "podIPs": [{"ip": mine}]}}
    api.request("PATCH", f"{pods}/{name}/status", status, "application/merge-patch+json")
    ports = [{"port": port}]
    address = {"ip": mine, "targetRef": {"kind": "Pod", "namespace": home, "name": name}}
    api.request("POST", SERVICES.format(home), {"metadata": {"name": name}, "spec": {"ports": ports}})
    subsets = [{"addresses": [address], "ports": ports}]
    api.request("POST", f"/api/v1/namespaces/{home}/endpoints", {"metadata": {"name": name}, "subsets": subsets})


@pytest.mark.parametrize(
    ("hertz", "expected"), [(500, "factory/robot-control jitter "), (20, "observations in a window, 100 needed")]
)
def test_what_only_the_cluster_reaches_is_asked_through_its_api(
    apiserver: ApiServer, tmp_path: Path, hertz: int, expected: str
) -> None:
    """The exporter's page is behind a Service whose name does not resolve here: enough observations, or too few."""
    home = f"check-through-{hertz}"
    with namespace(apiserver, home), LiveExporter(host="0.0.0.0") as exporter:
        exporter.traffic(hertz)
        put_behind_a_service(apiserver, home, "exporter", exporter.port)
        page = f"http://exporter.{home}.svc:{exporter.port}/metrics"
        config = tmp_path / "config.yaml"
        config.write_text(
            f"kubernetes: {{kubeconfig: '{apiserver.kubeconfig()}'}}\n"
            f"signal: {{period: 1s, window: 2s, timeout: 3s, scrape: {{urls: ['{page}']}}}}\n"
            "domains:\n"
            "- name: cell\n"
            "  critical: [{workload: robot-control, namespace: factory}]\n"
            f"  targets: [{{deployment: upload, namespace: {home}, min: 1M, max: 10M, fail_safe: 2M}}]\n"
        )
        ended = sluice("check", "--cluster", config)
    assert f"Scrape {page} (through the API server): " in ended.stdout, ended.stdout + ended.stderr
    assert expected in ended.stdout, ended.stdout


@pytest.mark.prometheus
def test_a_prometheus_of_the_cluster_is_asked_through_its_api(apiserver: ApiServer, tmp_path: Path) -> None:
    """It answers, and has no series of the workload: the metric is missing."""
    home = "check-prometheus"
    server = PrometheusServer(tmp_path / "prometheus", host="0.0.0.0")
    with namespace(apiserver, home), server as prometheus:
        put_behind_a_service(apiserver, home, "prometheus", prometheus.port)
        url = f"http://prometheus.{home}.svc:{prometheus.port}"
        config = tmp_path / "config.yaml"
        config.write_text(
            f"kubernetes: {{kubeconfig: '{apiserver.kubeconfig()}'}}\n"
            f"signal: {{source: prometheus, period: 1s, window: 4s, prometheus: {{url: '{url}'}}}}\n"
            "domains:\n"
            "- name: cell\n"
            "  critical: [{workload: robot-control, namespace: factory}]\n"
            f"  targets: [{{deployment: upload, namespace: {home}, min: 1M, max: 10M, fail_safe: 2M}}]\n"
        )
        ended = sluice("check", "--cluster", config)
    assert f"Prometheus {url} (through the API server): " in ended.stdout, ended.stdout + ended.stderr
    assert "error workload factory/robot-control: not measured: no series for it is being scraped" in ended.stdout, (
        ended.stdout
    )


def test_a_service_without_pods_is_reported_by_its_own_name(apiserver: ApiServer, tmp_path: Path) -> None:
    """The exporter is down: the error names the configured page, not the proxied address."""
    home = "check-nobody"
    with namespace(apiserver, home):
        apiserver.request("POST", SERVICES.format(home), service("exporter"))
        page = f"http://exporter.{home}.svc/metrics"
        config = tmp_path / "config.yaml"
        config.write_text(
            f"kubernetes: {{kubeconfig: '{apiserver.kubeconfig()}'}}\n"
            f"signal: {{scrape: {{urls: ['{page}']}}}}\n"
            "domains:\n"
            "- name: cell\n"
            "  critical: [{workload: robot-control, namespace: factory}]\n"
            f"  targets: [{{deployment: upload, namespace: {home}, min: 1M, max: 10M, fail_safe: 2M}}]\n"
        )
        ended = sluice("check", "--cluster", config)
    assert f"error scrape: {page}: HTTP status 502" in ended.stdout, ended.stdout + ended.stderr
