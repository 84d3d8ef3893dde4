"""Ports that no other test takes: each process has a block of its own, below those that the kernel hands out.

A block is claimed by a name in the abstract socket namespace, which the kernel gives up with the process, so that
neither the workers of a run nor two runs side by side ever share one.
"""

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

_FIRST, _LAST, _SIZE = 12_000, 32_000, 200
"""Linux hands out ports from 32768 on to whoever does not care."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and that no other process of these tests is given."""
    numbers, _ = _block()
    for port in numbers:
        with socket.socket() as probe:
            # As servers do: a port whose last connection was closed a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("cycle never ends")


def free_ports(count: int) -> list[int]:
    """Several."""
    return [free_port() for _ in range(count)]


@cache
def _block() -> tuple[Iterator[int], socket.socket]:
    """This process's numbers, and the socket that claims them."""
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
