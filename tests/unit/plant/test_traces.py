"""Traces of links and loads: three formats, and a clear error for each line that is in none."""

import gzip
import time
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from services.bench.policies.simulated import command
from services.plant.commands.plant import command as plant_command
from services.plant.topology import SCANNER
from services.plant.traces import EVERY, TraceError, read_trace, read_traces

RATE = "# a link\n0.0\t2.0\n1.0\t4.0\n\n5.0 4.0\n"
MAHIMAHI = "".join(f"{ms}\n" for ms in range(0, 3000, 6))
LOAD = "time,bytes\n" + "".join(
    f"2025-10-14T07:46:{second:02}.{tenth},{100 + tenth}\n" for second in range(4) for tenth in range(10)
)


def write(folder: Path, **files: str) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_each_file_is_read_in_its_own_format(tmp_path: Path) -> None:
    """A file in no format, such as a licence, is left out; names are paths in the folder."""
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", rate=RATE)
    write(tmp_path, mahimahi=MAHIMAHI, load=LOAD, LICENSE="MIT License\n\nCopyright (c) 2020\n")
    traces = {one.name: one for one in read_traces(tmp_path)}
    assert {name: one.kind for name, one in traces.items()} == {
        "deep/rate": "capacity", "load": "load", "mahimahi": "capacity",
    }  # fmt: skip
    assert traces["deep/rate"].rates == (2000, 3000, *[4000] * 8)
    assert traces["mahimahi"].rates == pytest.approx([2000] * 5, rel=0.02)
    assert traces["load"].rates[0] == pytest.approx((100 + 101 + 102 + 103 + 104) * 8 / 1000 / EVERY)


