"""What the benches of the page share: domains, and what its processes hold."""

import contextlib
from pathlib import Path

from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
from services.bench.resident import read_resident
from services.bench.ui.chromium import Page


def build_domains(count: int) -> tuple[Domain, ...]:
    """Build domains of two critical workloads and one target each."""
    return tuple(
        Domain(
            f"line-{i}",
            (Critical("robot-control", f"line-{i}"), Critical("safety-scanner", f"line-{i}")),
            (
                Target(
                    deployment="telemetry-upload",
                    namespace=f"line-{i}",
                    min=Rate(5_000),
                    max=Rate(90_000),
                    fail_safe=Rate(20_000),
                ),
            ),
        )
        for i in range(count)
    )


async def read_heap(page: Page) -> float:
    """Read what the page's scripts hold after a garbage collection, MiB."""
    await page.ask("HeapProfiler.collectGarbage")
    usage = await page.ask("Runtime.getHeapUsage")
    return float(usage["usedSize"]) / 2**20


def find_renderer(browser: int) -> int:
    """Find the process of a browser's only tab: of its descendants, the largest that renders.

    Raises:
        ProcessLookupError: there is none.
    """
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text(encoding="ascii", errors="replace").partition("PPid:")[2].split()[0])
            children.setdefault(parent, []).append(int(status.parent.name))
    found: list[int] = []
    waiting = [browser]
    while waiting:
        waiting += (below := children.get(waiting.pop(), []))
        found += [one for one in below if b"--type=renderer" in Path(f"/proc/{one}/cmdline").read_bytes()]
    if not found:
        raise ProcessLookupError(f"process {browser} has no tab")
    return max(found, key=read_resident)
