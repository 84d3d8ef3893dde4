"""The host's routes and device counters, from ``/proc``: no capability, no library, a tenth of a millisecond.

With Cilium's ``endpointRoutes.enabled`` the main table has a route to every pod's address over the pod's own
device.  What that device received is what the pod sent.  ``docs/decisions`` says why this is no netlink.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from array import array
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_CHUNK = 65536
_SIOCETHTOOL, _GET_DRIVER = 0x8946, 0x3
_DRIVER_INFO = 196
"""Bytes of the kernel's ``struct ethtool_drvinfo``; the driver's name begins at 4 and takes 32."""
_WHOLE_ADDRESS = b"FFFFFFFF"
_UP = 0x1


class DeviceCounters(NamedTuple):
    """What one device counted since it was made, as the host sees it."""

    received: int
    """Bytes: of a pod's device, what the pod sent."""
    sent: int
    """Bytes: of a pod's device, what the pod was sent."""


class HostNetwork:
    """Reads one network namespace; the files stay open, so that it need not be this process's own."""

    def __init__(self, proc: Path = Path("/proc/self/net")) -> None:
        """Open the namespace's files.

        Args:
            proc: the namespace's ``net`` folder: ``/proc/PID/net`` is that of another process.

        Raises:
            OSError: there is no such folder.
        """
        self._files = [os.open(proc / "dev", os.O_RDONLY), os.open(proc / "route", os.O_RDONLY)]
        if (proc / "ipv6_route").exists():
            self._files.append(os.open(proc / "ipv6_route", os.O_RDONLY))
        self._seen: tuple[bytes, ...] = ()
        self._routes: dict[str, str] = {}

    def read_counters(self) -> dict[str, DeviceCounters]:
        """The counters of every device, by its name.

        Raises:
            OSError: the kernel does not answer.
        """
        counters = {}
        for line in _read(self._files[0]).splitlines()[2:]:
            name, _, rest = line.partition(b":")
            fields = rest.split()
            counters[name.strip().decode()] = DeviceCounters(int(fields[0]), int(fields[8]))
        return counters

    def read_routes(self) -> dict[str, str]:
        """The device of every address that has a route of its own, IPv4 and IPv6, as Kubernetes writes addresses.

        Raises:
            OSError: the kernel does not answer.
        """
        texts = tuple(_read(file) for file in self._files[1:])
        if texts != self._seen:
            self._routes = _parse_ipv4(texts[0]) | (_parse_ipv6(texts[1]) if texts[1:] else {})
            self._seen = texts
        return self._routes

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)


def _read(file: int) -> bytes:
    """A whole file of ``/proc``, of which one read gives a page of memory at most."""
    text = b""
    while chunk := os.pread(file, _CHUNK, len(text)):
        text += chunk
    return text


def _parse_ipv4(text: bytes) -> dict[str, str]:
    """Routes to single addresses; the kernel writes an address as a number in its own byte order."""
    routes = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[7] == _WHOLE_ADDRESS and int(fields[3], 16) & _UP:
            routes[socket.inet_ntoa(struct.pack("=I", int(fields[1], 16)))] = fields[0].decode()
    return routes


def _parse_ipv6(text: bytes) -> dict[str, str]:
    routes = {}
    for line in text.splitlines():
        fields = line.split()
        # The host's own addresses have such routes, too, over the loopback.
        if fields[1] == b"80" and fields[9] != b"lo":
            routes[str(ipaddress.IPv6Address(bytes.fromhex(fields[0].decode())))] = fields[9].decode()
    return routes


def read_driver(device: str) -> str:
    """The driver of a device of this process's own namespace, such as ``veth`` or ``netkit``; empty: not known."""
    info = array("B", struct.pack("I", _GET_DRIVER) + bytes(_DRIVER_INFO - 4))
    request = struct.pack("16sP", device.encode()[:15], info.buffer_info()[0])
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return info.tobytes()[4:36].partition(b"\0")[0].decode(errors="replace")
