"""``sluice bench replay``: how fast recordings are decoded and replayed, in this process and onto a bus.

Rates in this process are per second of its own processor time, that is per core; onto a bus they are
per second of wall-clock time, with server, decision service and replay sharing the machine.
"""

import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from schemas.config import BusConfig, Config
from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Sample, State, TargetMeasure, encode
from schemas.units import Rate
from services.bench.goals import show
from services.bench.speed.control_step import step_through
from services.bench.timing import measure_seconds
from services.bus.subjects import Subjects
from services.control import POLICIES, Controller
from services.runtime import logging_setup
from services.runtime.option_types import FiguresFile
from services.tools.common.recording import RecordingReader, RecordingWriter, build_header, build_message
from services.tools.replay import on_bus
from services.tools.replay.decision_process import run_decision_service
from services.tools.replay.offline import Lines, compare_policies, verify
from services.tools.replay.verifier import ReplayTally

_ROUNDS = 5
_PERIOD = 10**9 // 2
_BEGIN = 1_790_000_000 * 10**9
_GOALS = {
    "replayed in this process, proportional, samples/s": ">= 100,000",
    "and every decision compared, proportional, samples/s": ">= 100,000",
    "replayed in this process, learned, samples/s": ">= 40,000",
    "and every decision compared, learned, samples/s": ">= 40,000",
    "onto a bus, 100 domains, samples/s": ">= 3,000",
    "onto a bus, one domain, samples/s": ">= 500",
}
_NATS = 'listen: "127.0.0.1:-1"\nports_file_dir: "{home}"\njetstream {{ store_dir: "{home}/jetstream" }}\n'


def configuration(domains: int, policy: str) -> Config:
    """Build a configuration of domains with one critical workload and one target each."""
    return Config(
        tuple(
            Domain(
                f"cell-{i}",
                (Critical("robot-control", f"cell-{i}"),),
                (
                    Target(
                        deployment="telemetry-upload",
                        min=Rate(5_000),
                        max=Rate(90_000),
                        fail_safe=Rate(20_000),
                        namespace=f"cell-{i}",
                    ),
                ),
                policy,
                capacity=Rate(100_000),
            )
            for i in range(domains)
        )
    )


