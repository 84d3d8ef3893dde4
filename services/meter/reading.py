"""What every pod of the node sent and received, at one instant.

    pods (API) + routes (host) -> a pod's device -> its counters -> *reading*

A pod that cannot be measured is part of the reading, with the reason: a workload of which a part is not seen
must not look like all of it.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from services.meter.host_network import DeviceCounters, HostNetwork, read_driver
from services.meter.pods import NodePod

NETKIT = "netkit"
_NETKIT_REASON = (
    "netkit: the host's end of its device counts no packet that BPF redirects; "
    "set meter.trust_netkit where the host's stack routes them, or read the kubelet"
)


class PodBytes(Struct, frozen=True):
    """The counters of one pod."""

    pod: NodePod
    sent: int
    """Bytes that the pod sent since its device was made, before any limit: what it offered."""
    received: int
    """Bytes that it was sent, as far as they passed the host's end of its device."""
    source: str
    """``device``: counted as it was read; ``kubelet``: at cAdvisor's pace."""
    stamp: int
    """When it was counted, Unix ms."""


class UnmeteredPod(Struct, frozen=True):
    """A pod that may send, and is not measured."""

    pod: NodePod
    reason: str


class Reading(Struct, frozen=True):
    """All pods of the node with a network of their own."""

    metered: tuple[PodBytes, ...] = ()
    unmetered: tuple[UnmeteredPod, ...] = ()


class OtherSources(Struct, frozen=True):
    """What else is known of pods whose address has no route of its own."""

    names: Mapping[str, str] = {}
    """Devices by the pod's uid."""
    counters: Mapping[tuple[str, str], PodBytes] = {}
    """Of another source, by namespace and name, for pods whose device tells nothing."""
    faults: tuple[str, ...] = ()
    """Why these sources do not tell of a pod; empty: there are none."""


class _Binding(Struct, frozen=True):
    """The device on which a pod was seen last."""

    device: str
    version: str
    """Of the pod's object, at that time."""


class NodeMeter:
    """Finds each pod's device and reads its counters."""

    def __init__(
        self,
        network: HostNetwork,
        *,
        trust_netkit: bool = False,
        driver_of: Callable[[str], str] = read_driver,
        now: Callable[[], int] | None = None,
    ) -> None:
        """Read this network.

        Args:
            network: the host's.
            trust_netkit: a netkit device's counters are complete, because no BPF program redirects its packets.
            driver_of: tells a device's driver.
            now: Unix ms; by default one that is never set, so that rates between two readings are right.
        """
        self._network = network
        self._trust_netkit = trust_netkit
        self._driver_of = driver_of
        offset = time.time_ns() - time.monotonic_ns()
        self._now = now or (lambda: (time.monotonic_ns() + offset) // 10**6)
        self._bound: dict[str, _Binding] = {}
        self._drivers: dict[str, str] = {}

    def read(self, pods: Iterable[NodePod], others: OtherSources = OtherSources()) -> Reading:  # noqa: B008 - frozen
        """Read all counters now.

        Args:
            pods: of this node, as the API has them.
            others: what else is known of them.

        Raises:
            OSError: the kernel does not answer.
        """
        routes, counters, stamp = self._network.read_routes(), self._network.read_counters(), self._now()
        live = [pod for pod in pods if pod.has_own_network and pod.addresses]
        # An address may have been given to another pod while the one before is still being removed.
        owners = {
            ip: pod.metadata.uid for pod in sorted(live, key=lambda pod: not pod.is_terminating) for ip in pod.addresses
        }
        metered, unmetered = [], []
        present = {pod.metadata.uid for pod in live}
        self._bound = {uid: binding for uid, binding in self._bound.items() if uid in present}
        for pod in live:
            uid = pod.metadata.uid
            own = [ip for ip in pod.addresses if owners[ip] == uid]
            device = next((routes[ip] for ip in own if ip in routes), others.names.get(uid))
            found = self._find_counters(pod, device, counters)
            other = others.counters.get((pod.metadata.namespace, pod.metadata.name))
            if isinstance(found, DeviceCounters):
                metered.append(
                    PodBytes(pod=pod, sent=found.received, received=found.sent, source="device", stamp=stamp)
                )
            elif other is not None:
                metered.append(other)
            elif not pod.is_terminating and own:
                unmetered.append(UnmeteredPod(pod, "; ".join((found, *others.faults))))
        self._drivers = {name: driver for name, driver in self._drivers.items() if name in counters}
        return Reading(tuple(metered), tuple(unmetered))

    def _find_counters(
        self, pod: NodePod, device: str | None, counters: Mapping[str, DeviceCounters]
    ) -> DeviceCounters | str:
        """The counters of a pod's device, or why there are none."""
        if device is None:
            return f"no route of its own to {', '.join(pod.addresses)}: endpointRoutes.enabled is off, or not yet there"
        if device not in counters:
            return f"its device {device} is gone"
        if device not in self._drivers:
            self._drivers[device] = self._driver_of(device)
        if self._drivers[device] == NETKIT and not self._trust_netkit:
            return _NETKIT_REASON
        version = pod.metadata.resource_version
        before = self._bound.get(pod.metadata.uid, _Binding(device, version))
        if before.device != device and (before.version == version or pod.is_terminating):
            # The address went to another pod, of which the API has no news yet.
            return f"its address moved from device {before.device} to {device}"
        self._bound[pod.metadata.uid] = _Binding(device, version)
        return counters[device]
