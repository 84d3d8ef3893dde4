"""``sluice replay`` on the command line: policies and configurations side by side, and its limits."""

import json
from pathlib import Path

import pytest
from msgspec import structs

from schemas.config import BusConfig
from services.tools.common.recording import (
    RecordedMessage,
    RecordingReader,
    RecordingWriter,
    build_header,
    build_message,
)
from services.tools.replay.decision_process import build_configuration
from tests.support.bus_stream import BEGIN, config, record, stream
from tests.support.commands import sluice

COUNT = 60


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of one domain."""
    return record(tmp_path / "run.jsonl.zst", config(), stream(config(), COUNT))


def write_config(recording: Path, file: str, **changes: object) -> Path:
    """The recorded configuration as a file, with other settings of its domain."""
    tree = build_configuration(RecordingReader(recording).header, BusConfig())
    tree["domains"] = [tree["domains"][0] | changes]
    path = recording.with_name(file)
    path.write_text(json.dumps(tree))
    return path


def test_policies_and_configurations_side_by_side(recording: Path) -> None:
    """Each has its row; the recorded configuration and policy give the recorded result, another does not."""
    same, other = write_config(recording, "same.yaml"), write_config(recording, "other.yaml", policy="aimd")
    done = sluice("replay", recording, "--policy", "aimd", "--policy", "static", "--config", same, "--config", other)
    assert done.returncode == 0, done.stderr
    for row in ("as recorded", "aimd", "static", "same.yaml", "other.yaml"):
        assert f" {row} " in done.stdout
    assert "A replay cannot tell what latency other limits would have caused" in " ".join(done.stdout.split())
    done = sluice("replay", recording, "--policy", "aimd", "--config", same, "--config", other, "--json")
    found = {name: of["cell-0"] for name, of in json.loads(done.stdout)["variants"].items()}
    assert found["same.yaml"]["limits"] == found["as recorded"]["limits"]
    assert found["other.yaml"] == found["aimd"] != found["as recorded"]
    assert "cannot tell" in json.loads(done.stdout)["note"]


def test_limits_for_each_pod_are_marked(tmp_path: Path) -> None:
    """Their sum over the targets differs from the rate of all replicas."""
    of = config()
    targets = tuple(structs.replace(target, scope="per-pod") for target in of.domains[0].targets)
    each = structs.replace(of, domains=(structs.replace(of.domains[0], targets=targets),))
    output = sluice("replay", record(tmp_path / "run", each, stream(of, COUNT)), "--policy", "aimd").stdout
    assert "those for each pod counted once" in " ".join(output.split())


def test_a_configuration_of_something_else(recording: Path) -> None:
    """A configuration with none of the recorded domains is an error."""
    done = sluice("replay", recording, "--config", write_config(recording, "strange.yaml", name="elsewhere"))
    assert done.returncode == 2
    assert "its domains are elsewhere, those of the recording cell-0" in done.stderr


def test_policies_are_not_for_a_bus(recording: Path) -> None:
    """A service on the bus has its own policy, so the two options exclude each other."""
    done = sluice("replay", recording, "--policy", "aimd", "--nats", "nats://127.0.0.1:1")
    assert done.returncode == 2
    assert "replay in this process" in done.stderr


@pytest.mark.parametrize("command", [("replay",), ("replay", "--every-policy"), ("audit",)])
def test_an_empty_replay_is_no_success(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A recording without a message, a misspelt name or a prefix never ends with success."""
    done = sluice(*command, record(tmp_path / "empty", config(), iter([])))
    assert done.returncode == 1
    assert "there is no " in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("audit",), ("tap",), ("report", "-o", "x.html")])
