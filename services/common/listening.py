"""Where a server listens that is to be reached by every address."""

import errno
import socket

EVERYWHERE = "::"


def resolve_host(host: str) -> str:
    """Give the address to listen on: ``0.0.0.0`` in place of ``::`` where the kernel has no IPv6.

    Raises:
        OSError: the kernel refuses for another reason.
    """
    if host != EVERYWHERE:
        return host
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((EVERYWHERE, 0))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return "0.0.0.0"  # noqa: S104 - what was asked for
    return host
