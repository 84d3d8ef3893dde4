"""Recordings of a real bus, and replays of the decisions of a real service."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import Decision, Sample, State, decode
from services.bus.bus import Bus
from services.bus.envelope import SAMPLE_SEQ, RawMessage
from services.control import Controller
from services.tools.common.bus_reader import MessageRange, connect_reader
from services.tools.common.recording import RecordedMessage, RecordingReader
from tests.support.commands import running, sluice
from tests.support.decision_services import (
    DecisionProcess,
    config_text,
    join,
    parse_config,
    sample,
    send,
    wait_for_decisions,
)
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

S = 10**9
COUNT = 60


@asynccontextmanager
async def open_decided_bus(nats: NatsServer, home: Path, domains: str = "ab") -> AsyncIterator[tuple[Bus, Path]]:
    """A bus with samples of the last minute and a decision service's answers; yields the configuration file, too."""
    text = config_text(nats.url, "sluice", domains)
    begin = time.time_ns() - 3600 * S
    with DecisionProcess(home, text):
        async with join(nats.url, "sluice") as bus:
            for n in range(1, COUNT + 1):
                await send(bus, (sample(domain, n, begin) for domain in domains))
            await wait_for_decisions(bus, COUNT * len(domains))
            yield bus, home / "config.yaml"


