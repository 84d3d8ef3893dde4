"""What a user configures of the exporter: where flows come from, whom to probe, and what may be kept.

The section ``exporter`` of the configuration file.  Which workloads count, and which are throttled
and therefore left out, stands in the domains.
"""

from msgspec import Struct

from schemas.units import Duration

_S = 10**9

IPERF3_PORT = 5201
"""An iperf3 server takes one client at a time: a probe on its port would lock the application out."""


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """How to know Relay, and how to be known to it; without this section the connection is plaintext."""

    ca: str | None = None
    """Path of the certificate authority that signed Relay's certificate; None: those of the system."""
    certificate: str | None = None
    """Path of the client's certificate, for mutual TLS; ``key`` goes with it."""
    key: str | None = None
    server_name: str | None = None
    """Checked instead of the address: ``sluice.hubble-relay.cilium.io`` fits the chart's certificate."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a certificate without its key, or the reverse.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: certificate and key go together")


class Relay(Struct, frozen=True, forbid_unknown_fields=True):
    """Hubble Relay, whose L4 flows are paired."""

    address: str = "hubble-relay.kube-system.svc.cluster.local:80"
    """Host and port; 443 where the chart switches Relay's TLS on.  Overridden by SLUICE_RELAY_ADDRESS."""
    tls: Tls | None = None
    silence: Duration = Duration(30 * _S)
    """A stream that says nothing for this long is opened anew: a dead peer must not look like a quiet one."""
    exclude_ports: tuple[int, ...] = (53,)
    """Ports whose answers wait for more than the network, such as a name server's."""


class Pairing(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a request may wait for its answer, and how much may wait."""

    handshake: Duration = Duration(5 * _S)
    """An older SYN is given up: two retransmissions are still seen."""
    request: Duration = Duration(1 * _S)
    """An older UDP request is given up; what comes later is hardly its answer."""
    entries: int = 100_000
    """Most requests that wait."""
    bytes: int = 48 * 1024 * 1024
    """Most memory that they take."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a bound is too small to be of use.
        """
        if self.entries < 16 or self.bytes < 16 * 1024:
            raise ValueError("pairing: expected at least 16 entries and 16384 bytes")


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """One critical workload's echo sidecar, and how often it is asked."""

    workload: str
    address: str
    """Name or IP address; every address of a name is probed, so a headless Service reaches each Pod."""
    namespace: str = "default"
    peer: str = "sluice-exporter"
    """Value of the label ``peer``: from where the probe is sent."""
    udp: int | None = 7007
    tcp: int | None = 7007
    rate: float = 100.0
    """UDP echoes a second over all addresses; a signal window needs ``min_observations``."""
    tcp_rate: float = 2.0
    """TCP handshakes a second over all addresses: Hubble sees them too."""
    size: int = 64
    """Payload of a UDP echo, bytes."""
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
        where = f"probe of {self.key}"
        for port in (self.udp, self.tcp):
            if port == IPERF3_PORT:
                raise ValueError(f"{where}: port {IPERF3_PORT} is iperf3's, which takes one client at a time")
            if port is not None and not 0 < port < 65536:
                raise ValueError(f"{where}: port {port} is outside 1 to 65535")
        if self.udp is None and self.tcp is None:
            raise ValueError(f"{where}: neither a UDP nor a TCP port")
        for name, rate, most in (("rate", self.rate, 10_000), ("tcp_rate", self.tcp_rate, 100)):
            if not 0 < rate <= most:
                raise ValueError(f"{where}: {name} {rate} is outside 0 (excluded) to {most}")
        if not 40 <= self.size <= 1400:
            raise ValueError(f"{where}: size {self.size} is outside 40 to 1400 bytes")


class Exporter(Struct, frozen=True, forbid_unknown_fields=True):
    """The service that writes ``hubble_flow_latency_seconds``."""

    relay: Relay | None = None
    """None: no flows are followed."""
    probes: tuple[Probe, ...] = ()
    pairing: Pairing = Pairing()
    buckets: tuple[float, ...] | None = None
    """Upper bounds of the histogram, seconds; None: the 28 that are precise around 2 ms."""
    peers: int = 50
    """Most values of the label ``peer`` for each workload; further peers are ``other``."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: the buckets do not ascend from above zero, or there is no room for a peer.
        """
        if self.buckets is not None:
            ascending = all(low < high for low, high in zip((0.0, *self.buckets), self.buckets, strict=False))
            if not self.buckets or not ascending:
                raise ValueError("exporter: buckets must be above zero and ascend")
        if not 1 <= self.peers <= 10_000:
            raise ValueError(f"exporter: peers {self.peers} is outside 1 to 10000")
