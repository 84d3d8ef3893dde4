"""An API server on which README's install section was followed."""

from collections.abc import Iterator

import pytest

from tests.support.kube import apiserver
from tests.support.readme import Installed, commands, typed

SETTINGS = {"enable-bandwidth-manager": "true", "enable-hubble": "true"}
"""What Cilium's chart makes of cilium-values.yaml, as far as anybody asks."""

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@pytest.fixture(scope="package")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """README's install section, typed command by command; images are built elsewhere (test_containers.py)."""
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
