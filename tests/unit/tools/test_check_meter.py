"""What `sluice check --cluster` says about the meter."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.tools.check.cluster_rules import ClusterObjects, MeterObjects, check_meter

ROUTES = {"enable-endpoint-routes": "true"}


def daemon_set(ready: int = 3, **variables: str) -> dict[str, Any]:
    """A DaemonSet on three nodes, whose container has these variables."""
    container = {"name": "meter", "env": [{"name": name, "value": value} for name, value in variables.items()]}
    status = {"numberReady": ready, "desiredNumberScheduled": 3}
    return {"spec": {"template": {"spec": {"containers": [container]}}}, "status": status}


METER = MeterObjects(service="sluice-meter/sluice-meter", daemon_set=daemon_set())
KUBELET = replace(METER, daemon_set=daemon_set(SLUICE_METER_KUBELET="unverified"))


@pytest.mark.parametrize(
    ("meter", "cilium", "found"),
    [
        (None, {}, ""),
        (METER, ROUTES, ""),
        (METER, {}, "endpointRoutes.enabled=true, or components/meter-endpoints"),
        (replace(METER, endpoints=True), {}, ""),
        (replace(METER, daemon_set=None), ROUTES, "manifests/meter.yaml"),
        (replace(METER, daemon_set=daemon_set(ready=1)), ROUTES, "2 of 3 are not ready"),
        (METER, ROUTES | {"datapath-mode": "netkit"}, "components/meter-kubelet"),
        (replace(METER, trusts_netkit=True), ROUTES | {"datapath-mode": "netkit"}, ""),
        (KUBELET, {"datapath-mode": "netkit"}, "10 to 15 s apart"),
    ],
)
def test_each_fault_is_found_alone(meter: MeterObjects | None, cilium: dict[str, str], found: str) -> None:
    """One finding, with its remedy, or none."""
    seen = ClusterObjects(cilium=cilium, nodes=(), deployments={}, pods=(), policies=(), meter=meter)
    texts = [one.what for one in check_meter(seen)]
    assert len(texts) == bool(found)
    assert found in "".join(texts)
