"""Replay onto a real bus, into a real decision service: bit for bit as recorded."""

import asyncio
import json
from pathlib import Path

import pytest
from msgspec import structs

from schemas.messages import Decision, Sample
from services.tools.common.recording import RecordingReader, RecordingWriter, build_message
from services.tools.replay.decision_process import build_configuration
from tests.support.bus_stream import config, record, stream
from tests.support.commands import sluice
from tests.support.decision_services import DecisionProcess, join, read_stream
from tests.support.nats_server import NatsServer

COUNT = 60


async def replay(*arguments: str | Path) -> tuple[int, dict[str, dict[str, int]], str]:
    """Exit code, tallies by domain and errors of ``sluice replay --json``."""
    done = await asyncio.to_thread(sluice, "replay", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)["domains"] if done.stdout else {}, done.stderr


async def test_a_service_of_its_own(nats: NatsServer, tmp_path: Path) -> None:
    """With --serve every decision matches the recording, and nothing stays on the bus."""
    file = record(tmp_path / "x", config(3), stream(config(3), COUNT))
    code, tallies, _ = await replay(file, "--nats", nats.url, "--serve")
    assert code == 0
    assert {(tally["identical"], tally["different"]) for tally in tallies.values()} == {(COUNT, 0)}
    async with join(nats.url, "sluice") as bus:
        answer = await bus._session.request("STREAM.NAMES")
        assert {name for name in answer["streams"] if not name.startswith("SLUICE_")} == set()


async def test_a_running_service_under_another_prefix(nats: NatsServer, tmp_path: Path) -> None:
    """A service under the replay's prefix answers; the live prefix receives nothing."""
    file = record(tmp_path / "x", config(), stream(config(), COUNT))
    async with join(nats.url, "sluice") as live, join(nats.url, "replay-lab") as lab:
        text = json.dumps(build_configuration(RecordingReader(file).header, lab._config))
        with DecisionProcess(tmp_path / "d", text):
            arguments = (file, "--nats", nats.url, "--prefix", "replay-lab")
            code, tallies, _ = await replay(*arguments)
            assert code == 0
            assert tallies["cell-0"]["identical"] == COUNT
            assert len(await read_stream(lab, Decision)) == COUNT
            assert await read_stream(live, Sample) == []
            assert await read_stream(live, Decision) == []
            code, _, errors = await replay(*arguments)
            assert code == 2
            assert "was used before" in errors


async def test_a_recording_that_begins_in_the_middle(nats: NatsServer, tmp_path: Path) -> None:
    """The service continues from the recorded state before the first sample."""
    lines = list(stream(config(), COUNT))
    file = record(tmp_path / "x", config(), iter(lines[41:]))
    code, tallies, _ = await replay(file, "--nats", nats.url, "--serve")
    assert code == 0
    tally = tallies["cell-0"]
    assert (tally["given"], tally["identical"], tally["different"]) == (1, COUNT - 21, 0)


async def test_samples_alone(nats: NatsServer, tmp_path: Path) -> None:
    """A recording of past metrics has no decisions: the service must decide as this process does."""
    file = tmp_path / "x"
    header = structs.replace(RecordingReader(record(tmp_path / "y", config(), iter([]))).header, kinds=("sample",))
    with file.open("wb") as out, RecordingWriter(out, header) as writer:
        for line in stream(config(), COUNT):
            if line.kind == "sample":
                writer.write(line)
    code, tallies, _ = await replay(file, "--nats", nats.url, "--serve")
    assert code == 0
    assert (tallies["cell-0"]["identical"], tallies["cell-0"]["different"]) == (COUNT, 0)


async def test_a_difference_is_listed(nats: NatsServer, tmp_path: Path) -> None:
    """A recorded decision that the service does not make is listed, and is an error."""
    lines = list(stream(config(), COUNT))
    old = lines[41]
    lines[41] = build_message(
        "decision", old.subject, old.seq, old.time, old.headers, old.payload.replace(b'"limit":', b'"limit":1', 1)
    )
    file = record(tmp_path / "x", config(), iter(lines))
    code, tallies, _ = await replay(file, "--nats", nats.url, "--serve")
    assert code == 1
    assert (tallies["cell-0"]["identical"], tallies["cell-0"]["different"]) == (COUNT - 1, 1)


async def test_at_the_recorded_pace(nats: NatsServer, tmp_path: Path) -> None:
    """At tenfold speed six seconds of samples are not published at once."""
    file = record(tmp_path / "x", config(), stream(config(), 12))
    done = await asyncio.to_thread(sluice, "replay", file, "--nats", nats.url, "--serve", "--speed", "10", "--json")
    result = json.loads(done.stdout)
    assert result["domains"]["cell-0"]["identical"] == 12
    assert result["seconds"] >= 0.55


@pytest.mark.long
async def test_a_replay_without_answers(nats: NatsServer, tmp_path: Path) -> None:
    """Without a decision service, under the live prefix, or without a bus: a sentence names the problem."""
    file = record(tmp_path / "x", config(), stream(config(), 3))
    code, _, errors = await replay(file, "--nats", nats.url, "--prefix", "sluice")
    assert code == 2
    assert "needs one of its own" in errors
    code, _, errors = await replay(file, "--nats", nats.url)
    assert code == 4
    assert "no decision service answers" in errors
    nats.stop()
    code, _, errors = await replay(file, "--nats", nats.url)
    assert code == 4
    assert nats.url in errors


async def test_the_live_streams_are_never_deleted(nats: NatsServer) -> None:
    """The deletion of a replay's streams refuses the live ones."""
    async with join(nats.url, "sluice") as bus:
        with pytest.raises(ValueError, match="never deleted"):
            await bus.delete_streams()
        assert await bus.stream_info(Sample) is not None
