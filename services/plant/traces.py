"""Traces of links and loads, recorded by others, as scenarios.

A folder's files are read in three formats, recognized file by file:

    seconds Mbit/s   a link's rate at a time, two numbers with blanks between them
    Mahimahi         a whole number a line: the millisecond in which a link could deliver another 1500 bytes
    time,bytes       what a workload sent, at an RFC 3339 time or at a number of seconds; a heading may come first

Empty lines and lines that begin with ``#`` are passed over, and so are files whose first lines are in none of the
formats, such as a licence.  Files are text in UTF-8, with any ends of lines; a time without an offset is UTC.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from pathlib import Path
from random import Random
from typing import Literal

from msgspec import Struct

from services.plant.courses import follow
from services.plant.scenario import NOMINAL, Scenario
from services.plant.topology import SCANNER
from services.plant.workloads import Apps

EVERY = 0.5
"""Seconds from one change of a replayed rate to the next."""
_LOOKED_AT = 10
"""A file's format is that of the first of so many lines that is in one."""
_SHOWN = 5
"""Mistakes of a file that are listed; of all others, the number is."""
_LARGEST = 64 * 2**20
"""Bytes of a file."""
_LONGEST = 7 * 86_400.0
"""Seconds of a trace: more is a mistake of its unit, or more than the bench plays."""
_IDLE = 0.001
"""kbit/s: a trace that never has more has no rate."""
_UNREADABLE = {b"\x1f\x8b": "compressed", b"\xff\xfe": "text in UTF-16", b"\xfe\xff": "text in UTF-16"}
"""By a file's first bytes, what a trace must not be."""
_PACKET_KBIT = 1500 * 8 / 1000
_HEADING = "time,bytes"
_SECONDS = 300.0
_MEAN, _LEAST, _MOST = 100_000, 40_000, 200_000
"""kbit/s: of a replayed capacity."""
_COPIES = 20
"""Robots whose loads are added up."""
_MOST_LOAD = 3 * NOMINAL

Format = Literal["rate", "mahimahi", "bytes"]
_FORMS: dict[Format, re.Pattern[str]] = {
    "rate": re.compile(r"[-+.\deE]+[ \t]+[-+.\deE]+"),
    "mahimahi": re.compile(r"\d+"),
    "bytes": re.compile(r"[-+.:\dTZ]+,\s*\d+"),
}


class TraceError(ValueError):
    """Traces that cannot be read: one line for each mistake, as ``FILE:LINE: text``."""


