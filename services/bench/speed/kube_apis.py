"""Kubernetes APIs to measure against, each in processes of its own: the emulator, or a real server."""

import asyncio
import json
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct

from schemas.config import Kubernetes
from services.plant.harness.pipeline import NotReady, find_free_ports, find_program
from services.plant.harness.processes import Processes

ASSETS = "KUBEBUILDER_ASSETS"
"""The variable that names the folder of etcd, kube-apiserver and kube-controller-manager."""
_PATIENCE_S = 60
_DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


class Api(Struct, frozen=True):
    """A Kubernetes API that runs, and how to reach it."""

    name: str
    url: str
    config: Kubernetes
    token: str | None = None
    ca: Path | None = None

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A plain HTTP client of it, with as many connections as it has requests."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        trust = ssl.create_default_context(cafile=self.ca) if self.ca is not None and self.ca.exists() else True
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        async with aiohttp.ClientSession(self.url, headers=headers, connector=connector) as session:
            yield session

    async def deploy(self, name: str, replicas: int, annotations: dict[str, str]) -> list[str]:
        """Make a Deployment in namespace ``default``; gives the paths of it and of its Pods once they are there.

        Raises:
            TimeoutError: the Pods never came.
        """
        tree = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}, "annotations": annotations},
                    "spec": {"containers": [{"name": "app", "image": "app:1"}]},
                },
            },
        }
        async with self.client() as client, asyncio.timeout(_PATIENCE_S):
            (await client.post(_DEPLOYMENTS, json=tree)).raise_for_status()
            while True:
                answer = await client.get(f"/api/v1/namespaces/default/pods?labelSelector=app%3D{name}")
                pods = [item["metadata"]["name"] for item in (await answer.json())["items"]]
                if len(pods) == replicas:
                    return [f"{_DEPLOYMENTS}/{name}", *(f"/api/v1/namespaces/default/pods/{pod}" for pod in pods)]
                await asyncio.sleep(0.1)


async def start_emulator(processes: Processes) -> Api:
    """Start the emulator.

    Raises:
        NotReady: it does not answer in time.
        ProcessDied: it ended.
    """
    (port,) = find_free_ports(1)
    url = f"http://127.0.0.1:{port}"
    await processes.start("emulator", find_program("python"), "-m", "services.bench.speed.emulator_process", str(port))
    api = Api("emulator", url, Kubernetes(server=url))
    await wait_for_answer(api, processes, "emulator")
    return api


async def start_real(processes: Processes) -> Api:
    """Start etcd, kube-apiserver and the controllers that make a Deployment's Pods; there are no nodes.

    Raises:
        NotReady: it does not answer in time.
        ProcessDied: one of the programs ended.
    """
    home, assets = processes.home, Path(os.environ[ASSETS])
    etcd, peer, port = find_free_ports(3)
    token, key, certificates = secrets.token_hex(16), home / "accounts.key", home / "certificates"
    made = await asyncio.create_subprocess_exec("openssl", "genrsa", "-out", key, "2048", stderr=-3)
    await made.wait()
    (home / "tokens.csv").write_text(f"{token},administrator,1,system:masters\n", encoding="utf-8")
    at = f"http://127.0.0.1:{etcd}"
    await processes.start(
        "etcd", assets / "etcd", "--data-dir", home / "etcd",
        *("--listen-client-urls", at, "--advertise-client-urls", at, "--listen-peer-urls", f"http://127.0.0.1:{peer}"),
    )  # fmt: skip
    await processes.start(
        "kube-apiserver", assets / "kube-apiserver", f"--etcd-servers={at}", f"--cert-dir={certificates}",
        *("--bind-address=127.0.0.1", f"--secure-port={port}", "--endpoint-reconciler-type=none"),
        *("--authorization-mode=RBAC", f"--token-auth-file={home / 'tokens.csv'}"),
        *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"),
        *(f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.96.0.0/24"),
        "--disable-admission-plugins=ServiceAccount",
    )  # fmt: skip
    url, ca = f"https://127.0.0.1:{port}", certificates / "apiserver.crt"
    kubeconfig = home / "kubeconfig"
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "bench", "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
    kubeconfig.write_text(json.dumps(tree), encoding="utf-8")
    api = Api(name="real API server", url=url, config=Kubernetes(kubeconfig=str(kubeconfig)), token=token, ca=ca)
    await wait_for_answer(api, processes, "kube-apiserver")
    await processes.start(
        "kube-controller-manager", assets / "kube-controller-manager", f"--kubeconfig={kubeconfig}",
        *("--leader-elect=false", "--controllers=deployment,replicaset", "--secure-port=0"),
    )  # fmt: skip
    return api


async def wait_for_answer(api: Api, processes: Processes, name: str) -> None:
    """Wait until an API answers; ``name`` is its process.

    Raises:
        NotReady: it does not in time.
        ProcessDied: the process ended.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        processes.check(name)
        try:
            async with api.client() as client, client.get("/api/v1/namespaces/default") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise NotReady(f"{name} does not answer after {_PATIENCE_S} s:\n{processes.tail(name)}")
