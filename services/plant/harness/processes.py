"""Child processes of the harness: started in order, watched, and stopped in reverse order."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from services.plant.harness.orphan_guard import sweep_command, tie_command

_STOP_S = 5.0
_TAIL_LINES = 12


class ProcessDied(RuntimeError):
    """A process ended that should have kept running; the text has the end of its log."""


class Processes:
    """Background processes, and a temporary folder for their files and logs."""

    def __init__(self, keep: Path | None = None) -> None:
        """Prepare; files and logs go to ``keep``, created if needed, or to a folder that is removed at the end."""
        self._keep = keep
        self.home = Path()
        self._sweeper: asyncio.subprocess.Process | None = None
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> "Processes":
        """Create the folder."""
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            self.home = self._keep
        else:
            self.home = Path(tempfile.gettempdir(), f"sluice-{secrets.token_hex(8)}")
            # Before the folder: whenever this process is killed, somebody removes what it created.
            self._sweeper = await asyncio.create_subprocess_exec(
                *sweep_command(str(self.home)), stdin=subprocess.PIPE, start_new_session=True
            )
            self.home.mkdir(mode=0o700)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop everything, and remove the folder."""
        await self.stop()
        if self._sweeper is not None:
            await self._sweeper.communicate(b"")

    async def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        """Start a program; its output is written to ``NAME.log`` in the folder.

        Raises:
            FileNotFoundError: there is no such program.
        """
        program = str(command[0])
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{name}: there is no program {program}")
        with (self.home / f"{name}.log").open("ab") as log:
            # In a session of its own: Ctrl-C reaches this process only, which then stops all in order.
            self._running[name] = await asyncio.create_subprocess_exec(
                *tie_command([str(word) for word in command]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Stop all programs, the last one started first; kill those that do not end within 5 s."""
        for process in reversed(self._running.values()):
            if process.returncode is not None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def watch(self) -> None:
        """Wait until one of the programs ends.

        Raises:
            ProcessDied: always, when one has ended.
        """
        waits = {asyncio.create_task(process.wait()): name for name, process in self._running.items()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self.check(waits[done.pop()])

    def check(self, name: str) -> None:
        """Do nothing if the program runs.

        Raises:
            ProcessDied: it has ended.
        """
        code = self._running[name].returncode
        if code is not None:
            raise ProcessDied(f"{name} ended with exit code {code}:\n{self.tail(name)}")

    def pause(self, name: str) -> None:
        """Stop the program where it is; its sockets stay open, and no peer is notified."""
        self._running[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a paused program go on."""
        self._running[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        """Return the program's process id."""
        return self._running[name].pid

    def tail(self, name: str) -> str:
        """Return the last lines of the program's log."""
        log = self.home / f"{name}.log"
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
