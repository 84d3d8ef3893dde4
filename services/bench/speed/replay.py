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
from services.bench.timing import seconds
from services.bus.subjects import Subjects
from services.control import POLICIES, Controller
from services.runtime import logging_setup
from services.tools.common.recording import Reader, Writer, header_of, line_of
from services.tools.replay import on_bus
from services.tools.replay.decision_process import served
from services.tools.replay.offline import Lines, again, what_if
from services.tools.replay.verifier import Tally

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
    """Domains of one critical workload and one target."""
    return Config(
        tuple(
            Domain(
                f"cell-{i}",
                (Critical("robot-control", f"cell-{i}"),),
                (Target("telemetry-upload", Rate(5_000), Rate(90_000), Rate(20_000), f"cell-{i}"),),
                policy,
                capacity=Rate(100_000),
            )
            for i in range(domains)
        )
    )


def make(path: Path, config: Config, count: int, *, decisions: bool) -> Reader:
    """A recording of ``count`` samples over all domains, with the decisions on them if wanted."""
    chance, subjects = random.Random(1), Subjects()  # noqa: S311 - figures must be the same each time
    controllers = {domain.name: Controller(domain) for domain in config.domains}
    states: dict[str, State] = {}
    with path.open("wb") as file, Writer(file, header_of(config, "bus", "bench", _BEGIN)) as writer:
        for seq in range(1, count + 1):
            domain = config.domains[seq % len(config.domains)]
            sample = _sample(domain, _BEGIN + (seq // len(config.domains) + 1) * _PERIOD, chance)
            at = sample.end + 5_000_000
            writer.write(line_of("sample", subjects.sample(domain.name), seq, at, {}, encode(sample)))
            if decisions:
                decision = controllers[domain.name].step(states.get(domain.name), sample)
                states[domain.name] = decision.state
                subject = subjects.decision(domain.name)
                writer.write(line_of("decision", subject, seq, at + 2_000_000, {}, encode(decision)))
    return Reader(path)


def _sample(domain: Domain, end: int, chance: random.Random) -> Sample:
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
    return Sample(domain.name, end - 4 * _PERIOD, end, _PERIOD, "bench", (measure,), sent)


def _rate(count: int, work: Callable[..., Any], *arguments: Any) -> int:
    return round(count / seconds(lambda: work(*arguments), _ROUNDS))


def _silent(_: int) -> None:
    pass


def _decoded(reader: Reader) -> None:
    for _ in reader.read(msgspec.json.Decoder(Lines)):
        pass


def _stepped(domain: Domain, samples: list[Sample]) -> None:
    controller = Controller(domain)
    state: State | None = None
    for sample in samples:
        state = controller.step(state, sample).state


def in_process(home: Path, count: int) -> dict[str, float]:
    """Decoding alone, control alone, replay of samples, and replay with every decision compared."""
    figures: dict[str, float] = {}
    for policy in ("proportional", "learned"):
        if policy not in POLICIES:
            continue
        config = configuration(1, policy)
        samples = make(home / f"{policy}.samples", config, count, decisions=False)
        whole = make(home / f"{policy}.whole", config, count, decisions=True)
        if policy == "proportional":
            figures["decoded alone, samples/s"] = _rate(count, _decoded, samples)
        read = [msgspec.json.decode(line.payload, type=Sample) for line in samples.lines()]
        figures[f"stepped alone, {policy}, samples/s"] = _rate(count, _stepped, config.domains[0], read)
        told = f"replayed in this process, {policy}, samples/s"
        figures[told] = _rate(count, what_if, samples, {policy: config.domains}, _silent)
        figures[f"and every decision compared, {policy}, samples/s"] = _rate(count, again, whole, _silent)
    return figures


def memory(home: Path, count: int) -> dict[str, float]:
    """Growth of the resident memory from a short recording to one ten times as long, MiB."""
    config = configuration(4, "proportional")
    again(make(home / "short", config, count // 10, decisions=True), _silent)
    before = _peak_mib()
    long = make(home / "long", config, count, decisions=True)
    between = _peak_mib()
    again(long, _silent)
    return {"memory added by ten times the length, MiB": round(_peak_mib() - max(before, between), 1)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _server(home: Path) -> Iterator[str]:
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
    """Samples a second onto a real server and through a real decision service, all compared."""
    figures: dict[str, float] = {}
    with _server(home) as url:
        for name, domains, count in (("100 domains", 100, 15_000), ("one domain", 1, 3_000)):
            reader = make(home / name, configuration(domains, "proportional"), count, decisions=True)
            tallies, took = asyncio.run(_replayed(reader, url))
            if any(tally.different or tally.unanswered for tally in tallies.values()):
                raise click.ClickException(f"{name}: decisions came out otherwise")
            figures[f"onto a bus, {name}, samples/s"] = round(count / took)
    return figures


async def _replayed(reader: Reader, url: str) -> tuple[dict[str, Tally], float]:
    async with served(reader.header, BusConfig(servers=(url,))) as settings:
        began = time.monotonic()
        return await on_bus.replay(reader, settings, None, _silent), time.monotonic() - began


@click.command("replay")
@click.option("--samples", default=100_000, show_default=True, help="How many each measurement in this process takes.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Add the figures to this file.")
def command(samples: int, path: Path | None) -> None:
    """Decoding and replay, in this process and onto a bus."""
    logging_setup.configure("bench", "error")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        home = Path(folder)
        figures = {**memory(home, samples), **in_process(home, samples), **through_bus(home)}
    show("replay", figures, _GOALS, path)
