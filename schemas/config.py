"""The one configuration file that all services read by ``services.runtime.config_loader``, as types.

Every field with a default may be left out.  Rates are quantities of bit/s (``50M``), durations are like ``500ms``.
"""

import re
from typing import Annotated, Literal

from msgspec import field

from schemas.domain import Domain
from schemas.exporter import Exporter
from schemas.http import Http, check_headers, check_url, has_host, without_query
from schemas.meter import Meter
from schemas.settings import Settings, between, find_repeated
from schemas.sharding import Sharding
from schemas.units import Duration

_S = 10**9

Port = Annotated[int, between(0, 65535)]


class BusConfig(Settings, frozen=True):
    """The NATS server and the streams on it."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Addresses of the NATS servers.  Overridden by SLUICE_NATS_URL (comma-separated)."""
    prefix: str = "sluice"
    """First token of every subject.  Overridden by SLUICE_BUS_PREFIX."""
    user: str | None = None
    """User name.  Overridden by SLUICE_NATS_USER; the password comes from SLUICE_NATS_PASSWORD only."""
    credentials: str | None = None
    """Path of an nkey or .creds file."""
    ca: str | None = None
    """Path of the certificate authority that signed the server's certificate: switches TLS on.
    Overridden by SLUICE_NATS_CA."""
    certificate: str | None = None
    """Path of the client's certificate, for mutual TLS; ``key`` goes with it.
    Overridden by SLUICE_NATS_CERTIFICATE."""
    key: str | None = None
    """Path of the key of ``certificate``.  Overridden by SLUICE_NATS_KEY."""
    replicas: Annotated[int, between(1, 5)] = 1
    """Copies that JetStream keeps of each stream.  Overridden by SLUICE_BUS_REPLICAS."""
    keep: Duration = Duration(24 * 3600 * _S)
    """How long messages are kept for replay and audit."""
    keep_bytes: Annotated[int, between(1024 * 1024, unit="bytes")] = 256 * 1024 * 1024
    """How much each stream keeps at most."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: no server, an address of another kind, credentials that do not go together, or a
                number out of range.
        """
        super().__post_init__()
        if not self.servers:
            raise ValueError("servers: at least one is needed")
        for server in self.servers:
            if "@" in server:
                # The address stands in logs, on health pages and in error messages.
                raise ValueError(
                    "servers: an address must not hold a user or a password: set bus.user and SLUICE_NATS_PASSWORD,"
                    " or bus.credentials"
                )
            if not server.startswith(("nats://", "tls://")) or not has_host(server):
                shown = without_query(server)
                raise ValueError(f"servers: {shown!r} is no address: expected nats://HOST:PORT or tls://HOST:PORT")
        if self.user is not None and self.credentials is not None:
            raise ValueError("user and credentials: only one of the two")
        if (self.certificate is None) != (self.key is None) or (self.certificate is not None and self.ca is None):
            raise ValueError("certificate, key: both are needed, and ca with them")


Figure = Literal[
    "jitter", "p95", "observations", "scraped", "buckets", "resets", "returns", "appeared", "lost", "throughput"
]
"""What Prometheus is asked for, one query each."""


class Scrape(Settings, frozen=True):
    """Read the exporter's ``/metrics`` directly: the shortest signal lag."""

    urls: tuple[str, ...] = ("http://127.0.0.1:9965/metrics",)
    """The exporter's pages.  Overridden by SLUICE_SCRAPE_URLS (comma-separated)."""
    meters: tuple[str, ...] = ()
    """The meters' pages: every address that a name has is a meter, as with a headless Service.  Where there are
    meters, throughput comes from them alone.  Overridden by SLUICE_SCRAPE_METERS (comma-separated)."""
    max_bytes: Annotated[int, between(1024, unit="bytes")] = 64 * 1024 * 1024
    """The largest page that is read.  Pages are filtered while they stream: memory does not grow with this."""
    max_lines: Annotated[int, between(1, 1_000_000)] = 5_000
    """How many lines of the configured workloads all pages together may have; memory grows by 1 to 3 KiB a line."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: no page, an address of another kind, or a number out of range.
        """
        super().__post_init__()
        if not self.urls:
            raise ValueError("urls: at least one is needed")
        for url in self.urls:
            check_url("urls", url)
        if twice := find_repeated(url.rstrip("/") for url in self.urls):
            shown = ", ".join(without_query(url) for url in twice)
            raise ValueError(f"urls: named twice, and all that it counts would count twice: {shown}")
        for url in self.meters:
            check_url("meters", url)
            if not url.startswith("http://"):
                raise ValueError(f"meters: {url!r}: a meter answers at http:// only")

    def check_window(self, window: Duration) -> None:
        """Any window will do: two pages are enough."""