class Trace(Struct, frozen=True):
    """A rate over time."""

    name: str
    """Its path in the folder."""
    kind: Literal["capacity", "load"]
    rates: tuple[float, ...]
    """kbit/s, each for ``EVERY`` seconds."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.rates) * EVERY

    def scenario(self, random: Random) -> Scenario:
        """A scenario of five minutes, from a moment in the trace that ``random`` draws; short traces repeat.

        A capacity is scaled to a mean of 100 Mbit/s and kept between 40 and 200, and the link's nameplate is its
        highest rate.  A load is the sum of 20 copies, each from a moment of its own, scaled to the usual critical load.
        """
        if self.kind == "load":
            starts = [random.randrange(len(self.rates)) for _ in range(_COPIES)]
            scaled = self._scale(NOMINAL / _COPIES, 0, _MOST_LOAD)
            steps = range(len(scaled))
            load = _look_up([sum(scaled[(start + step) % len(scaled)] for start in starts) for step in steps])
            events = follow(lambda at: min(load(at), _MOST_LOAD), _SECONDS, EVERY, workload=SCANNER)
            return Scenario(name=self.name, text="A recorded load.", seconds=_SECONDS, events=events)
        start = random.randrange(len(self.rates))
        scaled = self._scale(_MEAN, _LEAST, _MOST)
        events = follow(_look_up([*scaled[start:], *scaled[:start]]), _SECONDS, EVERY)
        # The nameplate is the highest rate: a user configures what the link can do at best.
        apps = Apps(capacity=round(max(scaled)))
        return Scenario(name=self.name, text="A recorded link.", seconds=_SECONDS, events=events, apps=apps)

    def _scale(self, mean: float, least: float, most: float) -> list[float]:
        share = mean * len(self.rates) / sum(self.rates)
        return [min(max(rate * share, least), most) for rate in self.rates]


def read_traces(folder: Path) -> list[Trace]:
    """Read every trace in a folder and the folders in it, in the order of their names.

    Raises:
        TraceError: there are none, or a line of one is not in the file's format.
    """
    traces: list[Trace] = []
    mistakes: list[str] = []
    passed_over = 0
    for path in sorted(one for one in folder.rglob("*") if one.is_file() and not one.name.startswith(".")):
        try:
            trace = read_trace(path, path.relative_to(folder).as_posix())
        except TraceError as error:
            mistakes.append(str(error))
        except OSError as error:
            mistakes.append(f"{path}: {error.strerror}")
        else:
            traces += [trace] if trace else []
            passed_over += trace is None
    if mistakes:
        raise TraceError("\n".join(mistakes))
    if not traces:
        raise TraceError(f"{folder}: there is no trace in it; files in none of the formats: {passed_over}")
    return traces


def read_trace(path: Path, name: str) -> Trace | None:
    """Read one file; None if its first lines are in none of the formats.

    Raises:
        TraceError: it is no text, a line is not in the file's format, or the whole makes no trace.
        OSError: the file cannot be read.
    """
    text = _read_text(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    form = next((form for _, line in lines[:_LOOKED_AT] if (form := _recognize(line))), None)
    if form is None:
        return None
    if _is_heading(lines[0][1]):
        lines = lines[1:]
    points: list[tuple[float, float]] = []
    mistakes: list[str] = []
    for number, line in lines:
        try:
            point = _PARSERS[form](line)
        except ValueError as error:
            mistakes.append(f"{path}:{number}: {error}")
            continue
        if points and point[0] < points[-1][0]:
            mistakes.append(f"{path}:{number}: the time goes back")
            continue
        points.append(point)
    if len(mistakes) > _SHOWN:
        mistakes[_SHOWN:] = [f"{path}: {len(mistakes) - _SHOWN} more lines like these"]
    if mistakes:
        raise TraceError("\n".join(mistakes))
    seconds = points[-1][0] - points[0][0] if points else 0.0
    if seconds > _LONGEST:
        raise TraceError(f"{path}: it lasts {seconds:,.0f} s; at most {_LONGEST:,.0f} s can be played")
    rates = (_interpolate(points) if form == "rate" else _count(points)) if points else []
    if len(rates) < 2 or max(rates) < _IDLE:
        raise TraceError(f"{path}: it lasts less than a second, or its rate is always 0")
    return Trace(name, "load" if form == "bytes" else "capacity", tuple(rates))


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    kind = _UNREADABLE.get(content[:2])
    if kind:
        raise TraceError(f"{path}: it is {kind}; expected text in UTF-8")
    if len(content) > _LARGEST:
        raise TraceError(f"{path}: it is larger than {_LARGEST // 2**20} MiB")
    return content.decode("utf-8-sig", errors="replace")


def _is_heading(line: str) -> bool:
    return line.replace(" ", "").lower() == _HEADING


def _recognize(line: str) -> Format | None:
    if _is_heading(line):
        return "bytes"
    return next((form for form, pattern in _FORMS.items() if pattern.fullmatch(line)), None)


def _parse_rate(line: str) -> tuple[float, float]:
    words = line.split()
    if len(words) != 2:
        raise ValueError(f"expected seconds and Mbit/s, found {line[:40]!r}")
    return _parse_number(words[0], "seconds"), 1000 * _parse_number(words[1], "Mbit/s")


def _parse_mahimahi(line: str) -> tuple[float, float]:
    if not re.fullmatch(r"\d{1,15}", line):
        raise ValueError(f"expected a whole number of milliseconds, found {line[:40]!r}")
    return int(line) / 1000, _PACKET_KBIT


def _parse_bytes(line: str) -> tuple[float, float]:
    time, comma, size = line.partition(",")
    if not comma:
        raise ValueError(f"expected a time, a comma and bytes, found {line[:40]!r}")
    try:
        moment = datetime.fromisoformat(time.strip())
    except ValueError:
        at = _parse_number(time.strip(), "a time")
    else:
        # The same on every machine, whatever its time zone is.
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return at, _parse_number(size.strip(), "bytes") * 8 / 1000


_PARSERS: dict[Format, Callable[[str], tuple[float, float]]] = {
    "rate": _parse_rate,
    "mahimahi": _parse_mahimahi,
    "bytes": _parse_bytes,
}


def _parse_number(text: str, what: str) -> float:
    try:
        number = float(text.replace("_", "?"))
    except ValueError:
        raise ValueError(f"expected {what}, found {text[:40]!r}") from None
    if not isfinite(number) or number < 0 or number > 1e12:
        raise ValueError(f"{what} cannot be {text[:40]}")
    return number


def _interpolate(points: Sequence[tuple[float, float]]) -> list[float]:
    """Rates in equal steps, on straight lines between the points."""
    origin = points[0][0]
    rates: list[float] = []
    count = int((points[-1][0] - origin) / EVERY)
    for (begin, before), (end, after) in pairwise(points):
        while len(rates) < count and (at := origin + EVERY * len(rates)) < end:
            rates.append(before + (after - before) * (at - begin) / (end - begin))
    return rates


def _count(points: Sequence[tuple[float, float]]) -> list[float]:
    """Rates in equal steps, from amounts (kbit) at times."""
    rates = [0.0] * max(int((points[-1][0] - points[0][0]) / EVERY), 1)
    for at, kbit in points:
        step = int((at - points[0][0]) / EVERY)
        if step < len(rates):
            rates[step] += kbit / EVERY
    return rates


def _look_up(rates: Sequence[float]) -> Callable[[float], float]:
    return lambda at: rates[int(at / EVERY + 1e-9) % len(rates)]
