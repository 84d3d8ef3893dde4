"""Hostile recordings: each ends in one clear error or a note, in bounded memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec import Raw, structs

from services.cli import main
from services.tools.common.recording import RecordedMessage, RecordingReader, build_message
from services.tools.common.zstd_frames import compress
from tests.support.bus_stream import config, record, stream
from tests.support.commands import SLUICE, sluice
from tests.support.waiting import PATIENCE_S

COUNT = 40
HUGE = b"1" + b"0" * 400
DEEP = b"[" * 100_000 + b"]" * 100_000
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\n12:00:00.000Z  action"
PYTHON_WORDS = ("Traceback", "NoneType", "Object contains", "Object missing", "`str`", "`int`", "msgspec", "Error(")

COMMANDS: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "replay": lambda file, _: ["replay", file],
    "what-if": lambda file, _: ["replay", file, "--policy", "aimd"],
    "tap": lambda file, _: ["tap", file],
    "tap-json": lambda file, _: ["tap", file, "--json"],
    "audit": lambda file, _: ["audit", file],
    "explain": lambda file, _: ["explain", "cell-0", file],
    "calibrate": lambda file, _: ["calibrate", file],
    "export": lambda file, folder: ["export", file, "--parquet", folder / "run.parquet"],
    "report": lambda file, folder: ["report", file, "-o", folder / "page.html"],
}


def plain(lines: list[RecordedMessage], folder: Path) -> list[bytes]:
    """The lines of a recording as text, the header first."""
    reader = RecordingReader(record(folder / "sound", config(), iter(lines)))
    encode = msgspec.json.Encoder(enc_hook=str).encode
    return [encode(reader.header), *(encode(one) for one in reader.read_messages())]


def with_field(line: bytes, number: bytes, *path: str) -> bytes:
    """A line in which the number at a path is replaced, however large."""
    tree = json.loads(line)
    place: Any = tree
    for key in path[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[path[-1]] = "HERE"
    return json.dumps(tree).encode().replace(b'"HERE"', number)


NUMBERS = [
    ("sample", "time"), ("sample", "seq"), ("sample", "body", "end"), ("sample", "body", "start"),
    ("sample", "body", "period"), ("sample", "body", "critical", "0", "observations"),
    ("sample", "body", "critical", "0", "throughput"), ("sample", "body", "critical", "0", "p95"),
    ("sample", "body", "targets", "0", "throughput"), ("sample", "body", "v"),
    ("decision", "time"), ("decision", "body", "end"), ("decision", "body", "expires"),
    ("decision", "body", "targets", "0", "limit"), ("decision", "body", "state", "epoch"),
    ("decision", "body", "state", "seq"), ("decision", "body", "state", "shield", "cell-0/erp-dashboard", "limit"),
    ("decision", "body", "stress"), ("decision", "body", "v"),
    ("action", "time"), ("action", "body", "limit"), ("action", "body", "applied"), ("action", "body", "sampled"),
]  # fmt: skip


def run_all(file: Path, folder: Path, *names: str) -> dict[str, Result]:
    """Run commands on a recording; each must end in a documented way."""
    ended = {}
    for name in names or COMMANDS:
        done = CliRunner().invoke(main, list(map(str, COMMANDS[name](file, folder))))
        assert done.exception is None or isinstance(done.exception, SystemExit), (name, done.exception)
        assert done.exit_code in (0, 1, 3), (name, done.stderr)
        for word in PYTHON_WORDS:
            assert word not in done.stderr + done.stdout, (name, done.stderr[-2000:])
        ended[name] = done
    return ended


@pytest.mark.parametrize("number", [HUGE, b"9" * 4000, b"-" + HUGE, str(2**63).encode(), b"1e400", b"null", b'"x"'])
def test_a_number_beyond_all_bounds_costs_its_line(tmp_path: Path, number: bytes) -> None:
    """Every reader in this process names each line with such a number, and reads the others."""
    lines = plain(list(stream(config(), COUNT, actions=True)), tmp_path)
    kinds = [json.loads(line)["kind"] for line in lines]
    numbers = [entry for entry in NUMBERS if number != b"null" or entry[-1] in ("time", "seq", "end", "limit")]
    at = {kind: [index for index, one in enumerate(kinds) if one == kind] for kind in ("sample", "decision", "action")}
    for position, (kind, *path) in enumerate(numbers):
        index = at[kind][1 + position % (len(at[kind]) - 1)]
        lines[index] = with_field(lines[index], number, *path)
    file = tmp_path / "hurt.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    ended = run_all(file, tmp_path)
    assert all(done.exit_code == 1 for name, done in ended.items() if name != "explain")
    assert f"{file}: line " in ended["replay"].stderr


def test_json_that_is_nested_deeply_costs_its_line(tmp_path: Path) -> None:
    """In a body, in a header of the bus, and in a whole line."""
    lines = plain(list(stream(config(), COUNT)), tmp_path)
    lines[7] = lines[7].replace(b'"body":{', b'"body":{"x":' + DEEP + b",", 1)
    lines[12] = lines[12].replace(b'"memory":', b'"other":' + DEEP + b',"memory":', 1)
    lines[13] = DEEP
    file = tmp_path / "deep.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    ended = run_all(file, tmp_path)
    for name in ("replay", "tap", "audit"):
        for number in (8, 13, 14):
            assert f"{file}: line {number}: " in ended[name].stderr, name
    assert "nested too deeply" in ended["tap"].stderr
    file.write_bytes(lines[0].replace(b'"domains":', b'"x":' + DEEP + b',"domains":', 1) + b"\n")
    assert all(f"{file}: line 1: " in done.stderr for done in run_all(file, tmp_path).values())
    deep = build_message("sample", "sluice.sample.v1.x", 1, 1, {}, DEEP)
    assert deep.payload == DEEP


SHORT = b'{"kind":"dead","subject":"%s","seq":0,"time":0}\n' % (b"x" * 134)


def bomb(gigabytes: float) -> bytes:
    """A Zstandard frame of repeated-byte blocks, 128 KiB each in four bytes: without checksum, like a real one."""
    blocks = int(gigabytes * 2**30 / 2**17)
    block = ((2**17 << 3) | 2).to_bytes(3, "little") + b"a"
    last = ((2**17 << 3) | 3).to_bytes(3, "little") + b"a"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (blocks - 1) + last


def measure(*arguments: str | Path) -> tuple[int, int, str]:
    """Run a command alone; return its exit code, its largest resident memory in bytes, and its errors."""
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.stderr.write(done.stderr)"
    )
    command = [sys.executable, "-c", program, str(SLUICE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=True)
    code, size = done.stdout.split()
    return int(code), int(size) * 1024, done.stderr


@pytest.mark.parametrize(
    ("name", "place"),
    [("tap", "alone"), ("replay", "behind"), ("what-if", "behind"), ("audit", "behind"), ("report", "behind")],
)
def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path, name: str, place: str) -> None:
    """It is refused or reported with its line, in memory near that for a sound recording of a few messages."""
    sound = record(tmp_path / "sound", config(), stream(config(), COUNT, actions=True))
    file = tmp_path / "bomb.jsonl.zst"
    file.write_bytes((b"" if place == "alone" else sound.read_bytes()) + bomb(3))
    assert file.stat().st_size < 150_000
    _, usual, _ = measure(*COMMANDS[name](sound, tmp_path))
    code, size, errors = measure(*COMMANDS[name](file, tmp_path))
    assert code == (3 if place == "alone" else 1), errors
    assert f"{file}: line " in errors
    assert "Traceback" not in errors
    print(
        f"{name}: 3 GiB in {file.stat().st_size:,} bytes, {size / 2**20:.0f} MiB of memory, {usual / 2**20:.0f} usually"
    )
    assert size < usual + 100 * 2**20


@pytest.mark.long
def test_many_lines_in_little_space_are_bounded(tmp_path: Path) -> None:
    """A frame of 90 million bytes of short lines is dropped from where the ratio exceeds all reason."""
    sound = record(tmp_path / "sound", config(), stream(config(), COUNT))
    file = tmp_path / "lines.jsonl.zst"
    file.write_bytes(sound.read_bytes() + compress(SHORT * 500_000))
    code, size, errors = measure("audit", file)
    assert code == 1
    assert "times its size" in errors
    assert size < 300 * 2**20
    assert len(errors.splitlines()) < 30


def test_a_frame_that_asks_for_gigabytes_of_window(tmp_path: Path) -> None:
    """The memory that a frame's header requests is not granted."""
    file = tmp_path / "window.jsonl.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfd\x00\xa8" + bomb(0.001)[6:])
    code, size, errors = measure("tap", file)
    assert (code, f"{file}: line 1: " in errors) == (3, True)
    assert size < 200 * 2**20


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2; this build reads version 1"),
        ({"v": 10**400}, "line 1"),
        ({"v": ESCAPES}, "line 1"),
        ({"prefix": "a.*.>"}, "line 1"),
        ({"domains": []}, ""),
        ({"period": "0s"}, "line 1"),
        ({"kinds": None}, "line 1"),
        ({"since": 10**30}, "line 1"),
        ({"only": [ESCAPES]}, ""),
    ],
)
def test_a_header_that_cannot_be(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """It is refused with file, line and reason, or read; never with a traceback."""
    lines = plain(list(stream(config(), COUNT, actions=True)), tmp_path)
    file = tmp_path / "odd.jsonl"
    file.write_bytes(b"\n".join([json.dumps(json.loads(lines[0]) | change).encode(), *lines[1:]]) + b"\n")
    for name, done in run_all(file, tmp_path).items():
        assert why in done.stderr or why in done.stdout, (name, done.stderr)
        assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\u202e\r"), name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("domains", 0, "policy"), "nobody"),
        (("domains", 0, "parameters"), {"margin": 10**400}),
        (("domains", 0, "targets", 0, "max"), "1e400M"),
        (("domains", 0, "targets", 0, "weight"), 10**400),
        (("domains", 0, "critical", 0, "p95"), "0s"),
        (("domains", 0, "min_observations"), 10**400),
        (("domains", 0, "dead_man"), "99999999999999999999h"),
        (("domains", 0, "shield", "cut"), 10**400),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path: Path, path: tuple[str | int, ...], value: Any) -> None:
    """The header's domains are checked like a configuration file's."""
    lines = plain(list(stream(config(), COUNT, actions=True)), tmp_path)
    tree = json.loads(lines[0])
    place: Any = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "odd.jsonl"
    file.write_bytes(b"\n".join([json.dumps(tree).encode(), *lines[1:]]) + b"\n")
    for done in run_all(file, tmp_path, "replay", "audit", "report").values():
        assert done.exit_code in (0, 1) or f"{file}: line 1: " in done.stderr


