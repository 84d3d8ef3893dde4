"""The scrape configuration is valid, and it selects the right ports of the manifests' Pods."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.config import Listen, Signal
from services.sampler.workloads import metric_names
from tests.support.kube.manifests import MANIFESTS
from tests.support.kube.servers import eventually
from tests.support.readme import Installed

SCRAPE = MANIFESTS / "prometheus-scrape.yaml"


def jobs() -> dict[str, dict[str, Any]]:
    """By name."""
    tree = yaml.safe_load(SCRAPE.read_text(encoding="utf-8"))
    return {job["job_name"]: job for job in tree["scrape_configs"]}


def test_the_exporters_labels_stay_as_they_are() -> None:
    """The sampler queries by the exporter's labels, so the target's labels must not replace them."""
    exporter = jobs()["sluice-exporter"]
    names = metric_names(Signal())
    assert exporter["honor_labels"] is True
    written = {rule.get("target_label") for rule in exporter["relabel_configs"]}
    assert not written & {names.namespace, names.workload}


def discover_targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The targets that Prometheus's discovery of role ``pod`` finds for Pods: one for each container port."""
    found = []
    for number, pod in enumerate(pods):
        for container in pod["spec"]["containers"]:
            for port in container["ports"]:
                labels = {"__meta_kubernetes_pod_name": pod["metadata"]["name"]}
                labels |= {"__meta_kubernetes_pod_container_port_name": port["name"]}
                for key, value in pod["metadata"]["labels"].items():
                    labels[f"__meta_kubernetes_pod_label_{re.sub(r'[^A-Za-z0-9_]', '_', key)}"] = value
                found.append({"targets": [f"10.244.0.{number + 2}:{port['containerPort']}"], "labels": labels})
    return found


@pytest.mark.prometheus
@pytest.mark.apiserver
async def test_it_finds_every_service_on_its_port(installed: Installed, tmp_path: Path) -> None:
    """It finds each service once, and not the bus: Prometheus's relabelling of the Pods of a real API server.

    Debian's build of Prometheus has no Kubernetes discovery, so the test computes the discovered targets.
    """

    async def list_pods() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = installed.server.request("GET", "/api/v1/namespaces/sluice/pods")["items"]
        return items if len(items) == 5 else None

    # Of the exporter, the bus and the three services.
    pods = await eventually(list_pods)
    assert "nats-0" in {pod["metadata"]["name"] for pod in pods}
    listen = Listen()
    wanted = {
        "sluice-exporter": {listen.exporter},
        "sluice-meter": {listen.meter},
        "sluice": {listen.sampler, listen.decision, listen.actuator},
    }
    # The API server of the tests has no controller for DaemonSets, and no node.
    meter = installed.server.request("GET", "/apis/apps/v1/namespaces/sluice-meter/daemonsets/sluice-meter")
    pods.append({**meter["spec"]["template"], "metadata": meter["spec"]["template"]["metadata"] | {"name": "meter-1"}})
    (tmp_path / "pods.json").write_text(json.dumps(discover_targets(pods)), encoding="utf-8")
    for name, job in jobs().items():
        home = "sluice-meter" if name == "sluice-meter" else "sluice"
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": [home]}}]
        job["file_sd_configs"] = [{"files": [str(tmp_path / "pods.json")]}]
        config = tmp_path / f"{name}.yml"
        config.write_text(yaml.safe_dump({"scrape_configs": [job]}), encoding="utf-8")
        await promtool("check", "config", str(config))
        output = await promtool("check", "service-discovery", "--timeout=4s", str(config), name)
        targets = [one["labels"] for one in json.loads(output) if one["labels"]]
        ports = [int(target["__address__"].rpartition(":")[2]) for target in targets]
        assert sorted(ports) == sorted(wanted[name]), output
        assert all(target["__metrics_path__"] == "/metrics" for target in targets)


async def promtool(*words: str) -> str:
    """Run it; return its output."""
    command = ["promtool", *words]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
