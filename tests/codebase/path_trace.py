"""Traces the steady path: which functions run from the end of a signal window to the patch that answers it.

Sampler, decision and actuator run as processes on a real nats-server and the Kubernetes emulator, each
under ``traced_service``.  The capacity of the bottleneck changes, so that limits keep moving.

A pass is the way of one sample: in sampler and decision from the end of its window until its decision was published,
in the actuator from then until the API server acknowledged the last patch.  Counted is a function of the product that
runs code of its own in at least half of the passes, in one of the tasks that the patch waits for (``_PATH``).  Hence
start-up, retries, watches, reports and heartbeats do not count, however long a busy machine draws a pass out.  Neither
do, because nobody who follows the path has to read them as steps of it:

- properties, which read like fields, dunder methods, lambdas and comprehensions;
- health and metrics, and what third-party packages do;
- the inside of the policy, which can be exchanged: of it, ``propose`` counts.  Its inside is counted by itself;
- the simulated plant and the emulator, which stand in for the cluster.
"""

import asyncio
import math
import threading
import time
from collections import defaultdict
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from schemas.config import Config, Scrape, Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import Action, decode
from schemas.units import Rate
from services.bench.speed.kube_apis import start_emulator
from services.bus.bus import Bus
from services.plant.harness.metrics_page import MetricsPage
from services.plant.harness.pipeline import SERVICES, build_config, find_program, format_config, start_nats
from services.plant.harness.processes import Processes
from services.plant.interface import BUCKETS, Counters, Histogram, Pod
from tests.codebase.source import read_modules

ROUNDS = 16
_WARM_UP_ROUNDS = 4
_MOST_S = 120
_PATH = {
    "sampler": {"Sampler.run", "Scraper.scrape", "-", "Outbox._drain", "Subscription._wait_for_msgs"},
    "decision": {"service_command.<locals>.work_on_bus", "DecisionService._drain", "Subscription._wait_for_msgs"},
    "actuator": {
        *("Subscription._wait_for_msgs", "act", "TargetSet._start.<locals>.work_in_turn", "_send_one_kind", "_patch")
    },
}
"""By service, the tasks that a patch waits for, by their coroutines; ``-`` are the threads of the HTTP client.
The trace fails where one of them no longer exists."""
_NO_STEPS = ("services/runtime/", "services/plant/")
Step = tuple[str, str]
"""A function, by file and qualified name."""
_MS, _S = 10**6, 10**9
_TARGET = Target(deployment="upload", min=Rate(5_000), max=Rate(80_000), fail_safe=Rate(10_000))
_DOMAIN = Domain("line", (Critical("robot"),), (_TARGET,))


class _Plant:
    """Counters of a critical workload and of one target's pods behind a bottleneck whose capacity changes."""

    def __init__(self, pods: tuple[Pod, ...]) -> None:
        self.pods = pods
        self.limit = int(_TARGET.fail_safe)
        """In force on the target, kbit/s; the target sends at this rate."""
        self._lock = threading.Lock()
        self._begin = self._last = time.time_ns()
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._bytes = 0

    def read_counters(self) -> Counters:
        """Counters up to now: 500 round trips a second, slow if the target sends more than fits."""
        with self._lock:
            now = time.time_ns()
            fits = 60_000 if (now - self._begin) // (6 * _S) % 2 == 0 else 25_000
            for number in range(self._last * 500 // _S, now * 500 // _S):
                latency = (0.008 if self.limit > fits else 0.0004) * (1 + number % 10 / 20)
                for at, bound in enumerate((*BUCKETS, math.inf)):
                    self._counts[at] += latency <= bound
                self._seconds += latency
            self._bytes += self.limit * 125 * (now - self._last) // _S
            self._last = now
            histogram = Histogram(tuple(self._counts), self._seconds, 0)
            sent = {pod.name: self._bytes // len(self.pods) for pod in self.pods}
            critical = 2_500_000 * (now - self._begin) // _S
            return Counters({"default/robot": histogram}, {"default/robot": critical} | sent)


async def trace() -> set[Step]:
    """Functions that run from each steady sampling to its patch, the inside of the policy among them.

    Raises:
        TimeoutError: there were too few patches.
    """
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes())
        nats, api = await start_nats(processes), await start_emulator(processes)
        paths = await api.deploy(_TARGET.key.rpartition("/")[2], 3, {})
        plant = _Plant(tuple(Pod(path.rpartition("/")[2], _TARGET.key) for path in paths[1:]))
        page = stack.enter_context(MetricsPage([plant]))
        config = build_config((_DOMAIN,), nats, api.config, Signal(scrape=Scrape((page.url,))))
        file = processes.home / "sluice.yaml"
        file.write_text(format_config(config), encoding="utf-8")
        calls = {name: processes.home / f"{name}.calls" for name in SERVICES}
        for name, path in calls.items():
            command = find_program("python"), "-m", "tests.codebase.traced_service", path, name, "--config", file
            await processes.start(name, *command)
        spans = await _watch_patches(config, plant)
        await processes.stop()
        return _select_steps(spans, calls)


async def _watch_patches(config: Config, plant: _Plant) -> list[tuple[int, int, int]]:
    """Put patches in force on the plant; gives each one's window end, its decision's time and its end, UTC ns."""
    spans: list[tuple[int, int, int]] = []
    async with Bus.connect(config.bus, "bench", lambda _: None) as bus, asyncio.timeout(_MOST_S):
        await bus.ensure_streams()
        async with aclosing(bus.read("action", follow=True)) as messages:
            async for raw in messages:
                action = decode(Action, raw.body)
                if action.cause == "decision" and action.sampled and action.decided and action.applied:
                    plant.limit = action.limit
                    spans.append((action.sampled, action.decided, action.applied))
                if len(spans) == _WARM_UP_ROUNDS + ROUNDS:
                    return spans[_WARM_UP_ROUNDS:]
    raise AssertionError("the bus is read for ever")


def _select_steps(passes: list[tuple[int, int, int]], files: dict[str, Path]) -> set[Step]:
    counts: defaultdict[Step, set[int]] = defaultdict(set)
    properties = {(one.file, one.name) for module in read_modules() for one in module.functions if one.is_property}
    for service, path in files.items():
        tasks = set()
        for line in path.read_text(encoding="utf-8").splitlines():
            file, function, task, *times = line.split(" ")
            tasks.add(task)
            is_step = not (file.startswith(_NO_STEPS) or file.endswith("/metrics.py") or function.endswith((">", "__")))
            if task not in _PATH[service] or not is_step or (file, function.rpartition(".")[2]) in properties:
                continue
            for number, (sampled, decided, applied) in enumerate(passes):
                begin, end = (decided, applied) if service == "actuator" else (sampled, decided)
                if any(begin <= int(when) <= end for when in times):
                    counts[file, function].add(number)
        assert tasks >= _PATH[service], f"{service}: a task of the path has another name by now"
    return {step for step, those in counts.items() if 2 * len(those) >= len(passes)}
