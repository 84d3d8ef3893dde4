"""The plant on real packets: testbed, traffic and instruments behind the plant's interface.

    with Bed(parameters(apps)) as bed, RealPlant(bed, apps) as plant:
        plant.set_limit("telemetry-upload-0", 60_000)

Needs root, iperf3 and nginx.  Threads read the instruments; all calls are safe from any thread.
"""

import bisect
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import IO

from services.plant.interface import BUCKETS, Counters, Histogram, Pod, Second
from services.plant.real.ground_truth import (
    SECOND,
    CounterMark,
    CrossingDetector,
    Delivered,
    SecondBuilder,
    bin_of,
    read_processor,
)
from services.plant.real.probe import LOST, RECORD
from services.plant.real.testbed import Bed, Devices
from services.plant.real.traffic import Generator, HttpTraffic, TcpTraffic, UdpTraffic
from services.plant.topology import (
    BOTTLENECK,
    ERP,
    FABRIC,
    NAMESPACE,
    NODES,
    ROBOT,
    SCANNER,
    TELEMETRY,
    Bands,
    Parameters,
    bottleneck,
    build_pod_limit,
)
from services.plant.workloads import Apps

PEERS = {
    ROBOT: f"{NAMESPACE}/robot-cell",
    SCANNER: f"{NAMESPACE}/safety-plc",
    TELEMETRY: f"{NAMESPACE}/telemetry-store",
    ERP: f"{NAMESPACE}/office",
}
"""Who each workload sends to."""
TRAFFIC = ("iperf3", "nginx")
"""Programs that send the apps' traffic."""
_ECHO_PORT = "7007"


def parameters(apps: Apps, fifo: float = 0.1, bands: Bands = "off") -> Parameters:
    """The bed that these apps need."""
    replicas = {one.target: one.replicas for one in apps.targets}
    return Parameters(capacity=apps.capacity, fifo=fifo, uploads=replicas.get(TELEMETRY, 1), bands=bands)


class LatencyTally:
    """Counts round trips into a histogram."""

    def __init__(self) -> None:
        """Begin empty."""
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0
        self._lost = 0

    def add(self, trip: int) -> None:
        """Count one round trip, ns, or ``LOST``."""
        if trip == LOST:
            self._lost += 1
            return
        self._counts[bisect.bisect_left(BUCKETS, trip / 1e9)] += 1
        self._sum += trip / 1e9

    def read(self, also_lost: int) -> Histogram:
        """The cumulative counts now, with losses that were counted elsewhere."""
        counts = []
        total = 0
        for count in self._counts:
            total += count
            counts.append(total)
        return Histogram(tuple(counts), self._sum, self._lost + also_lost)


