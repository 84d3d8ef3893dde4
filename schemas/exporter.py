"""The configuration of the exporter: where flows come from, whom to probe, and what may be kept.

The section ``exporter`` of the configuration file.  Which workloads count, and which are throttled
and therefore left out, is configured in the domains.
"""

from typing import Annotated

from schemas.settings import Settings, between
from schemas.units import Duration

_S = 10**9

IPERF3_PORT = 5201
"""An iperf3 server takes one client at a time: a probe on its port would lock the application out."""


class Tls(Settings, frozen=True):
    """How the exporter and Relay authenticate each other; without this section the connection is plaintext."""

    ca: str | None = None
    """Path of the certificate authority that signed Relay's certificate; without it those of the system."""
    certificate: str | None = None
    """Path of the client's certificate, for mutual TLS; ``key`` goes with it."""
    key: str | None = None
    """Path of the key of ``certificate``."""
    server_name: str | None = None
    """Name that is checked instead of the address: ``sluice.hubble-relay.cilium.io`` fits the chart's certificate."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a certificate without its key, or the reverse.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: certificate and key go together")


class Relay(Settings, frozen=True):
    """Hubble Relay, whose L4 flows are paired."""

    address: str = "hubble-relay.kube-system.svc.cluster.local:80"
    """Host and port; 443 where the chart switches Relay's TLS on.  Overridden by SLUICE_RELAY_ADDRESS."""
    tls: Tls | None = None
    """Switches TLS on."""
    silence: Duration = Duration(30 * _S)
    """A stream without a message for this long is reopened: a dead peer must not look like a quiet one."""
    exclude_ports: tuple[int, ...] = (53,)
    """Ports whose answers wait for more than the network, such as a name server's."""


class Pairing(Settings, frozen=True):
    """How long a request may wait for its answer, and how much may wait."""

    handshake: Duration = Duration(5 * _S)
    """An older SYN is given up: two retransmissions are still seen."""
    request: Duration = Duration(1 * _S)
    """An older UDP request is given up; what comes later is hardly its answer."""
    entries: Annotated[int, between(16)] = 100_000
    """Most requests that wait."""
    bytes: Annotated[int, between(16 * 1024, unit="bytes")] = 16 * 1024 * 1024
    """Most memory that they take."""


class Probe(Settings, frozen=True):
    """One critical workload's echo sidecar, and how often it is asked."""

    workload: str
    """Name of the workload, as in its domain."""
    address: str
    """Name or IP address; every address of a name is probed, so a headless Service reaches each Pod."""
    namespace: str = "default"
    """Namespace of the workload."""
    peer: str = "sluice-exporter"
    """Value of the label ``peer``: from where the probe is sent."""
    udp: Annotated[int | None, between(1, 65535)] = 7007
    """UDP port of the echo sidecar; null sends no UDP."""
    tcp: Annotated[int | None, between(1, 65535)] = 7007
    """TCP port of the echo sidecar; null opens no TCP connection."""
    rate: Annotated[float, between(0.01, 10_000, unit="1/s")] = 100.0
    """UDP echoes a second over all addresses; a signal window needs ``min_observations``."""
    tcp_rate: Annotated[float, between(0.01, 100, unit="1/s")] = 2.0
    """TCP handshakes a second over all addresses: Hubble sees them too."""
    size: Annotated[int, between(40, 1400, unit="bytes")] = 64
    """Payload of a UDP echo."""
    timeout: Duration = Duration(1 * _S)
    """An echo that takes longer is lost."""

    @property
    def key(self) -> str:
        """``namespace/workload``, as domains name it."""
        return f"{self.namespace}/{self.workload}"

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a port, a rate or the size is out of range.
        """
        super().__post_init__()
        where = f"probe of {self.key}"
        for port in (self.udp, self.tcp):
            if port == IPERF3_PORT:
                raise ValueError(f"{where}: port {IPERF3_PORT} is iperf3's, which takes one client at a time")
        if self.udp is None and self.tcp is None:
            raise ValueError(f"{where}: neither a UDP nor a TCP port")


class Exporter(Settings, frozen=True):
    """The service that writes ``hubble_flow_latency_seconds``."""

    relay: Relay | None = None
    """Where flows come from; without it none are followed."""
    probes: tuple[Probe, ...] = ()
    """The critical workloads to probe."""
    pairing: Pairing = Pairing()
    """How requests are matched with their answers."""
    buckets: tuple[float, ...] | None = None
    """Upper bounds of the histogram, seconds; without them the 28 that are precise around 2 ms."""
    peers: Annotated[int, between(1, 10_000)] = 50
    """Most values of the label ``peer`` for each workload; further peers are ``other``."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: the buckets do not ascend from above zero, or there is no room for a peer.
        """
        super().__post_init__()
        if self.buckets is not None:
            ascending = all(low < high for low, high in zip((0.0, *self.buckets), self.buckets, strict=False))
            if not self.buckets or not ascending:
                raise ValueError("exporter: buckets must be above zero and ascend")