@pytest.mark.parametrize(
    ("text", "line", "mistake"),
    [
        ("0 1\n1 x\n2 1\n", 2, "expected Mbit/s, found 'x'"),
        ("0 1\n1 nan\n2 1\n", 2, "Mbit/s cannot be nan"),
        ("0 1\n1 -3\n2 1\n", 2, "Mbit/s cannot be -3"),
        ("0 1\n1\n2 1\n", 2, "expected seconds and Mbit/s, found '1'"),
        ("0 1\n2 1\n1 1\n", 3, "the time goes back"),
        ("5\n6\n7.5\n", 3, "expected a whole number of milliseconds, found '7.5'"),
        ("9\n4\n", 2, "the time goes back"),
        ("time,bytes\n1,5\nyesterday,5\n", 3, "expected a time, found 'yesterday'"),
        ("1,5\n2;5\n", 2, "expected a time, a comma and bytes, found '2;5'"),
        ("1,5\n2,1e400\n", 2, "bytes cannot be 1e400"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, line: int, mistake: str) -> None:
    """With file, line and what was expected."""
    write(tmp_path, bad=text)
    with pytest.raises(TraceError) as caught:
        read_traces(tmp_path)
    assert str(caught.value) == f"{tmp_path}/bad:{line}: {mistake}"


@pytest.mark.parametrize(
    "content",
    [
        RATE.replace("\n", "\r\n").encode(),
        RATE.replace("\n", "\r").encode(),
        RATE.replace("\n", " \t\n").encode() + b"\n  \n",
        b"\xef\xbb\xbf" + RATE.encode(),
    ],
    ids=["CRLF", "CR", "blanks", "byte order mark"],
)
def test_other_systems_text_is_the_same_trace(tmp_path: Path, content: bytes) -> None:
    """Ends of lines, trailing blanks and a byte order mark say nothing."""
    (tmp_path / "link").write_bytes(content)
    assert read_traces(tmp_path)[0].rates == (2000, 3000, *[4000] * 8)


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (gzip.compress(RATE.encode(), mtime=0), "it is compressed; expected text in UTF-8"),
        (RATE.encode("utf-16"), "it is text in UTF-16; expected text in UTF-8"),
        (b"time,bytes\n", "it lasts less than a second, or its rate is always 0"),
        (b"1 1\n1 2\n1 3\n", "it lasts less than a second, or its rate is always 0"),
        (b"0 1e-300\n9 1e-300\n", "it lasts less than a second, or its rate is always 0"),
        (b"0 1\n1e11 1\n", "it lasts 100,000,000,000 s; at most 604,800 s can be played"),
        (b"0\n99999999999999\n", "it lasts 100,000,000,000 s; at most 604,800 s can be played"),
    ],
)
def test_a_file_that_makes_no_trace_is_named(tmp_path: Path, content: bytes, mistake: str) -> None:
    """Instead of being passed over, ending in a traceback, or filling the memory."""
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(TraceError) as caught:
        read_traces(tmp_path)
    assert str(caught.value) == f"{tmp_path}/bad: {mistake}"


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A sparse file of gigabytes is an error like any other."""
    with (tmp_path / "bad").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(TraceError, match=r"bad: it is larger than 64 MiB"):
        read_traces(tmp_path)


def test_a_time_without_an_offset_is_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is UTC, and not the time zone of the machine."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    (tmp_path / "load").write_text("2025-10-14T07:46:01,5\n2025-10-14T09:46:03+02:00,5\n", encoding="utf-8")
    try:
        assert read_traces(tmp_path)[0].seconds == 2
    finally:
        monkeypatch.undo()
        time.tzset()


def test_many_mistakes_of_several_files_are_reported_at_once(tmp_path: Path) -> None:
    """A few of each file; a trace without a rate is one, too."""
    write(tmp_path, many="0 1\n" + "1 x\n" * 9, idle="0 0\n9 0\n", short="0 1\n")
    with pytest.raises(TraceError) as caught:
        read_traces(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{tmp_path}/idle: it lasts less than a second, or its rate is always 0")
    assert lines[1:7] == [
        *(f"{tmp_path}/many:{line}: expected Mbit/s, found 'x'" for line in range(2, 7)),
        f"{tmp_path}/many: 4 more lines like these",
    ]
    assert len(lines) == 8


def test_a_folder_without_traces_is_an_error(tmp_path: Path) -> None:
    """It would play nothing."""
    write(tmp_path, README="Traces are elsewhere.\n")
    with pytest.raises(TraceError, match="there is no trace in it; files in none of the formats: 1"):
        read_traces(tmp_path)


def test_a_link_is_scaled_and_a_load_is_that_of_twenty_robots(tmp_path: Path) -> None:
    """The same draws give the same scenario; other draws begin at another moment."""
    write(tmp_path, link=RATE, load=LOAD)
    link, load = (read_trace(tmp_path / name, name) for name in ("link", "load"))
    assert link is not None
    assert load is not None
    scenario = link.scenario(Random(1))
    rates = [event.capacity or 0 for event in scenario.events]
    assert 40_000 <= min(rates) < max(rates) == scenario.apps.capacity
    assert sum(rates) / len(rates) == pytest.approx(100_000, rel=0.05)
    assert scenario == link.scenario(Random(1)) != link.scenario(Random(2))
    loads = [event.loads[SCANNER] or 0 for event in load.scenario(Random(1)).events]
    assert sum(loads) / len(loads) == pytest.approx(25_000, rel=0.01)


def test_the_bench_plays_a_folder(tmp_path: Path) -> None:
    """Only the traces; a bad one stops it before anything is played."""
    write(tmp_path, link=RATE)
    chosen = ["--traces", str(tmp_path), "--policy", "static 20 %", "--no-speed"]
    result = CliRunner().invoke(command, chosen)
    assert result.exit_code == 0, result.output
    assert "link" in result.output
    assert "worst tenth" in result.output
    write(tmp_path, bad="0 1\n1 x\n")
    result = CliRunner().invoke(command, chosen)
    assert result.exit_code == 2
    assert f"{tmp_path}/bad:2: expected Mbit/s, found 'x'" in result.output
    result = CliRunner().invoke(command, ["--scenario", "nowhere"])
    assert "there is no case 'nowhere'" in result.output


def test_the_simulated_plant_takes_a_trace_by_its_name(tmp_path: Path) -> None:
    """A name that does not exist is an error that lists those that do."""
    write(tmp_path, link=RATE)
    result = CliRunner().invoke(plant_command, ["--traces", str(tmp_path), "--scenario", "lnik"])
    assert result.exit_code == 2
    assert "there is no 'lnik'" in result.output
    assert "link" in result.output
