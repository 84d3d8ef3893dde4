"""Recordings: messages are preserved, and damage is reported while the rest is read."""

from pathlib import Path

import msgspec
import pytest

from schemas.config import BusConfig, Config, Kubernetes, Prometheus, Signal
from services.tools.common.recording import (
    InvalidRecording,
    RecordedMessage,
    RecordingReader,
    RecordingWriter,
    build_header,
    build_message,
)
from services.tools.common.zstd_frames import compress
from tests.support.bus_stream import BEGIN, config, record, stream

MANY = 800
MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of several frames."""
    return record(tmp_path / "whole.jsonl.zst", config(), stream(config(), MANY))


def frames(path: Path) -> list[bytes]:
    """The file, cut before each frame."""
    first, *rest = path.read_bytes().split(MAGIC)[1:]
    return [MAGIC + body for body in (first, *rest)]


def plain(path: Path) -> list[bytes]:
    """The lines of a recording as text."""
    reader = RecordingReader(path)
    encode = msgspec.json.Encoder(enc_hook=str).encode
    return [encode(reader.header), *(encode(line) for line in reader.read_messages())]


def test_messages_come_back_as_they_were(recording: Path) -> None:
    """Subject, headers, sequence, time and body of every message survive, in order."""
    reader = RecordingReader(recording)
    assert list(reader.read_messages()) == list(stream(config(), MANY))
    assert reader.problems == []
    assert reader.header.policies == {"cell-0": "proportional/1"}
    assert reader.header.domains == config().domains


def test_bytes_that_are_no_json_are_kept(tmp_path: Path) -> None:
    """A message that no reader understands is recorded byte for byte."""
    bodies = [b"", b"\x00\xff", b'{"a":\n1}', b'{"a":"\xff"}', b'{"a": 1}', b"nonsense"]
    path = tmp_path / "odd.jsonl.zst"
    with path.open("wb") as file, RecordingWriter(file, build_header(config(), "bus", "0", BEGIN)) as writer:
        for seq, body in enumerate(bodies, 1):
            writer.write(build_message("sample", "sluice.sample.v1.x", seq, BEGIN, {}, body))
    assert [line.payload for line in RecordingReader(path).read_messages()] == bodies


def test_a_damaged_frame_costs_that_frame(recording: Path) -> None:
    """A flipped bit in one frame is reported with its line, and every line of the other frames is read."""
    whole = list(RecordingReader(recording).read_messages())
    parts = frames(recording)
    assert len(parts) >= 4, "the recording must have several frames for this test to say anything"
    hurt = bytearray(parts[2])
    hurt[len(hurt) // 2] ^= 0x10
    recording.write_bytes(b"".join([*parts[:2], bytes(hurt), *parts[3:]]))
    reader = RecordingReader(recording)
    kept = list(reader.read_messages())
    assert len(reader.problems) == 1
    assert "damaged frame" in reader.problems[0].what
    first_lost = reader.problems[0].line - 2
    assert kept[:first_lost] == whole[:first_lost]
    assert kept[first_lost:] == whole[-(len(kept) - first_lost) :]
    assert 0 < len(kept) < len(whole)


def test_a_cut_file_keeps_what_is_whole(recording: Path) -> None:
    """A recording truncated within a frame gives every earlier frame, and the amount of the loss."""
    whole = list(RecordingReader(recording).read_messages())
    recording.write_bytes(recording.read_bytes()[:-100])
    reader = RecordingReader(recording)
    kept = list(reader.read_messages())
    assert kept == whole[: len(kept)]
    assert 0 < len(kept) < len(whole)
    assert [problem.line for problem in reader.problems] == [len(kept) + 2]


def test_plain_lines_are_read_and_bad_ones_named(recording: Path, tmp_path: Path) -> None:
    """An unpacked recording is read too; an invalid line loses only itself, and is named."""
    lines = plain(recording)
    lines[10] = b"{broken"
    lines[20] = b'{"kind":"sample","subject":"sluice.sample.v1.x"}'
    path = tmp_path / "plain.jsonl"
    path.write_bytes(b"\n".join(lines))
    reader = RecordingReader(path)
    # The last line has no line feed, and is whole.
    assert len(list(reader.read_messages())) == len(lines) - 1 - 2
    assert [problem.line for problem in reader.problems] == [11, 21]
    assert "seq" in str(reader.problems[1])
    path.write_bytes(path.read_bytes()[:-1])
    assert len(list(reader.read_messages())) == len(lines) - 1 - 2 - 1
    assert [problem.line for problem in reader.problems] == [11, 21, len(lines)]
    assert "cut" in str(reader.problems[2])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [(b'"kind":"sample"', b'"kind":"whatever"', "kind"), (b'"body":', b'"raw":"!!!notbase64","body":', "not JSON")],
)
def test_a_line_of_another_kind_or_coding_is_named(
    recording: Path, tmp_path: Path, old: bytes, new: bytes, why: str
) -> None:
    """Readers of messages report it; the other lines are read."""
    lines = plain(recording)
    lines[11] = lines[11].replace(old, new, 1)
    path = tmp_path / "plain.jsonl"
    path.write_bytes(b"\n".join(lines))
    reader = RecordingReader(path)
    assert len(list(reader.read_messages())) == len(lines) - 2
    assert [problem.line for problem in reader.problems] == [12]
    assert why in str(reader.problems[0])


def test_a_damaged_header(recording: Path) -> None:
    """It is reported as damaged; with a configuration, every message is read."""
    whole, header = list(RecordingReader(recording).read_messages()), RecordingReader(recording).header
    hurt = bytearray(recording.read_bytes())
    hurt[100] ^= 1
    recording.write_bytes(hurt)
    with pytest.raises(InvalidRecording, match=r"damaged frame.*--config"):
        RecordingReader(recording)
    reader = RecordingReader(recording, header)
    assert list(reader.read_messages()) == whole
    assert ["damaged frame" in problem.what for problem in reader.problems] == [True]


def test_two_recordings_in_one_file(recording: Path, tmp_path: Path) -> None:
    """Recordings of one configuration may be concatenated; of another one, only the first is read."""
    twice = tmp_path / "twice.jsonl.zst"
    twice.write_bytes(recording.read_bytes() * 2)
    reader = RecordingReader(twice)
    assert len(list(reader.read_messages())) == 2 * 2 * MANY
    assert reader.problems == []
    other = record(tmp_path / "other.jsonl.zst", config(2), stream(config(2), 3))
    twice.write_bytes(recording.read_bytes() + other.read_bytes())
    assert len(list(reader.read_messages())) == 2 * MANY
    assert [problem.line for problem in reader.problems] == [2 * MANY + 2]
    assert "another configuration" in str(reader.problems[0])


def test_mixed_versions(recording: Path, tmp_path: Path) -> None:
    """A recording of a later version in the same file is skipped, and its line is named."""
    mixed = tmp_path / "mixed.jsonl.zst"
    mixed.write_bytes(recording.read_bytes() + compress(b'{"kind":"recording","v":2}\n{"kind":"new"}\n'))
    reader = RecordingReader(mixed)
    assert len(list(reader.read_messages())) == 2 * MANY
    assert [problem.line for problem in reader.problems] == [2 * MANY + 2]
    assert "version 2; this build reads version 1" in str(reader.problems[0])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not the header"),
        (b"domains: []\n", "not the header"),
        (b'{"kind":"sample"}\n', "not the header"),
        (b'{"kind":"recording","v":7}\n', "version 7; this build reads version 1"),
        (b'{"kind":"recording","v":1}\n', "build"),
        (b"\x28\xb5\x2f\xfdgarbage", "not the header"),
        (compress(b'{"kind":"recording","v":1,"domains":3}\n'), "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """Another file type or version is refused with its name and line."""
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(InvalidRecording, match=why) as caught:
        RecordingReader(path)
    assert f"{path}: line 1:" in str(caught.value)


def test_what_was_flushed_survives(tmp_path: Path) -> None:
    """After a flush the lines so far can be read while the recording continues."""
    path = tmp_path / "live.jsonl.zst"
    lines = list(stream(config(), 5))
    with path.open("wb") as file, RecordingWriter(file, build_header(config(), "bus", "0", BEGIN)) as writer:
        for line in lines[:4]:
            writer.write(line)
        writer.flush()
        writer.write(lines[4])
        assert list(RecordingReader(path).read_messages()) == lines[:4]


def test_the_header_names_no_address_or_secret(tmp_path: Path) -> None:
    """Servers, users, tokens and paths of the configuration are not recorded."""
    secret = Config(
        config().domains,
        bus=BusConfig(servers=("nats://secret-a:4222",), user="secret-b", ca="/secret-c"),
        signal=Signal(prometheus=Prometheus(url="http://secret-d", headers={"Authorization": "secret-e"})),
        kubernetes=Kubernetes(kubeconfig="/secret-f"),
    )
    path = record(tmp_path / "x.jsonl.zst", secret, iter([]))
    assert b"secret" not in plain(path)[0]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Reading ten times as much needs no more memory: batches have a constant size."""

    def largest(count: int) -> int:
        path = record(tmp_path / f"{count}.jsonl.zst", config(), stream(config(), count))
        return max(len(batch) for batch in RecordingReader(path).read_batches(msgspec.json.Decoder(RecordedMessage)))

    assert largest(5000) <= 1.2 * largest(500)
