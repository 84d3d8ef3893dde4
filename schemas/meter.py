"""The configuration of the meter: where it finds a pod's bytes if the host has no route to the pod.

The section ``meter`` of the configuration file.  The node's name and address come from the environment.
"""

from typing import Annotated, Literal

from schemas.settings import Settings, between

UNMETERED = "sluice_meter_unmetered"
"""On a meter's page: pods that may send and are not measured, with the label ``reason``."""


class Meter(Settings, frozen=True):
    """What the meter reads besides routes and devices."""

    endpoints: bool = False
    """Find the devices of pods without a route by their CiliumEndpoints; the account needs ``get`` on these.
    Overridden by SLUICE_METER_ENDPOINTS (``true``)."""
    kubelet: Literal["off", "verified", "unverified"] = "off"
    """Read the kubelet's ``/metrics/cadvisor`` for pods whose device tells nothing; whether its certificate is
    verified with the cluster's authority.  The account needs ``get`` on ``nodes/metrics``.
    Overridden by SLUICE_METER_KUBELET."""
    kubelet_port: Annotated[int, between(1, 65535)] = 10250
    """The kubelet's port at the node's address."""
    trust_netkit: bool = False
    """The counters of netkit devices are complete: host routing by BPF is off."""
