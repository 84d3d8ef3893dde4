"""A local port that leads to a Service, by ``kubectl port-forward``, for as long as a context lasts.

kubectl ends when the connection to the pod is lost, such as when the pod is replaced.  It is started again on the same
port, so that a client which reconnects goes on.
"""

import re
import subprocess
import threading
from collections.abc import Sequence
from queue import Empty, Queue
from types import TracebackType
from typing import Self

_READY_S = 20.0
_AGAIN_S = 1.0
_STOP_S = 5.0
_LISTENS = re.compile(r"^Forwarding from 127\.0\.0\.1:(\d+) ")


class ForwardFailed(Exception):
    """The port cannot be forwarded; the text is kubectl's."""


class PortForward:
    """Keeps ``kubectl port-forward`` running."""

    def __init__(self, kubectl: Sequence[str], service: str, port: int) -> None:
        """Prepare; ``kubectl`` is the command with its global options, ``service`` such as ``svc/nats``."""
        self._kubectl = kubectl
        self._service = service
        self._remote = port
        self._answers: Queue[int | ForwardFailed] = Queue()
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.port = 0
        """The local port."""

    def __enter__(self) -> Self:
        """Start it, and wait until the port listens.

        Raises:
            ForwardFailed: it does not.
        """
        self._thread.start()
        try:
            answer = self._answers.get(timeout=_READY_S)
        except Empty:
            answer = ForwardFailed(f"kubectl port-forward {self._service} did not answer within {_READY_S:g} s")
        if isinstance(answer, ForwardFailed):
            self.__exit__(None, None, None)
            raise answer
        self.port = answer
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join(_STOP_S)

    def _keep(self) -> None:
        """Run kubectl again and again, until the context ends; the first failure is an answer."""
        while not self._closing.is_set():
            failure = self._run_once()
            if not self.port:
                self._answers.put(ForwardFailed(failure))
            self._closing.wait(_AGAIN_S)

    def _run_once(self) -> str:
        """Run kubectl until it ends, and report the port once it listens; returns its last line."""
        words = [*self._kubectl, "port-forward", self._service, f"{self.port or ''}:{self._remote}"]
        with self._lock:
            if self._closing.is_set():
                return ""
            # A session of its own: Ctrl-C is for the tool, which may still need the bus to finish.
            self._process = subprocess.Popen(
                [*words, "--address=127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        last = ""
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.strip() or last
                if (found := _LISTENS.match(line)) and not self.port:
                    self._answers.put(int(found[1]))
        return last
