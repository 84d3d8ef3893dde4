"""The probe's echo server: it sends every datagram back unchanged.

Runs in a peer's namespace of the bed: ``python -m services.plant.real.echo ADDRESS PORT``.
"""

import socket
import sys


def main() -> None:
    """Echo until killed; prints ``listening`` once it does."""
    address, port = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, int(port)))
        print("listening", flush=True)  # noqa: T201 - the parent process waits for it
        while True:
            listener.sendto(*listener.recvfrom(2048))


if __name__ == "__main__":
    main()
