"""The instrument: UDP round trips of every packet, at a fixed rate, through the bottleneck.

Runs in a critical pod's namespace, ``python -m services.plant.real.probe ADDRESS PORT HZ SIZE``, and
writes one record a packet to standard output: ``RECORD``, in the order in which fates became known.
The plant reads them: they are the ground truth, and what the exporter's histogram counts.
"""

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections import OrderedDict

RECORD = struct.Struct("=qq")
"""When a packet was sent (UTC ns) and how long it took there and back (ns), ``LOST`` if it never came."""
LOST = -1
GIVE_UP_NS = 500_000_000
"""A packet that has not come back after this long is lost: no queue on the path delays half as much."""
_HEADER = struct.Struct("=Q")


class Probe:
    """Sends at a fixed rate and receives in between."""

    def __init__(self, link: socket.socket, interval: int, size: int, out: int) -> None:
        """Take a connected socket, the interval (ns), the payload's size (bytes) and a file to write to."""
        self._link = link
        self._interval = interval
        self._padding = bytes(size - _HEADER.size)
        self._out = out
        self._number = 0
        self._waiting: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def run(self) -> None:
        """Probe until killed."""
        due = time.monotonic_ns()
        while True:
            now = time.monotonic_ns()
            if now >= due:
                self._waiting[self._number] = (time.time_ns(), now)
                # A packet that cannot be sent counts as lost once its time is up.
                with contextlib.suppress(OSError):
                    self._link.send(_HEADER.pack(self._number) + self._padding)
                self._number += 1
                while self._waiting:
                    number, (stamp, started) = next(iter(self._waiting.items()))
                    if now - started < GIVE_UP_NS:
                        break
                    del self._waiting[number]
                    os.write(self._out, RECORD.pack(stamp, LOST))
                # After a delay, skip the packets that were due: sent at once, they would delay each other.
                due += self._interval * ((now - due) // self._interval + 1)
            readable, _, _ = select.select([self._link], [], [], max(due - time.monotonic_ns(), 0) / 1e9)
            if not readable:
                continue
            with contextlib.suppress(ConnectionRefusedError):
                data = self._link.recv(2048)
                now = time.monotonic_ns()
                sent = self._waiting.pop(_HEADER.unpack_from(data)[0], None)
                if sent is not None:
                    os.write(self._out, RECORD.pack(sent[0], now - sent[1]))


def main() -> None:
    """Read the command line and probe."""
    address, port, hertz, size = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect((address, int(port)))
        Probe(link, 1_000_000_000 // int(hertz), int(size), sys.stdout.fileno()).run()


if __name__ == "__main__":
    main()
