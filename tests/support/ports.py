"""Ports for tests: each process has a block of its own, below the range that the kernel assigns.

A name in the abstract socket namespace claims a block, and the kernel releases the name with the process.  So
neither the workers of a run nor two parallel runs ever share a block.
"""

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

_FIRST, _LAST, _SIZE = 12_000, 32_000, 200
"""Linux assigns ports from 32768 on."""


def free_port() -> int:
    """A free TCP port on loopback that no other process of these tests uses."""
    numbers, _ = _block()
    for port in numbers:
        with socket.socket() as probe:
            # As servers do: a port whose last connection was just closed is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("cycle never ends")


def free_ports(count: int) -> list[int]:
    """Several free ports."""
    return [free_port() for _ in range(count)]


@cache
def _block() -> tuple[Iterator[int], socket.socket]:
    """This process's port numbers, and the socket that claims them."""
    blocks = list(range(_FIRST, _LAST, _SIZE))
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0sluice-tests-ports-{first}")
        except OSError:
            claim.close()
        else:
            return cycle(range(first, first + _SIZE)), claim
    raise RuntimeError("every block of ports is taken: close the test runs that hold them")