class Prometheus(Settings, frozen=True):
    """Ask the cluster's Prometheus."""

    url: str = "http://127.0.0.1:9090"
    """Address of Prometheus.  Overridden by SLUICE_PROMETHEUS_URL."""
    scrape_interval: Duration = Duration(1 * _S)
    """How often Prometheus scrapes the exporter; the signal window must be at least four of these."""
    latency_offset: Annotated[Duration | None, between(Duration(1), Duration(600 * _S))] = None
    """How long the server holds back what is new, or gets it late: windows end so much earlier.  VictoriaMetrics holds
    back 30s unless its -search.latencyOffset says otherwise; behind remote write it is what the writer lags.
    None: nothing."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further HTTP headers of every query; those of ``signal.http`` are sent to every source."""
    max_bytes: Annotated[int, between(1024, unit="bytes")] = 2 * 1024 * 1024
    """The largest answer that is read."""
    queries: dict[Figure, str] = field(default_factory=dict)
    """PromQL by figure, where the built-in query does not fit; an empty query is not asked.  See docs/signals.md."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: an address of another kind, no HTTP header, or a number out of range.
        """
        super().__post_init__()
        check_url("url", self.url)
        check_headers(self.headers)

    @property
    def shortest_window(self) -> Duration:
        """Four scrape intervals."""
        return Duration(4 * self.scrape_interval)

    def check_window(self, window: Duration) -> None:
        """Check a window against the scrape interval.

        Raises:
            ValueError: it is too short.
        """
        if window < self.shortest_window:
            raise ValueError(
                f"window {window} is below four scrape intervals of {self.scrape_interval}: "
                "rate() would rest on too few points"
            )


