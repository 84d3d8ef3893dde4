"""Servers that violate a client's expectations over real sockets, each in one way."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


class BrokenServer:
    """Answers every request in one way; ``fault`` may be changed while it runs.

    stall: accepts and sends nothing.  dribble: sends a header byte by byte, without end.  reset: resets
    the connection.  garbage: sends no HTTP.  cut: sends less than announced.  body: sends ``body`` with
    ``status`` and the lines of ``headers``; endless: the same, with the body again and again.
    """

    def __init__(
        self,
        fault: str,
        body: bytes = b"",
        status: str = "200 OK",
        headers: str = "",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Listen; port 0 is a free one."""
        self.fault, self.body, self.status, self.headers = fault, body, status, headers
        self.requests: list[bytes] = []
        """The received requests, with their headers."""
        self._socket = socket.create_server((host, port))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._over = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            answering = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(answering)
            answering.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while not self._over.is_set() and (request := connection.recv(65536)):
                    self.requests.append(request)
                    if not self._answer(connection):
                        return
            except OSError:
                return  # the client closed the connection

    def _answer(self, connection: socket.socket) -> bool:
        """Answer one request; return whether the connection stays open."""
        if self.fault == "body":
            head = f"HTTP/1.1 {self.status}\r\n{self.headers}Content-Length: {len(self.body)}\r\n\r\n"
            connection.sendall(head.encode() + self.body)
            return True
        match self.fault:
            case "stall":
                self._over.wait()
            case "dribble":
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not self._over.wait(0.05):
                    connection.sendall(b"x")
            case "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "garbage":
                connection.sendall(b"\x00\xff no HTTP at all\r\n\r\n")
            case "cut":
                connection.sendall(_OK + b"Content-Length: 1000\r\n\r\n" + self.body)
            case "endless":
                connection.sendall(f"HTTP/1.1 {self.status}\r\n{self.headers}\r\n".encode())
                while not self._over.is_set():
                    connection.sendall(self.body)
        return False

    def __enter__(self) -> "BrokenServer":
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
