"""A real nats-server for a test."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S, wait_until


def _states(pid: int) -> Iterator[str]:
    """The state letter of each thread of a process, from the kernel."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            yield stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]


class Server:
    """A program that can be frozen."""

    _process: subprocess.Popen[bytes] | None = None

    def freeze(self) -> None:
        """Freeze the process with its connections open; return once every thread has stopped."""
        os.kill(self._process_id, signal.SIGSTOP)
        pid = self._process_id
        wait_until(lambda: set(_states(pid)) == {"T"}, lambda: f"it runs on: {list(_states(pid))}")

    @property
    def _process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def thaw(self) -> None:
        """Let it continue."""
        os.kill(self._process_id, signal.SIGCONT)


class NatsServer(Server):
    """A nats-server with JetStream on a free port, as a context; ``settings`` is appended to its configuration."""

    def __init__(self, home: Path, settings: str = "", arguments: Sequence[str] = ()) -> None:
        """Keep its files below ``home``; ``arguments`` are added to its command."""
        self.port = free_port()
        self._arguments = arguments
        self._store = home / "jetstream"
        self._config = home / "nats.conf"
        self._log = home / "nats.log"
        home.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self._store}" }}\n{settings}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        with self._log.open("ab") as log:
            program = Path(sys.executable).parent / "nats-server"
            self._process = subprocess.Popen([program, "-c", self._config, *self._arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None:
                    raise RuntimeError(self._log.read_text()) from None
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(f"nats-server does not listen after {PATIENCE_S:g} s: {self._log.read_text()}")

    def stop(self, *, kill: bool = False) -> None:
        """Stop it in order, or by SIGKILL."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(PATIENCE_S)
            self._process = None

    def wipe(self) -> None:
        """Delete all streams; only while it is stopped."""
        shutil.rmtree(self._store)

    def __enter__(self) -> "NatsServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(kill=True)
