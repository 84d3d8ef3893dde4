"""Ground truth: every packet's round trip, binned into seconds.

The controller's windows end at whole multiples of the signal period.  These seconds begin ``OFFSET``
later, so that a controller cannot look better than it is at its own sampling times.  A second
that the machine disturbed (CPU steal, too few probes, counters read late) is marked and not judged.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from services.plant.interface import CriticalSecond, Second
from services.plant.real.probe import LOST
from services.plant.workloads import MSS, MTU_WIRE, UDP_HEADERS, Apps

SECOND = 1_000_000_000
OFFSET = 370_000_000
"""ns after a whole UTC second at which the seconds of the ground truth begin."""
TCP_HEADERS = MTU_WIRE - MSS
"""Ethernet, IPv4, and TCP with timestamps: bytes that each packet carries besides its payload."""
STEAL = 0.05
"""A second is invalid if a larger share of the processors' time was stolen."""
_SLOW = 2_000_000
"""The usual SLO, ns."""
_IN_A_ROW = 5
"""Slow packets in a row that indicate a queue; a single one is noise of the machine."""
_LATE = 100_000_000
_PROBES = 0.9
"""Share of its packets that the probe must have sent."""


class Delivered(Struct, frozen=True):
    """What has reached a workload's peer since the bed was made, on the wire."""

    bytes: int
    packets: int


class CounterMark(Struct, frozen=True):
    """Counters and settings at one time, close to the boundary between two seconds."""

    time: int
    """UTC ns."""
    delivered: Mapping[str, Delivered]
    """By workload."""
    datagrams_lost: Mapping[str, int]
    """Of each critical workload's own traffic, since the bed was made."""
    processor: tuple[int, int]
    """Ticks stolen, and ticks in all."""
    limits: Mapping[str, int | None]
    loads: Mapping[str, int]
    capacity: int


def bin_of(time: int) -> int:
    """The start of the second that contains a time; both UTC ns."""
    return (time - OFFSET) // SECOND * SECOND + OFFSET


def processor_ticks(stat: str) -> tuple[int, int]:
    """Ticks that others took from this machine, and ticks in all, from the text of /proc/stat."""
    fields = [int(field) for field in stat.split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


def read_processor() -> tuple[int, int]:
    """Read the same figures of this machine now."""
    return processor_ticks(Path("/proc/stat").read_text(encoding="ascii"))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of ascending numbers, linear between two of them."""
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def find_disturbance(
    start: int, before: CounterMark, after: CounterMark, sent: Mapping[str, tuple[int, int]]
) -> str | None:
    """Say why a second is invalid; None if it is valid.

    Args:
        start: of the second.
        before: the mark at its start.
        after: the mark at its end.
        sent: by workload, packets that its probe sent in it, and packets that it should have sent.
    """
    late = max(before.time - start, after.time - start - SECOND)
    if late > _LATE:
        return f"the counters were read {late / 1e6:.0f} ms late"
    stolen, ticks = (now - then for now, then in zip(after.processor, before.processor, strict=True))
    if ticks and stolen / ticks > STEAL:
        return f"{stolen / ticks:.0%} of the processors' time was stolen"
    for workload, (count, rate) in sent.items():
        if count < rate * _PROBES:
            return f"the probe of {workload} sent {count} of {rate} packets"
    return None


def critical_second(trips: Sequence[int], datagrams_lost: int, load: int, throughput: int) -> CriticalSecond:
    """Sum up one workload's packets of one second.

    Args:
        trips: the round trips of its probes, ns, ``LOST`` included.
        datagrams_lost: of its own traffic.
        load: what it wanted to send, kbit/s.
        throughput: what arrived, kbit/s.
    """
    back = sorted(trip / 1e9 for trip in trips if trip != LOST)
    lost = len(trips) - len(back) + datagrams_lost
    if not back:
        return CriticalSecond(None, None, None, 0, lost, load, throughput)
    jitter = quantile(back, 0.75) - quantile(back, 0.25)
    return CriticalSecond(quantile(back, 0.5), quantile(back, 0.95), jitter, len(back), lost, load, throughput)


class CrossingDetector:
    """Finds when latency rises above the SLO and stays there, and when it is back, from packet after packet."""

    def __init__(self) -> None:
        """Begin below it."""
        self._above = False
        self._row: list[int] = []
        self.found: list[int] = []
        """UTC ns at which the first of several slow packets in a row was back."""
        self.calm: list[int] = []
        """UTC ns at which, after a crossing, the first of several fast packets in a row was back."""

    def trip(self, sent: int, trip: int) -> None:
        """Take the next packet of a probe: when it was sent, and its round trip, or ``LOST``; ns."""
        slow = trip == LOST or trip > _SLOW
        if slow == self._above:
            self._row.clear()
            return
        self._row.append(sent + max(trip, 0))
        if len(self._row) == _IN_A_ROW:
            self._above = slow
            (self.found if slow else self.calm).append(self._row[0])
            self._row.clear()


class SecondBuilder:
    """Collects round trips and marks, and closes a second once the fate of all its packets is known."""

    def __init__(self, apps: Apps) -> None:
        """Begin empty."""
        self._apps = apps
        self._trips: dict[int, dict[str, list[int]]] = {}
        self._marks: list[CounterMark] = []

    def trip(self, workload: str, sent: int, trip: int) -> None:
        """A probe's packet, sent at ``sent``, is back after ``trip`` ns, or ``LOST``."""
        self._trips.setdefault(bin_of(sent), {}).setdefault(workload, []).append(trip)

    def mark(self, mark: CounterMark) -> Second | None:
        """Take the mark of a second's start; return the newest second whose packets are all accounted for.

        A packet's fate is known half a second after it was sent, so a second is closed one second
        after its end.
        """
        self._marks.append(mark)
        if len(self._marks) < 3:
            return None
        before = self._marks.pop(0)
        after = self._marks[0]
        start = bin_of(before.time)
        trips = self._trips.pop(start, {})
        critical = {}
        for app in self._apps.critical:
            name, mine = app.workload, trips.get(app.workload, [])
            lost = after.datagrams_lost[name] - before.datagrams_lost[name]
            headers = TCP_HEADERS if app.protocol == "tcp" else UDP_HEADERS
            got = self._payload(name, before, after, headers, probes=sum(trip != LOST for trip in mine))
            critical[name] = critical_second(mine, lost, before.loads[name], got)
        targets = [one.target for one in self._apps.targets]
        sent = {one.workload: (len(trips.get(one.workload, [])), one.probe_hz) for one in self._apps.critical}
        return Second(
            start=start,
            critical=critical,
            goodput={target: self._payload(target, before, after, TCP_HEADERS, probes=0) for target in targets},
            limits=dict(after.limits),
            capacity=after.capacity,
            invalid=find_disturbance(start, before, after, sent),
        )

    def _payload(self, workload: str, before: CounterMark, after: CounterMark, headers: int, probes: int) -> int:
        """What arrived between two marks besides probes, kbit/s."""
        new, old = after.delivered[workload], before.delivered[workload]
        packets = new.packets - old.packets - probes
        wire = new.bytes - old.bytes - probes * (self._apps.probe + UDP_HEADERS)
        return max(int((wire - packets * headers) * 8_000_000 / (after.time - before.time)), 0)