def test_an_unknown_domain_is_an_error(recording: Path, command: tuple[str, ...]) -> None:
    """A domain that the configuration does not have is named, with those that it has."""
    done = sluice(*command, recording, "--domain", "cell-9")
    assert done.returncode == 2
    assert "there is no domain 'cell-9'; the domains are cell-0" in done.stderr


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("tap --nats ::::", "is no address"),
        ("tap --prefix Bad.Prefix", "bus prefix 'Bad.Prefix'"),
        ("replay FILE --nats ::::", "is no address"),
        ("replay FILE --nats nats://127.0.0.1:1 --prefix Bad.Prefix", "bus prefix 'Bad.Prefix'"),
        ("audit --since 99999999h", "expected a duration"),
        ("audit --since 1860-01-01T00:00Z", "is before 1970"),
    ],
)
def test_wrong_arguments_are_reported(recording: Path, command: str, why: str) -> None:
    """The error is a sentence with exit code 2, as documented."""
    done = sluice(*(str(recording) if word == "FILE" else word for word in command.split()))
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_with_a_damaged_header(recording: Path) -> None:
    """The configuration replaces it: all messages are read, and the damage is an error."""
    config_file = write_config(recording, "same.yaml")
    hurt = bytearray(recording.read_bytes())
    hurt[100] ^= 1
    recording.write_bytes(hurt)
    assert "with --config" in sluice("audit", recording).stderr
    done = sluice("audit", recording, "--config", config_file)
    assert done.returncode == 1
    assert f"{COUNT} samples, {COUNT} decisions" in done.stdout
    assert "all rules hold" in done.stdout
    assert "a damaged frame" in done.stderr


def test_a_report_on_nothing(tmp_path: Path) -> None:
    """The page shows that there is nothing, and the command fails."""
    page = tmp_path / "x.html"
    done = sluice("report", record(tmp_path / "empty", config(), iter([])), "-o", page)
    assert done.returncode == 1
    assert "there is no message" in done.stderr
    assert page.exists()


def test_a_page_that_cannot_be_written(recording: Path, tmp_path: Path) -> None:
    """If the folder does not exist, the error names it."""
    done = sluice("report", recording, "-o", tmp_path / "nowhere" / "x.html")
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ")
    assert "nowhere" in done.stderr


def alter(lines: list[RecordedMessage], change: str) -> list[RecordedMessage]:
    """A damaged copy of a recording."""
    decisions = [line for line in lines if line.kind == "decision"]
    if change == "no decision":
        return [line for line in lines if line.kind != "decision"]
    if change == "decisions stop":
        return [line for line in lines if line.kind != "decision" or line.seq < COUNT // 2]
    if change == "one is gone":
        return [line for line in lines if line is not decisions[30]]
    if change == "a sample is gone":
        return [line for line in lines if line.kind != "sample" or line.seq != 30]
    body = json.loads(decisions[30].payload)
    body["state"]["seq"] = 999
    old = decisions[30]
    new = build_message("decision", old.subject, old.seq, old.time, old.headers, json.dumps(body).encode())
    return [new if line is old else line for line in lines]


@pytest.mark.parametrize(
    "change", ["no decision", "decisions stop", "one is gone", "a sample is gone", "another number"]
)
def test_a_recording_that_is_not_whole_is_no_success(tmp_path: Path, change: str) -> None:
    """Missing messages and causes are listed, and the exit code is not 0; nor is the audit's."""
    lines = alter(list(stream(config(), COUNT)), change)
    file = record(tmp_path / "run", config(), iter(lines))
    done = sluice("replay", file)
    assert done.returncode == 1
    assert "cell-0: sample cell-0:" in done.stdout
    assert sluice("audit", file).returncode == 1


def test_samples_alone_have_nothing_to_compare(tmp_path: Path) -> None:
    """Its header declares that it has no decisions, so none is missing."""
    file = tmp_path / "run"
    header = structs.replace(build_header(config(), "prometheus", "0.1.0", BEGIN), kinds=("sample",))
    with file.open("wb") as out, RecordingWriter(out, header) as writer:
        for line in stream(config(), COUNT):
            if line.kind == "sample":
                writer.write(line)
    for command in ("replay", "audit"):
        done = sluice(command, file)
        assert done.returncode == 0, done.stdout + done.stderr
