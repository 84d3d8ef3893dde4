"""The plant on real packets: the bed, its traffic and its instruments behind the plant's interface.

    with Bed(Parameters()) as bed, RealPlant(bed) as plant:
        plant.limit("telemetry-upload-0", 60_000)

Needs root, iperf3 and nginx.  Threads read the instruments; all calls are safe from any thread.
"""

import bisect
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO

from msgspec import Struct

from services.factory.bed import Bed
from services.factory.plant import BUCKETS, Counters, Histogram, Pod, Second
from services.factory.probe import LOST, RECORD
from services.factory.topology import ERP, NAMESPACE, ROBOT, SCANNER, TELEMETRY, bottleneck, pod_limit
from services.factory.traffic import DATAGRAM, Datagrams, Pages, Streams
from services.factory.truth import SECOND, UDP_HEADERS, Delivered, Floor, Ledger, Mark, bin_of, read_processor

PEERS = {
    ROBOT: f"{NAMESPACE}/robot-cell",
    SCANNER: f"{NAMESPACE}/safety-plc",
    TELEMETRY: f"{NAMESPACE}/telemetry-store",
    ERP: f"{NAMESPACE}/office",
}
"""Who each workload sends to."""
TARGETS = (TELEMETRY, ERP)
_ECHO_PORT = "7007"
_UPLOAD_FLOWS = 4


class Demand(Struct, frozen=True):
    """What the apps want to send at first, kbit/s of payload, and how they are probed."""

    robot: int = 2_000
    scanner: int = 25_000
    telemetry: int | None = None
    """None is as much as it can get."""
    erp: int | None = 500
    robot_probes: int = 250
    """Packets a second."""
    scanner_probes: int = 100


class Tally:
    """A histogram that grows."""

    def __init__(self) -> None:
        """Begin empty."""
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0
        self.lost = 0

    def add(self, seconds: float) -> None:
        """Count one round trip."""
        self._counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def read(self, also_lost: int) -> Histogram:
        """The cumulative counts now."""
        counts = []
        total = 0
        for count in self._counts:
            total += count
            counts.append(total)
        return Histogram(tuple(counts), self._sum, self.lost + also_lost)


