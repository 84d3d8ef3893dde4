"""The testbed on real namespaces: it carries packets, and leaves nothing behind however it ends."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.plant.real.probe import RECORD
from services.plant.real.testbed import Bed, BedError
from services.plant.topology import ROBOT, Parameters
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.root

CELL = "factory/robot-cell"


def _until(true: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def _round_trips(bed: Bed, count: int) -> list[int]:
    cell = bed.pod(CELL)
    echo = bed.instrument(cell.name, "services.plant.real.echo", cell.address, "7007")
    assert echo.stdout.readline() == b"listening\n"
    arguments = (cell.address, "7007", "250", "200")
    probe = bed.instrument(bed.pod(ROBOT).name, "services.plant.real.probe", *arguments)
    return [RECORD.unpack(probe.stdout.read(RECORD.size))[1] for _ in range(count)]


@pytest.mark.parametrize("bands", ["off", "uplink", "bottleneck"])
def test_packets_cross_the_bed(bands: str) -> None:
    """Probes from the floor return from the office, and the bottleneck's port has counted them."""
    with Bed(Parameters(bands=bands)) as bed:  # type: ignore[arg-type]
        before = bed.devices("n3").read()["eth0"].received_packets
        trips = _round_trips(bed, 50)
        after = bed.devices("n3").read()["eth0"].received_packets
    assert min(trips) > 0
    assert after - before >= 50


def test_a_failed_command_is_reported_with_its_place_and_output() -> None:
    """The error names the place, the command and its output."""
    with Bed() as bed, pytest.raises(BedError, match=r"n1: ip link set nothing up: exit code 1: .*nothing"):
        bed.run("n1", "ip", "link", "set", "nothing", "up")


def _surroundings() -> set[str]:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return set((links + names + mounts).splitlines())


def _in_same_process_namespace(pid: int) -> set[str]:
    """Every process in the process namespace of ``pid``, by its entry in /proc."""
    namespace = (Path("/proc") / str(pid) / "ns/pid").readlink()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if (process / "ns/pid").readlink() == namespace:
                found.add(str(process))
    return found


RUNNER = """
import sys
from services.plant.real.testbed import Bed
with Bed() as bed:
    server = bed.start("robot-cell-0", "iperf3", "-s")
    probe = bed.instrument("robot-control-0", "services.plant.real.probe", "10.77.3.4", "7007", "250", "200")
    while not (server.pid and probe.pid):
        pass
    print(server.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_nothing_is_left_behind(end: str) -> None:
    """After SIGKILL of its process, and after a normal end, no namespace, link, mount or process remains."""
    before = _surroundings()
    runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with runner:
        assert runner.stdout is not None
        inside = _in_same_process_namespace(int(runner.stdout.readline()))
        assert len(inside) >= 3, "the keeper, iperf3 and the probe"
        if end == "kill":
            runner.send_signal(signal.SIGKILL)
        else:
            runner.communicate("go\n", timeout=PATIENCE_S)
    _until(lambda: not any(Path(process).exists() for process in inside), "the bed's processes are gone")
    _until(lambda: _surroundings() <= before, "nothing of the bed is seen from outside")