class Signal(Settings, frozen=True):
    """Where measurements come from, how often, and over how long a window."""

    source: Literal["scrape", "prometheus"] = "scrape"
    """Whether the sampler reads the exporter itself or asks Prometheus."""
    # In less than 10 ms a sampler does nothing else; control takes no window above an hour for a measurement.
    period: Annotated[Duration, between(Duration(_S // 100))] = Duration(_S // 2)
    """Time from one sample to the next."""
    window: Annotated[Duration, between(Duration(_S // 100), Duration(3600 * _S))] = Duration(2 * _S)
    """What one sample averages over; a whole number of periods."""
    timeout: Duration = Duration(_S)
    """A source that answers later than this has no data."""
    preset: Literal["hubble", "netobserv", "obi", "cilium-health"] = "hubble"
    """Whose histogram is read; names the metrics and labels below where they are not given."""
    metric: str | None = None
    """The latency histogram's name, without ``_bucket``."""
    labels: dict[Literal["namespace", "workload", "node"], str] = field(default_factory=dict)
    """The histogram's labels for a workload's namespace, its name, and its Pod's node; empty where it has no such."""
    matchers: dict[str, str] = field(default_factory=dict)
    """Further labels that a series of the histogram must carry, by exact value."""
    lost: str | None = None
    """The counter of lost packets or probes, with the histogram's labels; empty where nothing measures loss."""
    throughput: str = "container_network_transmit_bytes_total"
    """The counter of bytes sent, by namespace and pod (or workload); empty where nothing measures throughput."""
    interface: str = "eth0"
    """The network interface whose bytes count, where the counter has a label ``interface``; empty: all together."""
    unit: Literal["s", "ms", "us", "ns"] = "s"
    """The unit of the latency histogram's buckets."""
    http: Http = Http()
    """How the source is asked."""
    scrape: Scrape = Scrape()
    """For the source ``scrape``."""
    prometheus: Prometheus = Prometheus()
    """For the source ``prometheus``."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: the period is too short, the window too long, too short for its source or no whole
                number of periods.
        """
        super().__post_init__()
        if self.window % self.period:
            raise ValueError(f"window {self.window} is not a whole number of periods of {self.period}")
        self.settings.check_window(self.window)

    @property
    def settings(self) -> Scrape | Prometheus:
        """The section of the configured source."""
        settings: Scrape | Prometheus = getattr(self, self.source)
        return settings


class Resources(Settings, frozen=True):
    """Domains described in the cluster, beside those of the file: resources of the kind BandwidthDomain."""

    enabled: bool = True
    """Whether they are read; where the kind is not installed, there are none."""
    namespace: str | None = None
    """The only namespace whose resources count; without it those of every namespace."""
    trusted: tuple[str, ...] = ("sluice",)
    """The namespaces whose resources may limit workloads of other namespaces."""


class Kubernetes(Settings, frozen=True):
    """How the actuator reaches the API server."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; without it the Pod's service account, and for ``check`` and ``restore`` outside of Pods
    ``~/.kube/config``.  Overridden by KUBECONFIG."""
    server: str | None = None
    """Address of an API server that asks for no credentials (the emulator).  Overridden by SLUICE_KUBERNETES_URL."""
    dry_run: bool = False
    """Report what would be patched, and patch nothing."""
    timeout: Duration = Duration(5 * _S)
    """How long the actuator waits for one answer of the API server."""
    lease: str | None = None
    """``namespace/name`` of a Lease, for several actuators: its holder acts, and the others stand by.
    Overridden by SLUICE_LEASE."""
    lease_duration: Annotated[Duration, between(Duration(_S // 2), Duration(60 * _S))] = Duration(2 * _S)
    """How long a Lease holds that is not renewed."""
    shards: Annotated[int, between(1, 12)] = 1
    """Shards of domains, each with a Lease: ``lease`` and ``-0``, ``-1``.  Overridden by SLUICE_SHARDS."""
    resources: Resources = Resources()
    """Domains described in the cluster."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: an address of another kind, a Lease that is not named by two words, or shards without one.
        """
        super().__post_init__()
        if self.server is not None:
            check_url("server", self.server)
        if self.lease is not None and not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", self.lease):
            raise ValueError(f"lease: {self.lease!r} is no NAMESPACE/NAME")
        if self.shards > 1 and self.lease is None:
            raise ValueError("shards: several need a lease")


class Listen(Settings, frozen=True):
    """Ports of /metrics, /healthz and /readyz; 0 picks a free one."""

    host: str = "::"
    """Address to listen on; ``::`` is every address, IPv4 and IPv6."""
    sampler: Port = 9101
    """Port of the sampler."""
    decision: Port = 9102
    """Port of the decision service."""
    actuator: Port = 9103
    """Port of the actuator."""
    exporter: Port = 9965
    """Port of the exporter."""
    meter: Port = 9968
    """Port of the meter, on the node's own network."""


class Config(Settings, frozen=True):
    """The whole file."""

    domains: tuple[Domain, ...]
    """Who shares a bottleneck, and whose limits may move.  May be empty (``[]``) where resources are read."""
    bus: BusConfig = BusConfig()
    """The NATS server and the streams on it."""
    signal: Signal = Signal()
    """Where measurements come from."""
    kubernetes: Kubernetes = Kubernetes()
    """How the actuator reaches the API server."""
    sharding: Sharding = Sharding()
    """How several replicas share the domains."""
    exporter: Exporter = Exporter()
    """What the exporter measures."""
    meter: Meter = Meter()
    """What the meter reads."""
    listen: Listen = Listen()
    """Where the services' health and metrics are served."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the log lines that are written.  Overridden by SLUICE_LOG."""

    def __post_init__(self) -> None:
        """Check what only the whole can say.

        Raises:
            ValueError: two domains share a name or a target, or the dead-man time is too short for the signal.
        """
        has_own = bool(self.domains)
        problems = []
        if not has_own and not self.kubernetes.resources.enabled:
            problems.append("domains: at least one is needed, since kubernetes.resources is not enabled")
        names = [domain.name for domain in self.domains]
        targets = [target.key for domain in self.domains for target in domain.targets]
        for what, keys in (("domain", names), ("target", targets)):
            twice = find_repeated(keys)
            if twice:
                problems.append(f"{what} named twice: {', '.join(twice)}")
        problems += [why for domain in self.domains if (why := domain.why_too_hasty(self.signal.period)) is not None]
        critical = {one.key for domain in self.domains for one in domain.critical}
        problems += [
            f"exporter: the probed workload {probe.key} is not critical in any domain"
            for probe in self.exporter.probes
            if has_own and probe.key not in critical
        ]
        if problems:
            raise ValueError("\n".join(problems))
