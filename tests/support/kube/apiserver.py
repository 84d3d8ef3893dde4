"""A real Kubernetes API server for tests: etcd, kube-apiserver and kube-controller-manager on loopback.

The programs come from the folder that KUBEBUILDER_ASSETS names.  RBAC, admission of ServiceAccounts
and their tokens are on.  There is no scheduler and no kubelet: pods stay Pending until a test binds
them, and a deleted pod that was bound is removed when a test deletes it again without grace.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import requests

from tests.support.guard import LASTING
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE_S

_CONTROLLERS = (
    "deployment,replicaset,statefulset,daemonset,job,garbagecollector,namespace,serviceaccount,serviceaccount-token"
)


class ApiServer:
    """A running API server, and access to it."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        """Describe a server that keeps its files in ``folder``."""
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.token = token
        self.ca = folder / "certs" / "apiserver.crt"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}

    def kubeconfig(self, token: str | None = None) -> Path:
        """Write a kubeconfig for a bearer token (default: the administrator's); return its path."""
        token = token or self.token
        path = self.folder / f"kubeconfig-{secrets.token_hex(4)}"
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(tree), encoding="utf-8")
        return path

    def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Send a request as the administrator; return the decoded answer.

        Raises:
            requests.RequestException: the server refused, or did not answer.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body)
        with requests.Session() as session:
            url = self.url + path
            answer = session.request(method, url, data=data, headers=headers, timeout=30, verify=str(self.ca))
            answer.raise_for_status()
            return answer.json()

    def trust(self) -> ssl.SSLContext:
        """The certificate that a client needs to trust the server."""
        return ssl.create_default_context(cafile=str(self.ca))

    def token_of(self, namespace: str, account: str) -> str:
        """A token of an existing ServiceAccount, as its Pod would get it."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
        return str(answer["status"]["token"])

    def start(self, name: str) -> None:
        """Start one of ``etcd``, ``kube-apiserver`` and ``kube-controller-manager`` (again)."""
        log: BinaryIO
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self._commands[name], stdout=log, stderr=log, cwd=self.folder)
        self._processes[name] = process
        LASTING.add(process.pid)

    def stop(self, name: str) -> None:
        """Kill one of the programs to simulate a crash."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def start_all(self) -> None:
        """Start the three programs and wait until pods can be created.

        Raises:
            RuntimeError: one of them does not become ready in time; the text holds the end of its log.
        """
        self.start("etcd")
        self.start("kube-apiserver")
        self.wait_for("kube-apiserver", "/apis/apps/v1/namespaces/default/deployments")
        self.start("kube-controller-manager")
        self.wait_for("kube-controller-manager", "/api/v1/namespaces/default/serviceaccounts/default")

    def wait_for(self, name: str, path: str) -> None:
        """Wait until ``path`` answers; it needs the program ``name``, which is started again if it gives up.

        On a busy machine the API server may take longer to be healthy than a controller manager waits for it.

        Raises:
            RuntimeError: it does not in time; the text holds the end of the program's log.
        """
        deadline = time.monotonic() + PATIENCE_S
        error: object = None
        ended: int | None = None
        while time.monotonic() < deadline:
            try:
                self.request("GET", path)
            except OSError as absent:
                error = absent
                time.sleep(0.05)
            else:
                return
            if self._processes[name].poll() is not None:
                ended = self._processes[name].returncode
                time.sleep(1)
                self.start(name)
        tail = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name} is not ready: {error}, last exit code {ended}\n{tail}")

    def plan(self, name: str, *command: str | Path) -> None:
        """The command that starts a program."""
        self._commands[name] = [str(word) for word in command]


def _http_off(program: Path) -> list[str]:
    """Options that close a controller manager's port without TLS: later versions know neither the port nor the flag."""
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return ["--port=0"] if re.search(r"^ +--port ", done.stdout + done.stderr, re.MULTILINE) else []


def _plan(server: ApiServer, assets: Path, ports: list[int]) -> None:
    folder = server.folder
    etcd, peer, api = ports
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{server.token},administrator,1,system:masters\n", encoding="utf-8")
    server.plan(
        "etcd",
        *(assets / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync"),
        *("--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}"),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
    )
    server.plan(
        "kube-apiserver",
        *(assets / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd}", f"--cert-dir={folder / 'certs'}"),
        *("--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", f"--secure-port={api}"),
        *("--authorization-mode=RBAC", f"--token-auth-file={folder / 'tokens.csv'}"),
        *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"),
        *(f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.96.0.0/24"),
        *("--watch-cache=true", "--v=1"),
    )
    server.plan(
        "kube-controller-manager",
        *(assets / "kube-controller-manager", f"--kubeconfig={server.kubeconfig()}", "--leader-elect=false"),
        *(f"--controllers={_CONTROLLERS}", *_http_off(assets / "kube-controller-manager"), "--secure-port=0", "--v=1"),
        *(f"--service-account-private-key-file={key}", f"--root-ca-file={server.ca}"),
    )


@contextlib.contextmanager
def running() -> Iterator[ApiServer]:
    """A ready API server while the context lasts.

    Raises:
        RuntimeError: it does not become ready.
    """
    assets = Path(os.environ["KUBEBUILDER_ASSETS"])
    folder = Path(tempfile.mkdtemp(prefix="kube-"))
    ports = free_ports(3)
    server = ApiServer(folder, ports[-1], secrets.token_hex(16))
    try:
        _plan(server, assets, ports)
        server.start_all()
        yield server
    finally:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            server.stop(name)
        shutil.rmtree(folder, ignore_errors=True)