def write_recording(path: Path, config: Config, count: int, *, decisions: bool) -> RecordingReader:
    """Write ``count`` samples over all domains, with the decisions on them if ``decisions``."""
    chance, subjects = random.Random(1), Subjects()  # noqa: S311 - figures must be the same each time
    controllers = {domain.name: Controller(domain) for domain in config.domains}
    states: dict[str, State] = {}
    with path.open("wb") as file, RecordingWriter(file, build_header(config, "bus", "bench", _BEGIN)) as writer:
        for seq in range(1, count + 1):
            domain = config.domains[seq % len(config.domains)]
            sample = build_sample(domain, _BEGIN + (seq // len(config.domains) + 1) * _PERIOD, chance)
            at = sample.end + 5_000_000
            writer.write(build_message("sample", subjects.sample(domain.name), seq, at, {}, encode(sample)))
            if decisions:
                decision = controllers[domain.name].step(states.get(domain.name), sample)
                states[domain.name] = decision.state
                subject = subjects.decision(domain.name)
                writer.write(build_message("decision", subject, seq, at + 2_000_000, {}, encode(decision)))
    return RecordingReader(path)


def build_sample(domain: Domain, end: int, chance: random.Random) -> Sample:
    """Build a sample of the window that ends at ``end``, UTC ns; one in fifty has a high latency."""
    scale = 4 if chance.random() < 0.02 else 1
    measure = CriticalMeasure(
        domain.critical[0].key,
        jitter=chance.uniform(0.0002, 0.001) * scale,
        p95=chance.uniform(0.0005, 0.0015) * scale,
        observations=500,
        lost=0.0,
        throughput=chance.randrange(20_000, 30_000),
    )
    sent = (TargetMeasure(domain.targets[0].key, chance.randrange(5_000, 60_000)),)
    return Sample(
        domain=domain.name,
        start=end - 4 * _PERIOD,
        end=end,
        period=_PERIOD,
        source="bench",
        critical=(measure,),
        targets=sent,
    )


def _rate(count: int, work: Callable[..., Any], *arguments: Any) -> int:
    return round(count / measure_seconds(lambda: work(*arguments), _ROUNDS))


def _silent(_: int) -> None:
    pass


def decode_all(reader: RecordingReader) -> None:
    """Decode every line of a recording."""
    for _ in reader.read_batches(msgspec.json.Decoder(Lines)):
        pass


def in_process(home: Path, count: int) -> dict[str, float]:
    """Measure decoding alone, control alone, replay of samples, and replay that compares every decision."""
    figures: dict[str, float] = {}
    for policy in ("proportional", "learned"):
        if policy not in POLICIES:
            continue
        config = configuration(1, policy)
        samples = write_recording(home / f"{policy}.samples", config, count, decisions=False)
        whole = write_recording(home / f"{policy}.whole", config, count, decisions=True)
        if policy == "proportional":
            figures["decoded alone, samples/s"] = _rate(count, decode_all, samples)
        read = [msgspec.json.decode(line.payload, type=Sample) for line in samples.read_messages()]
        figures[f"stepped alone, {policy}, samples/s"] = _rate(count, step_through, config.domains[0], read)
        figures[f"replayed in this process, {policy}, samples/s"] = _rate(
            count, compare_policies, samples, {policy: config.domains}, _silent
        )
        figures[f"and every decision compared, {policy}, samples/s"] = _rate(count, verify, whole, _silent)
    return figures


def memory(home: Path, count: int) -> dict[str, float]:
    """Measure how much the resident memory grows with a recording ten times as long, MiB."""
    config = configuration(4, "proportional")
    verify(write_recording(home / "short", config, count // 10, decisions=True), _silent)
    before = _peak_mib()
    long = write_recording(home / "long", config, count, decisions=True)
    between = _peak_mib()
    verify(long, _silent)
    return {"memory added by ten times the length, MiB": round(_peak_mib() - max(before, between), 1)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def nats_server(home: Path) -> Iterator[str]:
    """Run a nats-server with JetStream on a free port; gives its address."""
    (home / "nats.conf").write_text(_NATS.format(home=home))
    process = subprocess.Popen(  # noqa: S603 - this Python's own program
        [Path(sys.executable).parent / "nats-server", "-c", home / "nats.conf"], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not (ports := [path for path in home.glob("*.ports") if path.stat().st_size]):
            if time.monotonic() > deadline or process.poll() is not None:
                raise click.ClickException("nats-server does not start")
            time.sleep(0.02)
        yield json.loads(ports[0].read_text())["nats"][0]
    finally:
        process.terminate()
        process.wait()


def through_bus(home: Path) -> dict[str, float]:
    """Measure samples a second through a real server and decision service; every decision is compared."""
    figures: dict[str, float] = {}

    async def replay(reader: RecordingReader, url: str) -> tuple[dict[str, ReplayTally], float]:
        async with run_decision_service(reader.header, BusConfig(servers=(url,))) as settings:
            began = time.monotonic()
            return await on_bus.replay(reader, settings, None, _silent), time.monotonic() - began

    with nats_server(home) as url:
        for name, domains, count in (("100 domains", 100, 15_000), ("one domain", 1, 3_000)):
            reader = write_recording(home / name, configuration(domains, "proportional"), count, decisions=True)
            tallies, took = asyncio.run(replay(reader, url))
            if any(tally.different or tally.unanswered for tally in tallies.values()):
                raise click.ClickException(f"{name}: decisions came out otherwise")
            figures[f"onto a bus, {name}, samples/s"] = round(count / took)
    return figures


@click.command("replay")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="How many each measurement in this process takes.",
)
@click.option("--json", "path", type=FiguresFile(), help="Add the figures to this file.")
def command(samples: int, path: Path | None) -> None:
    """Decoding and replay, in this process and onto a bus."""
    logging_setup.configure("bench", "error")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        home = Path(folder)
        figures = {**memory(home, samples), **in_process(home, samples), **through_bus(home)}
    show("replay", figures, _GOALS, path)
