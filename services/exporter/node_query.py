"""Asks an echo sidecar which node it runs on.

One packet now and then, as long as the longest name: what a probe measures stays as small as it is.  A sidecar that
does not know, or is older, leaves the place for it empty.
"""

import asyncio
import re
import socket

from services.exporter.echo_server import MAGIC, PACKET

_LONGEST_NAME = 253
_NAME = re.compile(rb"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_SESSION = 0
_UDP_TRIES = 3


async def ask_node(address: tuple[str, int], family: int, *, is_tcp: bool, timeout_s: float = 1.0) -> str:
    """The node of the sidecar at an address; empty where it does not say.

    Args:
        address: of the sidecar.
        family: of the address.
        is_tcp: whether it listens for connections, not for datagrams.
        timeout_s: for one answer, seconds.
    """
    question = PACKET.pack(MAGIC, _SESSION, 0, 0, 0, 0) + bytes(_LONGEST_NAME)
    kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    for _ in range(1 if is_tcp else _UDP_TRIES):
        try:
            with socket.socket(family, kind) as link:
                link.setblocking(False)
                async with asyncio.timeout(timeout_s):
                    await loop.sock_connect(link, address)
                    await loop.sock_sendall(link, question)
                    answer = b""
                    while len(answer) < len(question):
                        part = await loop.sock_recv(link, len(question))
                        if not part:
                            return ""
                        answer += part
        except (OSError, TimeoutError):
            continue
        return parse_node(answer)
    return ""


def parse_node(answer: bytes) -> str:
    """The node in an answer; empty where it has none, or no name of one."""
    if not answer.startswith(MAGIC):
        return ""
    name = answer[PACKET.size :].rstrip(b"\0")
    return name.decode() if _NAME.fullmatch(name) else ""
