"""An API server on which Sluice was installed with README's commands."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.kube import apiserver, servers
from tests.support.readme import Installed, commands, typed

SETTINGS = {"enable-bandwidth-manager": "true", "enable-endpoint-routes": "true", "enable-hubble": "true"}
"""The settings that Cilium's chart derives from cilium-values.yaml, as far as they are read."""

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@pytest.fixture(params=servers.BOTH)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[servers.Server]:
    """A Kubernetes API without nodes, first emulated and then real, and a fresh namespace on it."""
    async with servers.open_server(request) as one:
        yield one


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """README's install section, run command by command; test_containers.py builds the images."""
    prefix = tmp_path_factory.mktemp("prefix")
    with apiserver.running() as server:
        data = {"metadata": {"name": "cilium-config"}, "data": SETTINGS}
        server.request("POST", "/api/v1/namespaces/kube-system/configmaps", data)
        default = {
            "metadata": {"name": "standard", "annotations": {DEFAULT_CLASS: "true"}},
            "provisioner": "example.org/x",
        }
        server.request("POST", "/apis/storage.k8s.io/v1/storageclasses", default)
        relay = {"metadata": {"name": "hubble-relay"}, "spec": {"ports": [{"port": 80}]}}
        server.request("POST", "/api/v1/namespaces/kube-system/services", relay)
        lines = [one for one in commands("Install on a cluster") if not one.startswith("docker ")]
        yield Installed(server, prefix, tuple(typed(server, prefix, line) for line in lines))