def test_messages_of_another_version_are_named(tmp_path: Path) -> None:
    """A later build's messages are not decoded as this build's."""
    lines = plain(list(stream(config(), COUNT)), tmp_path)
    for index in (9, 10):
        lines[index] = lines[index].replace(b'"body":{', b'"body":{"v":2,', 1)
    file = tmp_path / "later.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    ended = run_all(file, tmp_path)
    assert "version 2" in ended["tap"].stdout
    assert "version 2" in ended["audit"].stdout
    for name in ("replay", "what-if"):
        assert f"{file}: line 10: not a message of its kind: of a version" in ended[name].stderr


def test_no_name_commands_the_terminal(tmp_path: Path) -> None:
    """Every command escapes control characters in names, reasons, policies and subjects."""
    lines = []
    for one in stream(config(), COUNT, actions=True):
        body = json.loads(one.payload)
        for key in ("reason", "policy", "source"):
            body[key] = body.get(key, "") + ESCAPES
        body["no_data"] = ESCAPES if one.seq % 3 == 0 and one.kind == "sample" else None
        if one.kind == "action":
            body["target"] += ESCAPES
        text = json.dumps(body, ensure_ascii=False).encode()
        lines.append(structs.replace(one, body=Raw(text), subject=one.subject + ESCAPES))
    dead = {"subject": ESCAPES, "service": ESCAPES, "reason": ESCAPES + "[/bold][red]", "body": ""}
    lines.append(build_message("dead", "sluice.dead.v1.x", 1, lines[-1].time, {}, json.dumps(dead).encode()))
    file = record(tmp_path / "evil", config(), iter(lines))
    shown = 0
    for name, done in run_all(file, tmp_path).items():
        assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\u202e\r"), name
        shown += (done.stdout + done.stderr).count("owned")
        if name == "tap":
            assert len(done.stdout.splitlines()) == len(lines)
    assert shown > len(lines)


def test_an_endless_list_of_faults_ends(tmp_path: Path) -> None:
    """Reading a recording of garbage stops after a thousand places, twenty of which are shown."""
    lines = plain(list(stream(config(), COUNT)), tmp_path)
    file = tmp_path / "garbage.jsonl"
    file.write_bytes(b"\n".join([*lines, *[b"{garbage" for _ in range(20_000)], lines[-1]]) + b"\n")
    reader = RecordingReader(file)
    assert len(list(reader.read_messages())) == 2 * COUNT
    assert len(reader.problems) == 1001
    assert "left out from here on" in reader.problems[-1].what
    done = sluice("tap", file)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 21)