class RealPlant:
    """A testbed with traffic, probes and ground truth.  Implements ``Plant``."""

    def __init__(self, bed: Bed, apps: Apps, absent: Collection[str] = ()) -> None:
        """Take a bed that was entered; nothing runs before the context is entered.

        The best-effort pods in ``absent`` send nothing before they are started.
        """
        self._bed = bed
        self._absent = set(absent)
        self._apps = apps
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._tallies = {one.workload: LatencyTally() for one in apps.critical}
        self._crossings = CrossingDetector()
        self._ledger = SecondBuilder(apps)
        self._seconds: list[Second] = []
        self._capacity = bed.parameters.capacity
        self._loads: dict[str, int | None] = {}
        targets = [one.target for one in apps.targets]
        self.pods: Sequence[Pod] = [Pod(place.name, place.workload) for place in bed.pods if place.workload in targets]
        self._limits: dict[str, int | None] = {pod.name: None for pod in self.pods}
        self._devices: dict[str, Devices] = {}
        self._generators: dict[str, list[Generator]] = {}
        self._recorder = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> "RealPlant":
        """Start instruments, then traffic, then the first second."""
        self._devices = {node: self._bed.devices(node) for node in NODES}
        for critical in self._apps.critical:
            source, sink = self._bed.pod(critical.workload), self._bed.pod(PEERS[critical.workload])
            self._bed.instrument(sink.name, "services.plant.real.echo", sink.address, _ECHO_PORT).stdout.readline()
            arguments = (sink.address, _ECHO_PORT, str(critical.probe_hz), str(self._apps.probe))
            probe = self._bed.instrument(source.name, "services.plant.real.probe", *arguments)
            threading.Thread(target=self._read, args=(critical.workload, probe.stdout), daemon=True).start()
            if critical.protocol == "tcp":
                self._generators[critical.workload] = [TcpTraffic(self._bed, source, sink, flows=1)]
            else:
                self._generators[critical.workload] = [UdpTraffic(self._bed, source, sink, critical.packet)]
            self.set_load(critical.workload, critical.load)
        for target in self._apps.targets:
            sources = [one for one in self._bed.pods if one.workload == target.target and one.name not in self._absent]
            sink = self._bed.pod(PEERS[target.target])
            self._generators[target.target] = [
                HttpTraffic(self._bed, source, sink)
                if target.target == ERP
                else TcpTraffic(self._bed, source, sink, target.flows, target.congestion)
                for source in sources
            ]
            for pod in self.pods:
                if pod.target == target.target:
                    self.set_limit(pod.name, target.limit)
            self.set_load(target.target, target.load)
        self._recorder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the traffic and the instruments."""
        self._stop.set()
        self._recorder.join()
        for generators in self._generators.values():
            for generator in generators:
                generator.set_load(0)
        for devices in self._devices.values():
            devices.close()

    @property
    def limits(self) -> Mapping[str, int | None]:
        """In force now, by pod name."""
        return dict(self._limits)

    def set_limit(self, pod: str, kbit: int | None) -> None:
        """Put a limit in force on a pod's egress, or lift it with None.

        Raises:
            KeyError: no such pod.
        """
        with self._lock:
            if self._limits[pod] != kbit:
                self._bed.run(pod, "tc", *build_pod_limit(kbit))
                self._limits[pod] = kbit

    def set_load(self, workload: str, kbit: int | None) -> None:
        """Change what a workload, or each replica of a target, wants to send; see ``LoadControl``.

        Raises:
            KeyError: no such workload.
        """
        for generator in self._generators[workload]:
            generator.set_load(kbit)
        self._loads[workload] = kbit

    def start(self, pod: str) -> None:
        """Let an absent replica of telemetry-upload send its workload's load; starting twice is no error.

        Raises:
            KeyError: no such pod.
        """
        source = next((one for one in self._bed.pods if one.name == pod), None)
        if source is None:
            raise KeyError(pod)
        if pod in self._absent:
            self._absent.remove(pod)
            app = next(one for one in self._apps.targets if one.target == source.workload)
            sink = self._bed.pod(PEERS[source.workload])
            generator = TcpTraffic(self._bed, source, sink, app.flows, app.congestion)
            generator.set_load(self._loads[source.workload])
            self._generators[source.workload].append(generator)

    def set_capacity(self, kbit: int) -> None:
        """Change the bottleneck's rate; its queue keeps its size in bytes."""
        commands = "\n".join(bottleneck(self._bed.parameters, kbit))
        self._bed.run(FABRIC, "tc", "-batch", "-", text=commands)
        self._capacity = kbit

    def read_counters(self) -> Counters:
        """What an exporter publishes, now."""
        with self._lock:
            latency = {name: tally.read(self._datagrams_lost(name)) for name, tally in self._tallies.items()}
        # A node's device receives what its pod sends.
        traffic = {node: devices.read() for node, devices in self._devices.items()}
        sent = {place.name: traffic[place.node][place.device].received for place in self._bed.pods}
        critical = {name: sent[self._bed.pod(name).name] for name in self._tallies}
        return Counters(latency, critical | {pod.name: sent[pod.name] for pod in self.pods})

    def take_crossings(self) -> Sequence[int]:
        """When, since the last call, robot-control's latency rose above 2 ms and stayed there: UTC ns."""
        with self._lock:
            found, self._crossings.found = self._crossings.found, []
        return found

    def list_recoveries(self) -> Sequence[int]:
        """When, after each crossing, robot-control's latency was back below 2 ms and stayed there: UTC ns, all."""
        with self._lock:
            return list(self._crossings.calm)

    def take_seconds(self) -> Sequence[Second]:
        """The seconds completed since the last call; a second completes one second after its end."""
        with self._lock:
            done, self._seconds = self._seconds, []
        return done

    def _datagrams_lost(self, workload: str) -> int:
        return sum(one.lost for one in self._generators.get(workload, ()) if isinstance(one, UdpTraffic))

    def _read(self, workload: str, records: IO[bytes]) -> None:
        """Count a probe's round trips until it ends."""
        tally = self._tallies[workload]
        while len(record := records.read(RECORD.size)) == RECORD.size:
            sent, trip = RECORD.unpack(record)
            with self._lock:
                self._ledger.trip(workload, sent, trip)
                tally.add(trip)
                if workload == ROBOT:
                    self._crossings.trip(sent, trip)

    def _record(self) -> None:
        """Mark the counters at the start of each second, and collect the seconds that are complete."""
        due = bin_of(time.time_ns()) + SECOND
        while not self._stop.wait(max(due - time.time_ns(), 0) / 1e9):
            peers = self._devices[BOTTLENECK].read()
            delivered = {}
            for workload in self._generators:
                # A node's device sends what its pod receives.
                device = peers[self._bed.pod(PEERS[workload]).device]
                delivered[workload] = Delivered(device.sent, device.sent_packets)
            mark = CounterMark(
                time=time.time_ns(),
                delivered=delivered,
                datagrams_lost={name: self._datagrams_lost(name) for name in self._tallies},
                processor=read_processor(),
                limits=self.limits,
                loads={workload: kbit or 0 for workload, kbit in self._loads.items()},
                capacity=self._capacity,
            )
            with self._lock:
                second = self._ledger.mark(mark)
                if second is not None:
                    self._seconds.append(second)
            due += SECOND
