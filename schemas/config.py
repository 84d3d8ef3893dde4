"""The one configuration file that all services read, as types.

Every field with a default may be left out.  Rates are quantities of bit/s (``50M``), durations are
written ``500ms``.  ``services.runtime.config_loader`` reads the file.
"""

from typing import Literal

from msgspec import Struct, field

from schemas.domain import Domain
from schemas.exporter import Exporter
from schemas.units import Duration

_S = 10**9
_MOST_REPLICAS = 5
"""JetStream keeps no more copies."""
_LEAST_BYTES = 1024 * 1024
_LAST_PORT = 65535
_SHORTEST_PERIOD = Duration(_S // 100)
"""Shorter, and the sampler does nothing else."""
_LONGEST_WINDOW = Duration(3600 * _S)
"""Control takes no longer one for a measurement."""


def _check_url(what: str, url: str) -> None:
    """See that something can be asked over HTTP.

    Raises:
        ValueError: it cannot.
    """
    if not url.startswith(("http://", "https://")) or url.endswith("//"):
        raise ValueError(f"{what}: {url!r} is no address: expected http://HOST:PORT")


class Bus(Struct, frozen=True, forbid_unknown_fields=True):
    """The NATS server and the streams on it."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Overridden by SLUICE_NATS_URL (comma-separated)."""
    prefix: str = "sluice"
    """First token of every subject.  Overridden by SLUICE_BUS_PREFIX."""
    user: str | None = None
    """Overridden by SLUICE_NATS_USER; the password comes from SLUICE_NATS_PASSWORD only."""
    credentials: str | None = None
    """Path of an nkey or .creds file."""
    ca: str | None = None
    """Path of the certificate authority that signed the server's certificate: switches TLS on.
    Overridden by SLUICE_NATS_CA."""
    certificate: str | None = None
    """Path of the client's certificate, for mutual TLS; ``key`` goes with it.
    Overridden by SLUICE_NATS_CERTIFICATE."""
    key: str | None = None
    """Path of its key.  Overridden by SLUICE_NATS_KEY."""
    replicas: int = 1
    """Copies that JetStream keeps of each stream."""
    keep: Duration = Duration(24 * 3600 * _S)
    """How long messages are kept for replay and audit."""
    keep_bytes: int = 256 * 1024 * 1024
    """How much each stream keeps."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: no server, an address of another kind, credentials that do not go together, or a
                number out of range.
        """
        if not self.servers:
            raise ValueError("servers: at least one is needed")
        for server in self.servers:
            if not server.startswith(("nats://", "tls://")):
                raise ValueError(f"servers: {server!r} is no address: expected nats://HOST:PORT or tls://HOST:PORT")
        if self.user is not None and self.credentials is not None:
            raise ValueError("user and credentials: only one of the two")
        if (self.certificate is None) != (self.key is None) or (self.certificate is not None and self.ca is None):
            raise ValueError("certificate, key: both are needed, and ca with them")
        if not 1 <= self.replicas <= _MOST_REPLICAS:
            raise ValueError(f"replicas {self.replicas} is outside 1 to {_MOST_REPLICAS}")
        if self.keep_bytes < _LEAST_BYTES:
            raise ValueError(f"keep_bytes {self.keep_bytes} is below {_LEAST_BYTES}")


Figure = Literal["jitter", "p95", "observations", "scraped", "buckets", "lost", "throughput"]
"""What Prometheus is asked for, one query each."""


class Scrape(Struct, frozen=True, forbid_unknown_fields=True):
    """Read the exporter's ``/metrics`` directly: the shortest signal lag."""

    urls: tuple[str, ...] = ("http://127.0.0.1:9965/metrics",)
    """Overridden by SLUICE_SCRAPE_URLS (comma-separated)."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: no page, or an address of another kind.
        """
        if not self.urls:
            raise ValueError("urls: at least one is needed")
        for url in self.urls:
            _check_url("urls", url)


class Prometheus(Struct, frozen=True, forbid_unknown_fields=True):
    """Ask the cluster's Prometheus."""

    url: str = "http://127.0.0.1:9090"
    """Overridden by SLUICE_PROMETHEUS_URL."""
    scrape_interval: Duration = Duration(1 * _S)
    """How often Prometheus scrapes the exporter; the signal window must be at least four of these."""
    headers: dict[str, str] = field(default_factory=dict)
    """For a gateway that wants a token or a tenant."""
    queries: dict[Figure, str] = field(default_factory=dict)
    """PromQL by figure, where the built-in does not fit; empty: do not ask.  See docs/signals.md."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: an address of another kind.
        """
        _check_url("url", self.url)


class Signal(Struct, frozen=True, forbid_unknown_fields=True):
    """Where measurements come from, how often, and over how long a window."""

    source: Literal["scrape", "prometheus"] = "scrape"
    period: Duration = Duration(_S // 2)
    """From one sample to the next."""
    window: Duration = Duration(2 * _S)
    """What one sample averages over; a whole number of periods."""
    timeout: Duration = Duration(_S)
    """A source that answers later than this has no data."""
    preset: Literal["hubble", "netobserv", "obi", "cilium-health"] = "hubble"
    """Whose histogram is read; names the metrics and labels below where they are not given."""
    metric: str | None = None
    """The latency histogram's name, without ``_bucket``."""
    labels: dict[Literal["namespace", "workload"], str] = field(default_factory=dict)
    """The histogram's labels for a workload's namespace and name; an empty name: it has no such label."""
    matchers: dict[str, str] = field(default_factory=dict)
    """Further labels that a series of the histogram must carry, by exact value."""
    lost: str | None = None
    """The counter of lost packets or probes, with the histogram's labels; empty: nothing measures loss."""
    throughput: str = "container_network_transmit_bytes_total"
    """The counter of bytes sent, by namespace and pod (or workload); empty: nothing measures throughput."""
    scrape: Scrape = Scrape()
    prometheus: Prometheus = Prometheus()

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: the period is too short, the window too long, too short for its source or no whole
                number of periods.
        """
        if self.period < _SHORTEST_PERIOD:
            raise ValueError(f"period {self.period} is below {_SHORTEST_PERIOD}")
        if self.window > _LONGEST_WINDOW:
            raise ValueError(f"window {self.window} is above {_LONGEST_WINDOW}")
        if self.window % self.period:
            raise ValueError(f"window {self.window} is not a whole number of periods of {self.period}")
        if self.source == "prometheus" and self.window < 4 * self.prometheus.scrape_interval:
            raise ValueError(
                f"window {self.window} is below four scrape intervals of {self.prometheus.scrape_interval}: "
                "rate() would rest on too few points"
            )


class Kubernetes(Struct, frozen=True, forbid_unknown_fields=True):
    """How the actuator reaches the API server."""

    kubeconfig: str | None = None
    """Path; without it the Pod's service account, and for ``check`` and ``restore`` outside of Pods
    ``~/.kube/config``.  Overridden by KUBECONFIG."""
    server: str | None = None
    """Address of an API server that asks for no credentials (the emulator).  Overridden by SLUICE_KUBERNETES_URL."""
    dry_run: bool = False
    """Report what would be patched, and patch nothing."""
    timeout: Duration = Duration(5 * _S)

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: an address of another kind.
        """
        if self.server is not None:
            _check_url("server", self.server)


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    """Ports of /metrics, /healthz and /readyz; 0 picks a free one."""

    host: str = "0.0.0.0"  # noqa: S104 - a Pod's probes and Prometheus come from outside of it
    sampler: int = 9101
    decision: int = 9102
    actuator: int = 9103
    exporter: int = 9965

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a number that no port has.
        """
        for name in ("sampler", "decision", "actuator", "exporter"):
            if not 0 <= getattr(self, name) <= _LAST_PORT:
                raise ValueError(f"{name}: {getattr(self, name)} is no port: expected 0 to {_LAST_PORT}")


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    domains: tuple[Domain, ...]
    bus: Bus = Bus()
    signal: Signal = Signal()
    kubernetes: Kubernetes = Kubernetes()
    exporter: Exporter = Exporter()
    listen: Listen = Listen()
    log: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        """Check what only the whole can say.

        Raises:
            ValueError: two domains share a name or a target, or the dead-man time is too short for the signal.
        """
        names = [domain.name for domain in self.domains]
        targets = [target.key for domain in self.domains for target in domain.targets]
        for what, keys in (("domain", names), ("target", targets)):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"{what} named twice: {', '.join(twice)}")
        if not self.domains:
            raise ValueError("domains: at least one is needed")
        for domain in self.domains:
            if domain.dead_man < 3 * self.signal.period:
                raise ValueError(
                    f"domain {domain.name!r}: dead_man {domain.dead_man} is below three signal periods "
                    f"of {self.signal.period}: one late sample would set the fail-safe limit"
                )
        critical = {one.key for domain in self.domains for one in domain.critical}
        for probe in self.exporter.probes:
            if probe.key not in critical:
                raise ValueError(f"exporter: the probed workload {probe.key} is not critical in any domain")
