"""Decision services as processes, samples for them, and the expected decisions."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Self

from schemas.config import BusConfig, Config
from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Decision, M, Sample, State, encode
from services.bus.bus import Bus, Received
from services.common.failpoints import VARIABLE
from services.control import Controller, RejectedSample
from services.runtime.config_loader import parse
from tests.support.nats_server import Server
from tests.support.waiting import PATIENCE_S, extend

S = 10**9
PERIOD = S // 2


def config_text(url: str, prefix: str, domains: Iterable[str], replicas: int = 1) -> str:
    """A configuration file with one target a domain; several servers are separated by commas."""
    lines = ["domains:"]
    for name in domains:
        lines += [
            f"  - name: {name}",
            "    critical: [{workload: robot-control}]",
            f"    targets: [{{deployment: upload-{name}, min: 5M, max: 80M, fail_safe: 10M}}]",
        ]
    servers = f"servers: [{url}], prefix: {prefix}, replicas: {replicas}"
    lines += [f"bus: {{{servers}}}", "listen: {host: 127.0.0.1, decision: 0}"]
    return "\n".join(lines)


def sample(domain: str, number: int, begin: int) -> Sample:
    """The ``number``-th sample after ``begin``: mostly good, sometimes violating, lossy or blind."""
    end = begin // PERIOD * PERIOD + number * PERIOD
    p95 = 0.004 if number % 17 == 0 else 0.0005 + (number * 37 % 100) / 1e5
    lost = 2.0 if number % 41 == 0 else 0.0
    blind = "blind: 3 observations" if number % 29 == 0 else None
    measure = CriticalMeasure("default/robot-control", p95 * 0.8, p95, 400, lost, missing=blind)
    return Sample(domain=domain, start=end - 4 * PERIOD, end=end, period=PERIOD, source="test", critical=(measure,))


@asynccontextmanager
async def join(url: str, prefix: str, replicas: int = 1) -> AsyncIterator[Bus]:
    """The test's own bus connection; several servers are separated by commas."""
    settings = BusConfig(servers=tuple(url.split(",")), prefix=prefix, replicas=replicas)
    async with Bus.connect(settings, "test", lambda _: None) as bus:
        assert await bus.ensure_streams() == []
        yield bus


async def send(bus: Bus, samples: Iterable[Sample]) -> None:
    """Publish samples, in order."""
    for one in samples:
        await bus.publish(bus.subjects.sample(one.domain), one, msg_id=one.id)


async def read_stream(bus: Bus, kind: type[M]) -> list[Received[M]]:
    """All messages of a stream."""
    stream = await bus.stream_info(kind)
    found: list[Received[M]] = []
    if stream is None or stream.last < stream.first or stream.last == 0:
        return found
    async with asyncio.timeout(PATIENCE_S) as limit, aclosing(bus.consume(kind, None, "test")) as messages:
        async for one in messages:
            extend(limit)
            found.append(one)
            if one.seq == stream.last:
                break
    return found


def replay_samples(domain: Domain, samples: Iterable[Received[Sample]], faults: Sequence[str | None]) -> list[Decision]:
    """The decisions of one process that never fails, on a domain's stream of samples."""
    controller = Controller(domain)
    state: State | None = None
    decisions: list[Decision] = []
    for one in samples:
        fault = faults[len(decisions)] if len(decisions) < len(faults) else None
        try:
            decisions.append(controller.answer(state, one.message, one.published, fault))
        except RejectedSample:
            continue
        state = decisions[-1].state
    return decisions


async def check(bus: Bus, config: Config) -> int:
    """Compare every domain's decisions with a replay, bit for bit; return how many there are."""
    samples = await read_stream(bus, Sample)
    decisions = await read_stream(bus, Decision)
    for domain in config.domains:
        ours = [one for one in decisions if one.message.domain == domain.name]
        theirs = [one for one in samples if one.subject == bus.subjects.sample(domain.name)]
        wanted = replay_samples(domain, theirs, [one.message.fault for one in ours])
        assert [one.body for one in ours] == [encode(one) for one in wanted]
        by_id = {one.message.id: one for one in reversed(theirs)}
        for one in ours:
            cause = by_id[one.message.sample]
            assert one.headers["Sluice-Sample-Seq"] == str(cause.seq)
            assert one.headers["traceparent"].split("-")[1] == cause.headers["traceparent"].split("-")[1]
    return len(decisions)


async def wait_for_decisions(bus: Bus, count: int) -> None:
    """Wait until the bus has so many decisions.

    Raises:
        TimeoutError: they never came.
    """
    async with asyncio.timeout(PATIENCE_S) as limit:
        left = count
        async with aclosing(bus.consume(Decision, None, "test")) as messages:
            async for _ in messages:
                extend(limit)
                left -= 1
                if left == 0:
                    return


async def wait_for_stored(bus: Bus, kind: type[M], count: int) -> None:
    """Wait until a stream has stored so many messages, readable or not.

    Raises:
        TimeoutError: they never came.
    """
    last = 0
    async with asyncio.timeout(PATIENCE_S) as limit:
        while True:
            stream = await bus.stream_info(kind)
            if stream is not None and stream.last >= count:
                return
            if stream is not None and stream.last > last:
                last = stream.last
                extend(limit)
            await asyncio.sleep(0.02)


class ServiceProcess(Server):
    """A service in a separate process; killed at the end of the context."""

    def __init__(
        self,
        service: str,
        home: Path,
        text: str,
        crash_at: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Write its configuration below ``home``; arm one crash point; ``environment`` is added to this process's."""
        home.mkdir(parents=True, exist_ok=True)
        self._service = service
        self._path = home / "config.yaml"
        self._path.write_text(text)
        self._log = home / f"{service}.log"
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
        self._environment |= environment or {}
        if crash_at is not None:
            self._environment[VARIABLE] = crash_at
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """The logs of this process and its predecessors below the same home."""
        return self._log.read_text()

    def start(self) -> Self:
        """Start it."""
        command = [str(Path(sys.executable).parent / "sluice"), self._service, "--config", str(self._path)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        return self

    async def wait_for_crash(self) -> bool:
        """Wait until it ends; return whether SIGKILL ended it.

        Raises:
            TimeoutError: it runs on.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process is not None
            code = self._process.poll()
            if code is not None:
                return code == -signal.SIGKILL
            await asyncio.sleep(0.02)
        raise TimeoutError(f"still running: {self.log}")

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class DecisionProcess(ServiceProcess):
    """``sluice decision``."""

    def __init__(self, home: Path, text: str, crash_at: str | None = None) -> None:
        """Write its configuration below ``home``; arm one crash point."""
        super().__init__("decision", home, text, crash_at)


def parse_config(text: str) -> Config:
    """The configuration as a service reads it."""
    return parse(text, "test", {})
