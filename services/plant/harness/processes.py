"""Child processes of the demo: started one after the other, watched, stopped in the reverse order."""

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from services.plant.harness.orphan_guard import sweeper, tied

_STOP_S = 5.0
_TAIL_LINES = 12


class ProcessDied(RuntimeError):
    """A process that should run for ever has ended; the text has the end of its log."""


class Processes:
    """Programs that run in the background, with a folder for their files and logs that goes when they do."""

    def __init__(self, keep: Path | None = None) -> None:
        """``keep`` is a folder that stays, for those who want to read the logs; it is made if need be."""
        self._keep = keep
        self.home = Path()
        self._sweeper: asyncio.subprocess.Process | None = None
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> "Processes":
        """Make the folder."""
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            self.home = self._keep
        else:
            self.home = Path(tempfile.mkdtemp(prefix="sluice-"))
            self._sweeper = await asyncio.create_subprocess_exec(
                *sweeper(str(self.home)), stdin=subprocess.PIPE, start_new_session=True
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop everything, and remove the folder."""
        await self.stop()
        if self._sweeper is not None:
            await self._sweeper.communicate(b"")

    async def start(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        """Start a program; its output goes to ``NAME.log`` in the folder.

        Raises:
            FileNotFoundError: there is no such program.
        """
        program = str(command[0])
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{name}: there is no program {program}")
        with self._log(name).open("ab") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops all in order.
            self._running[name] = await asyncio.create_subprocess_exec(
                *tied([str(word) for word in command]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Stop all programs, the last one started first."""
        for name in reversed(self._running):
            await _stopped(self._running[name])

    async def watch(self) -> None:
        """Wait until one of them ends.

        Raises:
            ProcessDied: it has.
        """
        waits = {asyncio.create_task(process.wait()): name for name, process in self._running.items()}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        raise self._died(waits[done.pop()])

    def check(self, name: str) -> None:
        """See that it runs.

        Raises:
            ProcessDied: it does not.
        """
        if self._running[name].returncode is not None:
            raise self._died(name)

    def pid(self, name: str) -> int:
        """Its process id."""
        return self._running[name].pid

    def tail(self, name: str) -> str:
        """The end of its log."""
        return "\n".join(self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])

    def _died(self, name: str) -> ProcessDied:
        return ProcessDied(f"{name} ended with exit code {self._running[name].returncode}:\n{self.tail(name)}")

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"


async def _stopped(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
