"""Traffic of the factory's apps: iperf3 for TCP and UDP, nginx for the dashboard.

Each generator runs in its pod's namespace.  ``set_load(kbit)`` changes the payload that its workload
offers; None means as much as it can get.
"""

import itertools
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence

from services.plant.real.testbed import Bed, BedProcess
from services.plant.topology import PodPlace

_PORTS = itertools.count(5201)
PAGE = 16_384
"""Payload of a page of the dashboard, bytes."""
_READERS = 4
"""Concurrent clients when the dashboard sends as much as it can."""
_INTERVAL = "0.25"
_FIRST = ("chrt", "-f", "10")
"""Real-time priority below the probes' and above everything else."""

_REPORT = re.compile(rb"\s(\d+)/(\d+) \([^)]*%\)\s*$")
_SITE = f"""
mkdir -p /run/erp/site && cd /run/erp && truncate -s {PAGE} site/page && truncate -s 1G site/report
cat > nginx.conf <<'END'
daemon off; worker_processes 1; pid /run/erp/pid; error_log stderr error; user root;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{ listen 8080; root /run/erp/site; }}
}}
END
exec nginx -p /run/erp -c nginx.conf
"""


def parse_losses(line: bytes) -> int | None:
    """The datagrams that one of an iperf3 server's interval lines reports lost; None for other lines.

    The summary at the end, which repeats all intervals, ends in ``receiver`` and does not count.
    """
    found = _REPORT.search(line)
    return int(found[1]) if found else None


class TcpTraffic:
    """TCP by iperf3.  A raised load adds a stream and lets the others run on."""

    def __init__(self, bed: Bed, source: PodPlace, sink: PodPlace, flows: int, congestion: str = "cubic") -> None:
        """Send from one pod to another, each stream in ``flows`` connections under this congestion control."""
        self._bed = bed
        self._source = source
        self._sink = sink
        self._flows = flows
        self._congestion = congestion
        self._running: list[tuple[int | None, BedProcess]] = []

    def set_load(self, kbit: int | None) -> None:
        """Change the payload rate, kbit/s."""
        if kbit is None or any(rate is None for rate, _ in self._running):
            self._shrink(0)
        has = self._shrink(kbit or 0)
        if kbit is not None and kbit <= has:
            return
        rate = None if kbit is None else kbit - has
        # A server takes one client at a time, so each stream has its own, which ends with it.
        port = str(next(_PORTS))
        start_iperf_server(self._bed, self._sink, port)
        # --fq-rate, not -b: -b pays its deficit back after a congestion and keeps the queue full.
        pace = [] if rate is None else ["--fq-rate", f"{rate // self._flows}k"]
        client = ["iperf3", "-c", self._sink.address, "-p", port, "-t", "0", "-i", "0", "-l", "128K"]
        stream = self._bed.start(self._source.name, *client, "-C", self._congestion, "-P", str(self._flows), *pace)
        self._running.append((rate, stream))

    def _shrink(self, kbit: int) -> int:
        while (has := sum(rate or 0 for rate, _ in self._running)) > kbit or (self._running and not kbit):
            self._running.pop()[1].stop()
        return has


class UdpTraffic:
    """UDP at a constant rate by iperf3, whose server counts lost datagrams."""

    def __init__(self, bed: Bed, source: PodPlace, sink: PodPlace, packet: int) -> None:
        """Send packets with ``packet`` bytes of payload from one pod to another."""
        self._bed = bed
        self._source = source
        self._sink = sink
        self._packet = packet
        self._client: BedProcess | None = None
        self.lost = 0
        """Since the beginning."""

    def set_load(self, kbit: int | None) -> None:
        """Change the payload rate, kbit/s; UDP needs a rate.

        Raises:
            ValueError: no rate.
        """
        if kbit is None:
            raise ValueError("datagrams need a rate")
        if self._client is not None:
            self._client.stop()
            self._client = None
        if kbit:
            port = str(next(_PORTS))
            # Both ends run with priority: datagrams that a descheduled receiver drops were not lost in the network.
            server = start_iperf_server(self._bed, self._sink, port, _INTERVAL, _FIRST)
            threading.Thread(target=self._count, args=(server,), daemon=True).start()
            client = [*_FIRST, "iperf3", "-c", self._sink.address, "-p", port, "-t", "0", "-i", "0", "-u"]
            self._client = self._bed.start(self._source.name, *client, "-b", f"{kbit}k", "-l", str(self._packet))

    def _count(self, server: BedProcess) -> None:
        for line in _lines(server):
            self.lost += parse_losses(line) or 0


class HttpTraffic:
    """The dashboard: nginx, and its clients in the office."""

    def __init__(self, bed: Bed, source: PodPlace, sink: PodPlace) -> None:
        """Start the server."""
        self._bed = bed
        self._office = sink
        self._server = (source.address, "8080")
        self._readers: list[BedProcess] = []
        bed.start(source.name, "sh", "-ec", _SITE)

    def set_load(self, kbit: int | None) -> None:
        """Change the payload rate, kbit/s, in whole pages at a time."""
        for reader in self._readers:
            reader.stop()
        if kbit is None:
            self._readers = [self._reader("/report", 0.0) for _ in range(_READERS)]
        else:
            self._readers = [self._reader("/page", PAGE * 8 / 1000 / kbit)] if kbit else []

    def _reader(self, path: str, pace: float) -> BedProcess:
        return self._bed.python(self._office.name, "services.plant.real.http_clients", *self._server, path, str(pace))


Generator = TcpTraffic | UdpTraffic | HttpTraffic


def start_iperf_server(bed: Bed, sink: PodPlace, port: str, report: str = "0", first: Sequence[str] = ()) -> BedProcess:
    """Start an iperf3 server for one client and wait until it listens.

    It reports every ``report`` seconds; 0 means never.
    """
    command = [*first, "iperf3", "-s", "-1", "-p", port, "-i", report, "--forceflush", "-f", "k"]
    server = bed.start(sink.name, *command, stdout=subprocess.PIPE)
    for line in _lines(server):
        if b"listening" in line:
            return server
    raise RuntimeError(f"iperf3 does not listen in {sink.name} on port {port}")


def _lines(process: BedProcess) -> Iterator[bytes]:
    # Stopping the process closes the stream, perhaps while it is read here.
    try:
        yield from iter(process.stdout.readline, b"")
    except ValueError:
        return