class RealPlant:
    """See the module's text."""

    def __init__(self, bed: Bed, demand: Demand | None = None) -> None:
        """Take a bed that was entered; nothing runs before the context is entered."""
        self._bed = bed
        self._demand = demand or Demand()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._probes = {ROBOT: self._demand.robot_probes, SCANNER: self._demand.scanner_probes}
        self._tallies = {workload: Tally() for workload in self._probes}
        self._ledger = Ledger(Floor(self._probes, DATAGRAM + UDP_HEADERS, frozenset({ROBOT}), TARGETS))
        self._seconds: list[Second] = []
        self._capacity = bed.parameters.capacity
        self._loads: dict[str, int] = {}
        self.pods: Sequence[Pod] = [Pod(place.name, place.workload) for place in bed.pods if place.workload in TARGETS]
        self._limits: dict[str, int | None] = {pod.name: None for pod in self.pods}

    def __enter__(self) -> "RealPlant":
        """Start instruments, then traffic, then the first second."""
        bed = self._bed
        self._devices = {node: bed.devices(node) for node in ("n1", "n2", "n3")}
        for workload, rate in self._probes.items():
            self._watch(workload, rate)
        self._datagrams = Datagrams(bed, bed.pod(ROBOT), bed.pod(PEERS[ROBOT]))
        self._generators: dict[str, list[Streams | Datagrams | Pages]] = {
            ROBOT: [self._datagrams],
            SCANNER: [Streams(bed, bed.pod(SCANNER), bed.pod(PEERS[SCANNER]), flows=1)],
            TELEMETRY: [
                Streams(bed, place, bed.pod(PEERS[TELEMETRY]), _UPLOAD_FLOWS)
                for place in bed.pods
                if place.workload == TELEMETRY
            ],
            ERP: [Pages(bed, bed.pod(ERP), bed.pod(PEERS[ERP]))],
        }
        first = self._demand
        for workload, kbit in ((ROBOT, first.robot), (SCANNER, first.scanner), (ERP, first.erp)):
            self.load(workload, kbit)
        self.load(TELEMETRY, first.telemetry)
        self._recorder = threading.Thread(target=self._record, daemon=True)
        self._recorder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what runs."""
        self._stop.set()
        self._recorder.join()
        for generators in self._generators.values():
            for generator in generators:
                generator.load(0)
        for devices in self._devices.values():
            devices.close()

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name."""
        return dict(self._limits)

    def limit(self, pod: str, kbit: int | None) -> None:
        """Put a limit in force on a pod's egress, or lift it with None.

        Raises:
            KeyError: no such pod.
        """
        with self._lock:
            if self._limits[pod] != kbit:
                self._bed.run(pod, "tc", *pod_limit(kbit))
                self._limits[pod] = kbit

    def load(self, workload: str, kbit: int | None) -> None:
        """Change what a workload wants to send; all replicas together.

        Raises:
            KeyError: no such workload.
        """
        generators = self._generators[workload]
        for generator in generators:
            generator.load(None if kbit is None else kbit // len(generators))
        self._loads[workload] = kbit or 0

    def capacity(self, kbit: int) -> None:
        """Change the bottleneck's rate; its queue keeps its size in bytes."""
        commands = "\n".join(bottleneck(self._bed.parameters, kbit))
        self._bed.run("fabric", "tc", "-batch", "-", text=commands)
        self._capacity = kbit

    def counters(self) -> Counters:
        """What an exporter publishes, now."""
        with self._lock:
            latency = {
                workload: tally.read(self._datagrams.lost if workload == ROBOT else 0)
                for workload, tally in self._tallies.items()
            }
        traffic = {node: devices.read() for node, devices in self._devices.items()}
        # A node's device receives what its pod sends.
        sent = {
            (place.workload if place.workload in self._probes else place.name): traffic[place.node][
                place.device
            ].received
            for place in self._bed.pods
            if place.workload in PEERS
        }
        return Counters(latency, sent)

    def seconds(self) -> Sequence[Second]:
        """The seconds completed since the last call; a second completes one second after its end."""
        with self._lock:
            done, self._seconds = self._seconds, []
        return done

    def _watch(self, workload: str, rate: int) -> None:
        peer = self._bed.pod(PEERS[workload])
        self._bed.instrument(peer.name, "services.factory.echo", peer.address, _ECHO_PORT).stdout.readline()
        arguments = (peer.address, _ECHO_PORT, str(rate), str(DATAGRAM))
        probe = self._bed.instrument(self._bed.pod(workload).name, "services.factory.probe", *arguments)
        threading.Thread(target=self._read, args=(workload, probe.stdout), daemon=True).start()

    def _read(self, workload: str, records: IO[bytes]) -> None:
        tally = self._tallies[workload]
        for record in iter(lambda: records.read(RECORD.size), b""):
            if len(record) < RECORD.size:
                return
            sent, trip = RECORD.unpack(record)
            with self._lock:
                self._ledger.trip(workload, sent, trip)
                if trip == LOST:
                    tally.lost += 1
                else:
                    tally.add(trip / 1e9)

    def _record(self) -> None:
        due = bin_of(time.time_ns()) + SECOND
        while not self._stop.wait(max(due - time.time_ns(), 0) / 1e9):
            mark = self._mark()
            with self._lock:
                second = self._ledger.mark(mark)
                if second is not None:
                    self._seconds.append(second)
            due += SECOND

    def _mark(self) -> Mark:
        peers = self._devices["n3"].read()
        delivered = {}
        for workload, peer in PEERS.items():
            # A node's device sends what its pod receives.
            device = peers[self._bed.pod(peer).device]
            delivered[workload] = Delivered(device.sent, device.sent_packets)
        return Mark(
            time=time.time_ns(),
            delivered=delivered,
            datagrams_lost=self._datagrams.lost,
            processor=read_processor(),
            limits=self.limits,
            loads=dict(self._loads),
            capacity=self._capacity,
        )
