"""Ground truth without processes: the kernel's times at which each probe of the plant passed a device.

Runs in a node's namespace of the testbed: ``python -m tests.support.hubble.wiretap DEVICE ADDRESS PORT``.  It writes
a record for each datagram to and from that address and port.  A round trip is the time between a request and its
answer at the near end, less the time between them at the far end.  It contains the network alone, without the
wake-ups of either program.
"""

import os
import select
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from services.plant.real.plant import PEERS
from services.plant.real.testbed import Bed
from tests.support.hubble.capture import listen, parse

RECORD = struct.Struct("=?QQ")
"""Whether it is an answer, its number, and when it passed (UTC ns)."""
_NUMBER = struct.Struct("=Q")
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_ROOT = Path(__file__).parents[3]


class Wire:
    """Round trips on the wire between a critical workload and its peer."""

    def __init__(self, bed: Bed, workload: str, port: int) -> None:
        """Watch the probes of ``workload`` to its peer's ``port`` from now on."""
        near, far = bed.pod(workload), bed.pod(PEERS[workload])
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, int], dict[bool, int]] = {}
        self._trips: list[float] = []
        for end, place in enumerate((near, far)):
            python = ("env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "tests.support.hubble.wiretap")
            arguments = (place.device, far.address, str(port))
            tap = bed.start(place.node, "chrt", "-f", "20", *python, *arguments, stdout=subprocess.PIPE)
            threading.Thread(target=self._read, args=(end, tap.stdout), daemon=True).start()

    def trips(self) -> list[float]:
        """The round trips completed since the last call, seconds."""
        with self._lock:
            done, self._trips = self._trips, []
        return done

    def _read(self, end: int, records: IO[bytes]) -> None:
        try:
            while len(record := records.read(RECORD.size)) == RECORD.size:
                answer, number, when = RECORD.unpack(record)
                with self._lock:
                    self._seen.setdefault((end, number), {})[answer] = when
                    self._complete(number)
        except ValueError:
            return

    def _complete(self, number: int) -> None:
        near, far = self._seen.get((0, number), {}), self._seen.get((1, number), {})
        if len(near) == len(far) == 2:
            self._trips.append((near[True] - near[False] - (far[True] - far[False])) / 1e9)
            del self._seen[0, number], self._seen[1, number]


def main() -> None:
    """Capture until killed."""
    device, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    link = listen(device)
    link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    while True:
        select.select([link], [], [])
        data, ancillary, _, _ = link.recvmsg(96, 128)
        packet = parse(data)
        if packet is None or packet.protocol != 17:
            continue
        asked = (packet.destination, packet.destination_port) == (address, port)
        if not asked and (packet.source, packet.source_port) != (address, port):
            continue
        for _, kind, stamp in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack_from(stamp)
                record = RECORD.pack(not asked, _NUMBER.unpack_from(data, 28)[0], seconds * 10**9 + nanoseconds)
                os.write(sys.stdout.fileno(), record)


if __name__ == "__main__":
    main()
