"""The testbed: builds the namespaces of ``topology.py`` and runs commands in them.

    with Bed(Parameters()) as bed:
        bed.run("robot-control-0", "ip", "route")
        server = bed.start("robot-cell-0", "iperf3", "-s")

A place is a pod's or node's name, ``fabric``, or None for the outermost network of the bed, which has
a loopback only.  The bed needs root, touches nothing outside, and disappears with this process, however
that ends.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

from services.plant.real.namespaces import child_of, enclose
from services.plant.topology import Parameters, PodPlace, build_setup_script, pods

_CLONE_NEWNET = 0x40000000
_PATIENCE_S = 2.0
"""How long a process may take to end by itself."""


class BedError(RuntimeError):
    """The bed could not be made, or a command in it failed; the text carries what the command wrote."""


class BedProcess:
    """A process that was started in the bed."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Take the ``nsenter`` that started it."""
        self._entered = process

    @property
    def stdout(self) -> IO[bytes]:
        """What it writes."""
        assert self._entered.stdout is not None
        return self._entered.stdout

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._entered.poll()

    @property
    def pid(self) -> int | None:
        """Its process, as seen from outside of the bed; None before it runs and after it ended."""
        return child_of(self._entered.pid)

    def stop(self) -> None:
        """End it: SIGTERM, and after two seconds SIGKILL.  Stopping twice is no error."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._entered.poll() is None:
                # Signal the child, since nsenter passes no signal on; if the child is gone, nsenter ends by itself.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid or self._entered.pid, number)
            try:
                self._entered.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
            break
        for stream in (self._entered.stdout, self._entered.stderr):
            if stream is not None:
                stream.close()


class Bed:
    """Network namespaces with veth pairs and queues between them."""

    def __init__(self, parameters: Parameters | None = None) -> None:
        """Nothing is made before the context is entered."""
        self.parameters = parameters or Parameters()
        self.pods: tuple[PodPlace, ...] = pods(self.parameters)
        self._keeper: subprocess.Popen[str] | None = None
        self._first = 0
        self._started: list[BedProcess] = []

    def __enter__(self) -> "Bed":
        """Build the bed: about 0.2 s.

        Raises:
            BedError: it cannot be built here; the text has the reason.
        """
        # The testbed's first process reads from a pipe without a writer, so it ends with this process.
        script = build_setup_script(self.parameters) + "\necho made\nexec cat > /dev/null"
        self._keeper = subprocess.Popen(
            enclose(["sh", "-e", "-c", script]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        first = None
        if self._keeper.stdout.readline().strip() == "made":
            first = child_of(self._keeper.pid)
        if first is None:
            _, why = self._keeper.communicate()
            raise BedError(f"the bed could not be made (exit code {self._keeper.returncode}): {why.strip()}")
        self._first = first
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tear the bed down with everything in it."""
        assert self._keeper is not None
        self._keeper.communicate()
        for process in self._started:
            process.stop()

    def pod(self, workload: str) -> PodPlace:
        """The first pod of a workload, given as ``namespace/name``.

        Raises:
            KeyError: there is none.
        """
        for place in self.pods:
            if place.workload == workload:
                return place
        raise KeyError(workload)

    def command(self, place: str | None, *command: str) -> list[str]:
        """The command line that runs ``command`` in a place."""
        network = f"=/proc/{self._first}/root/run/netns/{place}" if place else ""
        return ["nsenter", f"--target={self._first}", "--mount", "--pid", f"--net{network}", "--", *command]

    def run(self, place: str | None, *command: str, text: str | None = None) -> str:
        """Run a command to its end, with ``text`` on its standard input, and give what it wrote.

        Raises:
            BedError: it failed.
        """
        done = subprocess.run(self.command(place, *command), input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            wrong = done.stderr.strip() or done.stdout.strip()
            raise BedError(f"{place or 'bed'}: {' '.join(command)}: exit code {done.returncode}: {wrong}")
        return done.stdout

    def start(self, place: str | None, *command: str, stdout: int = subprocess.DEVNULL) -> BedProcess:
        """Start a command that runs until it is stopped, or the bed ends."""
        process = subprocess.Popen(
            self.command(place, *command), stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL
        )
        self._started.append(BedProcess(process))
        return self._started[-1]

    def python(self, place: str | None, module: str, *arguments: str, stdout: int = subprocess.DEVNULL) -> BedProcess:
        """Start a module of this program."""
        return self.start(place, sys.executable, "-m", module, *arguments, stdout=stdout)

    def instrument(self, place: str | None, module: str, *arguments: str) -> BedProcess:
        """Start a module that measures, with real-time priority, so that it never waits for a processor."""
        python = ("chrt", "-f", "20", sys.executable, "-m", module)
        return self.start(place, *python, *arguments, stdout=subprocess.PIPE)

    def devices(self, place: str) -> "Devices":
        """The byte and packet counters of a place's network devices."""
        return Devices(Path(f"/proc/{self._first}/root/run/netns/{place}"))


class DeviceTraffic:
    """What one device has received and sent since it was made."""

    __slots__ = ("received", "received_packets", "sent", "sent_packets")

    def __init__(self, fields: list[str]) -> None:
        """Take the numbers of one line of /proc/net/dev."""
        self.received, self.received_packets = int(fields[0]), int(fields[1])
        self.sent, self.sent_packets = int(fields[8]), int(fields[9])


class Devices:
    """Reads /proc/net/dev of another network namespace without a process in it."""

    def __init__(self, namespace: Path) -> None:
        """Open the counters.

        Raises:
            OSError: no such namespace, or no right to enter it.
        """
        self._file = -1
        self._wrong: OSError | None = None
        # Only a thread can be in another network namespace; what it has opened stays there.
        visitor = threading.Thread(target=self._open, args=(namespace,))
        visitor.start()
        visitor.join()
        if self._wrong is not None:
            raise self._wrong

    def _open(self, namespace: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with namespace.open(encoding="ascii") as there:
                if libc.setns(there.fileno(), _CLONE_NEWNET):
                    self._wrong = OSError(ctypes.get_errno(), "setns", str(namespace))
                    return
            self._file = os.open("/proc/thread-self/net/dev", os.O_RDONLY)
        except OSError as error:
            self._wrong = error

    def read(self) -> dict[str, DeviceTraffic]:
        """The counters now, by device."""
        lines = os.pread(self._file, 65536, 0).decode("ascii").splitlines()[2:]
        return {name.strip(): DeviceTraffic(rest.split()) for name, _, rest in (line.partition(":") for line in lines)}

    def close(self) -> None:
        """Close the file that holds the namespace."""
        os.close(self._file)