async def run(*arguments: str | Path) -> str:
    """Run a subcommand that succeeds; return its output."""
    done = await asyncio.to_thread(sluice, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


async def test_a_recorded_bus_replays_to_the_same_decisions(nats: NatsServer, tmp_path: Path) -> None:
    """A replay from the recording alone gives the live service's decisions, byte for byte."""
    file = tmp_path / "x.jsonl.zst"
    async with open_decided_bus(nats, tmp_path) as (_, config):
        output = await run("record", "--config", config, "--since", "10m", "-o", file)
    assert "120 samples, 120 decisions" in output
    result = json.loads(await run("replay", file, "--json"))
    for domain in "ab":
        tally = result["domains"][domain]
        assert (tally["samples"], tally["identical"], tally["different"], tally["given"]) == (COUNT, COUNT, 0, 0)
    assert result["problems"] == []


async def test_a_recording_holds_what_the_bus_held(nats: NatsServer, tmp_path: Path) -> None:
    """Subjects, sequences, times, headers and bodies are those of the bus, each cause before its effect."""
    file = tmp_path / "x.jsonl.zst"
    async with open_decided_bus(nats, tmp_path) as (bus, config):
        await run("record", "--config", config, "--since", "10m", "-o", file)
        stored = {(kind, raw.seq): raw async for kind, raw in _everything(bus)}
    lines = list(RecordingReader(file).read_messages())
    assert len(lines) == len(stored)
    for line in lines:
        raw = stored[line.kind, line.seq]
        assert (line.subject, line.time, line.payload) == (raw.subject, raw.published, raw.body)
        assert line.headers == dict(raw.headers)
    seen = set()
    for line in lines:
        if line.kind == "sample":
            seen.add(decode(Sample, line.payload).id)
        else:
            assert decode(Decision, line.payload).sample in seen


async def _everything(bus: Bus) -> AsyncIterator[tuple[str, RawMessage]]:
    for kind in ("sample", "decision"):
        async for raw in bus.read(kind):
            yield kind, raw


async def test_a_stretch_by_sequence_and_of_one_domain(nats: NatsServer, tmp_path: Path) -> None:
    """Only the requested samples are recorded, with the state before the first."""
    file = tmp_path / "x.jsonl.zst"
    async with open_decided_bus(nats, tmp_path) as (bus, config):
        # A decision answers each sample before the next one arrives, as in production.
        begin = time.time_ns() - 1800 * S
        for n in range(1, 11):
            await send(bus, [sample("a", n, begin)])
            await wait_for_decisions(bus, 2 * COUNT + n)
        first, last = str(2 * COUNT + 4), str(2 * COUNT + 7)
        arguments = ("--from-seq", first, "--to-seq", last, "--domain", "a")
        await run("record", "--config", config, *arguments, "-o", file)
    reader = RecordingReader(file)
    kinds = [(line.kind, line.seq) for line in reader.read_messages()]
    assert kinds[0] == ("decision", 2 * COUNT + 3)
    assert [seq for kind, seq in kinds if kind == "sample"] == list(range(2 * COUNT + 4, 2 * COUNT + 8))
    assert [domain.name for domain in reader.header.domains] == ["a"]
    tally = json.loads(await run("replay", file, "--json"))["domains"]["a"]
    assert (tally["given"], tally["identical"], tally["different"]) == (1, 4, 0)


def _count_recorded(file: Path) -> int:
    """The messages in a recording that grows; a moment after it was made, its header is still to come."""
    if not file.exists() or not file.stat().st_size:
        return 0
    return len(list(RecordingReader(file).read_messages()))


async def test_what_arrives_is_recorded_until_it_is_stopped(nats: NatsServer, tmp_path: Path) -> None:
    """A live recording can be read while it grows, ends in order on Ctrl-C, and replays."""
    file = tmp_path / "x.jsonl.zst"
    async with open_decided_bus(nats, tmp_path) as (bus, config):
        with running("record", "--config", config, "-o", file) as process:
            async with asyncio.timeout(PATIENCE_S):
                begin, n = time.time_ns() - 1800 * S, 0
                while _count_recorded(file) < 30:
                    n += 1
                    await send(bus, (sample(domain, n, begin) for domain in "ab"))
                    await asyncio.sleep(0.02)
        assert process.returncode == 0
    result = json.loads(await run("replay", file, "--json"))
    for tally in result["domains"].values():
        assert tally["identical"] >= 5
        assert tally["different"] == 0


async def test_what_arrives_of_several_domains_is_recorded_once(nats: NatsServer, tmp_path: Path) -> None:
    """The initial states are in the order of the bus, and later messages are recorded once."""
    text = config_text(nats.url, "sluice", "ab")
    file, begin = tmp_path / "x.jsonl.zst", time.time_ns() - 1800 * S
    (tmp_path / "config.yaml").write_text(text)
    async with join(nats.url, "sluice") as bus:
        states: dict[str, State] = {}
        controllers = {domain.name: Controller(domain) for domain in parse_config(text).domains}

        async def step(name: str, n: int) -> None:
            one = sample(name, n, begin)
            seq = await bus.publish(bus.subjects.sample(name), one, msg_id=one.id)
            decision = controllers[name].step(states.get(name), one)
            states[name] = decision.state
            headers = {SAMPLE_SEQ: str(seq)}
            await bus.publish(bus.subjects.decision(name), decision, msg_id=decision.id, headers=headers)

        for name in "abba":
            await step(name, 1 if name not in states else 2)
        with running("record", "--config", tmp_path / "config.yaml", "-o", file):
            async with asyncio.timeout(PATIENCE_S):
                n = 2
                while _count_recorded(file) < 20:
                    n += 1
                    await step("b", n)
                    await step("a", n)
                    await asyncio.sleep(0.05)
    decisions = [line.seq for line in RecordingReader(file).read_messages() if line.kind == "decision"]
    assert decisions == list(range(decisions[0], decisions[0] + len(decisions)))
    await run("audit", file)
    await run("replay", file)


async def test_a_range_begins_between_a_sample_and_its_decision(nats: NatsServer, tmp_path: Path) -> None:
    """A slow service answers two samples late: what it decides in the range replays, in process and on a bus."""
    text = config_text(nats.url, "sluice", "ab")
    config, file, begin = tmp_path / "config.yaml", tmp_path / "x.jsonl.zst", time.time_ns() - 1800 * S
    config.write_text(text)
    async with join(nats.url, "sluice") as bus:
        states: dict[str, State] = {}
        controllers = {domain.name: Controller(domain) for domain in parse_config(text).domains}
        seqs: dict[str, int] = {}

        async def decide(name: str, n: int) -> None:
            one = sample(name, n, begin)
            decision = controllers[name].step(states.get(name), one)
            states[name] = decision.state
            headers = {SAMPLE_SEQ: str(seqs[one.id])}
            await bus.publish(bus.subjects.decision(name), decision, msg_id=decision.id, headers=headers)

        late = {"a": 2, "b": 0}
        for n in range(1, 11):
            for name in "ab":
                one = sample(name, n, begin)
                seqs[one.id] = await bus.publish(bus.subjects.sample(name), one, msg_id=one.id)
                if n > late[name]:
                    await decide(name, n - late[name])
        await run("record", "--config", config, "--from-seq", "11", "-o", file)
        lines = list(RecordingReader(file).read_messages())
        assert [line.seq for line in lines if line.kind == "sample"] == [7, 9, *range(11, 21)]
        assert [line.kind for line in lines[:2]] == ["decision", "decision"]
        await run("audit", file)
        for options in ((), ("--nats", nats.url, "--serve")):
            tallies = json.loads(await run("replay", file, "--json", *options))["domains"]
            assert [tallies[name]["identical"] for name in "ab"] == [5, 5]
            assert [tallies[name]["given"] for name in "ab"] == [1, 1]


async def test_a_recording_ends_where_it_should(nats: NatsServer, tmp_path: Path) -> None:
    """At a time or a sample that is still to come, and not before; an end without a beginning is refused."""
    config, file = tmp_path / "config.yaml", tmp_path / "x.jsonl.zst"
    config.write_text(config_text(nats.url, "sluice", "a"))
    for end in (("--until", "5m"), ("--to-seq", "3")):
        done = await asyncio.to_thread(sluice, "record", "--config", config, *end, "-o", file)
        assert (done.returncode, "an end needs a beginning" in done.stderr) == (2, True)
    async with join(nats.url, "sluice") as bus:
        begin = time.time_ns() - 1800 * S
        await send(bus, [sample("a", 1, begin)])
        until = time.time_ns() // S * S + 3 * S
        arguments = ("record", "--config", config, "--since", "10m", "--until", _format_time(until), "-o", file)
        recording = asyncio.create_task(asyncio.to_thread(sluice, *arguments))
        n = 1
        while not recording.done():
            n += 1
            await send(bus, [sample("a", n, begin)])
            await asyncio.sleep(0.05)
        assert (await recording).returncode == 0
        times = {raw.seq: raw.published async for raw in bus.read("sample")}
        assert [line.seq for line in RecordingReader(file).read_messages()] == [
            seq for seq, at in times.items() if at <= until
        ]
        assert max(times.values()) > until
        numbers = ("--from-seq", "2", "--to-seq", str(n + 2), "--follow", "--force")
        recording = asyncio.create_task(asyncio.to_thread(sluice, "record", "--config", config, *numbers, "-o", file))
        while not recording.done():
            n += 1
            await send(bus, [sample("a", n, begin)])
            await asyncio.sleep(0.2)
        assert (await recording).returncode == 0
    assert [str(line.seq) for line in RecordingReader(file).read_messages()][-1] == numbers[3]


def _format_time(ns: int) -> str:
    return datetime.fromtimestamp(ns // S, UTC).isoformat()


async def test_what_arrives_is_put_in_the_order_of_cause_and_effect(nats: NatsServer) -> None:
    """A reader of one stream may be ahead of another: the merged stream is ordered by time."""
    config = parse_config(config_text(nats.url, "sluice", "a"))
    async with join(nats.url, "sluice") as bus, connect_reader(config.bus, "reader") as tap:
        begin = time.time_ns()
        lines: list[RecordedMessage] = []
        complete = asyncio.Event()

        async def follow() -> None:
            async for line in tap.follow(MessageRange(("decision", "sample")), {"sample": 0, "decision": 0}):
                lines.append(line)
                if len(lines) == 100:
                    complete.set()

        reading = asyncio.create_task(follow())
        for n in range(1, 51):
            one = sample("a", n, begin)
            await send(bus, [one])
            await bus.publish(bus.subjects.decision("a"), _answer(one, n), msg_id=f"d{n}")
        async with asyncio.timeout(PATIENCE_S):
            await complete.wait()
        reading.cancel()
    assert [line.kind for line in lines] == ["sample", "decision"] * 50
    assert [line.time for line in lines] == sorted(line.time for line in lines)


async def test_no_cause_is_missing_of_what_is_read_while_more_is_stored(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples and decisions arrive between the reads of two streams: each decision that was read has its sample."""
    config = parse_config(config_text(nats.url, "sluice", "a"))
    numbers = itertools.count(1)
    async with join(nats.url, "sluice") as bus, connect_reader(config.bus, "reader") as tap:
        begin, read = time.time_ns(), tap.bus.read

        async def store_and_read(kind: str, **options: Any) -> AsyncGenerator[RawMessage, None]:
            one = sample("a", number := next(numbers), begin)
            await send(bus, [one])
            await bus.publish(bus.subjects.decision("a"), _answer(one, number), msg_id=f"d{number}")
            async with aclosing(read(kind, **options)) as raws:
                async for raw in raws:
                    yield raw

        monkeypatch.setattr(tap.bus, "read", store_and_read)
        lines = [line async for line in tap.read_stored(MessageRange(("sample", "decision")))]
    causes = {decode(Sample, line.payload).id for line in lines if line.kind == "sample"}
    answered = [decode(Decision, line.payload).sample for line in lines if line.kind == "decision"]
    assert answered
    assert set(answered) <= causes


def _answer(one: Sample, n: int) -> Decision:
    state = State(one.end, n, one.end, {}, "none/1")
    return Decision(one.domain, one.id, one.end, one.end + S, (), "a test", state, "none/1")


async def test_errors_name_what_is_wrong(nats: NatsServer, tmp_path: Path) -> None:
    """No server, no stream, an existing file: each ends with one sentence and leaves no file."""
    text = config_text(nats.url, "sluice", "a")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    file = tmp_path / "x.jsonl.zst"
    nothing = await asyncio.to_thread(sluice, "record", "--config", config, "--from-seq", "5", "-o", file)
    assert nothing.returncode == 1
    assert "no sample with sequence 5" in nothing.stderr
    strange = await asyncio.to_thread(sluice, "record", "--config", config, "--domain", "z", "-o", file)
    assert "there is no domain 'z'; the domains are a" in strange.stderr
    nowhere = await asyncio.to_thread(
        sluice, "record", "--config", config, "--since", "1m", "-o", tmp_path / "nowhere" / "x"
    )
    assert (nowhere.returncode, nowhere.stderr[:6]) == (3, "Error:")
    assert not file.exists()
    nats.stop()
    absent = await asyncio.to_thread(sluice, "record", "--config", config, "--since", "1m", "-o", file)
    assert absent.returncode == 4
    assert nats.url in absent.stderr
    assert not file.exists()
    file.write_text("precious")
    taken = await asyncio.to_thread(sluice, "record", "--config", config, "--since", "1m", "-o", file)
    assert "exists" in taken.stderr
    assert file.read_text() == "precious"
