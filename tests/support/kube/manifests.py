"""The manifests as kubectl renders them, and on a real API server.

Cilium's own policies are omitted there: the API server of these tests (v1.20 built with Go 1.19)
crashes in its JSON library on any custom resource.  They are checked as text instead.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.kube.apiserver import ApiServer

MANIFESTS = Path(__file__).parents[3] / "manifests"
BUS_USERS = ("sampler", "decision", "actuator", "exporter", "reader")


def kubectl(server: ApiServer, *words: str, stdin: str | None = None) -> str:
    """Run kubectl as the administrator; return its output."""
    program = shutil.which("kubectl")
    assert program is not None, "kubectl is not on PATH"
    config = {"KUBECONFIG": str(server.kubeconfig())}
    done = subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, check=False, env=os.environ | config
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(folder: Path = MANIFESTS) -> list[dict[str, Any]]:
    """Every object that ``kubectl apply -k`` applies."""
    return list(yaml.safe_load_all(subprocess.check_output(["kubectl", "kustomize", str(folder)])))


def builtin() -> str:
    """The objects that need no custom resource definition, as YAML."""
    return yaml.safe_dump_all(one for one in objects() if "cilium.io" not in one["apiVersion"])


def install(server: ApiServer) -> None:
    """Install everything on a server with README's commands; each bus user's password is its name."""
    kubectl(server, "create", "namespace", "sluice")
    users = [f"--from-literal={user}=p-{user}" for user in BUS_USERS]
    kubectl(server, "-n", "sluice", "create", "secret", "generic", "sluice-bus", *users)
    kubectl(server, "apply", "-f", "-", stdin=builtin())
