"""Pages of metrics in every layout that the text format allows, and with every kind of fault."""

import re
from collections.abc import Mapping
from contextlib import suppress
from random import Random

from services.sampler.scrape.parser import ScrapedPage

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and labels; bounds as Python writes them, no empty labels."""

_NUMBERS = ("{:d}", "{:d}.0", "{:d}.", "+{:d}", "{:d}e0", "{:d}.00E+00")
_BOUNDS = {
    0.001: ("0.001", "1e-3", "1E-03", ".001", "+0.00100"),
    1.0: ("1", "1.0", "1e0", "1.", "+1"),
    2.5: ("2.5", "2.50", "25e-1", "2.5E+00"),
}
_INFINITE = ("+Inf", "inf", "Inf", "+inf", "INF", "Infinity", "+infinity")
_GAPS = ("", "", "", " ", "\t", " \t ")
_COMMENTS = (
    '# HELP hubble_flow_latency_seconds A \\\\ \\n "help"',
    "# TYPE hubble_flow_latency_seconds histogram",
    "# HELP x",
    "#",
    "#comment {{{",
    "# TYPES are no matter",
    "",
    " \t",
    'other_total{workload="robot"} 7',
    "other 5 1700000000000",
    'other_bucket{namespace="factory",workload="robot",le="1"} NaN',
    'hubble_flow_latency_seconds_created{namespace="factory",workload="robot"} 1.7e9',
    'hubble_flow_latency_seconds_sum{namespace="factory",workload="robot"} 0.5',
    'hubble_flow_latency_seconds_count{namespace="factory",workload="robot"} 9',
    'hubble_flow_latency_seconds_bucket{namespace="factory",workload="other",le="1"} 3',
)
_PEERS = ("", "srv", 'a\\"b', "a\\\\", "a\\nb", "}", "{,=#", "\u00fc", 'le=\\"5\\"', "a\\tb")
_FAULTS = (
    *(
        "\n",
        "}",
        "{",
        '"',
        ",",
        "=",
        " ",
        "\t",
        "#",
        "\\",
        "\r",
        "_",
        "-",
        "+",
        "e",
        "5",
        "NaN",
        "-1",
        "0x1p1",
        "1e999",
    ),
    *(' # {trace_id="a"} 0.0006', " # {} 1", " 1700000000", " 5 5", ',le="5"', "\u00fc", '"a"', "# TYPE x gauge\n"),
    *("# TYPE x  gauge\n", "# HELP \n", "# TYPE x thing\n", "1_0", "inf", "x 1\n", "1", "x{y} 1\n", "0.5", "\ufeff"),
)


def write_page(chance: Random, *, faults: int = 0) -> str:
    """Write a page with the robot's histograms, a loss counter, and anything else between.

    Args:
        chance: what decides.
        faults: how many characters or tokens to insert, remove or replace, at most.
    """
    lines = [line for peer in chance.sample(_PEERS, chance.randint(1, 2)) for line in _write_histogram(chance, peer)]
    if chance.random() < 0.5:
        lines.append(_write_line(chance, "hubble_flow_lost_total", {}, chance.randint(0, 9)))
    if chance.random() < 0.2:
        lines.append(chance.choice(lines))
    for _ in range(chance.randint(0, 4)):
        lines.insert(chance.randint(0, len(lines)), chance.choice(_COMMENTS))
    return _damage("\n".join(lines) + "\n", chance, faults)


_OPEN_COMMENTS = (
    '# HELP hubble_flow_latency_seconds A \\\\ \\n \\"help\\"',
    "# TYPE hubble_flow_latency_seconds histogram",
    "# UNIT hubble_flow_latency_seconds seconds",
    "# TYPE hubble_flow_lost counter",
    "# TYPE other gaugehistogram",
    "# TYPE build info",
    "# TYPE mode stateset",
    "# TYPE something unknown",
    "# HELP x ",
    'other_total{workload="robot"} 7',
    "other 5 1700000000.123",
    'other_bucket{namespace="factory",workload="robot",le="1"} NaN # {} 0.5',
    'build_info{version="1.2"} 1',
    'hubble_flow_latency_seconds_created{namespace="factory",workload="robot"} 1.7e9',
    'hubble_flow_latency_seconds_sum{namespace="factory",workload="robot"} 0.5',
    'hubble_flow_latency_seconds_count{namespace="factory",workload="robot"} 9 1700000000 # {trace_id="x"} 1 1.7e9',
    'hubble_flow_latency_seconds_bucket{namespace="factory",workload="other",le="1"} 3 # {a="} 5",b="\\""} 1e-3',
)
_EXEMPLARS = (
    "",
    "",
    "",
    ' # {trace_id="a"} 0.0006',
    " # {} 1",
    ' # {trace_id="a",span_id="b"} 0.0006 1700000000.5',
    ' # {a="# {b=\\"5\\"} 7"} 1e-3',
)


def write_open_page(chance: Random, *, faults: int = 0) -> str:
    """Write a page of the same kind in OpenMetrics, with exemplars; see `write_page`."""
    lines = []
    for peer in chance.sample(_PEERS, chance.randint(1, 2)):
        for line in _write_histogram(chance, peer):
            head, _, rest = line.rpartition("}")
            name, _, pairs = head.partition("{")
            number = rest.split()[0]
            stamp = chance.choice(("", "", "", " 1700000000", " 1700000000.250", " -1.5e3"))
            inside = _strip_gaps(pairs)
            lines.append(f"{name.strip()}{{{inside}}} {number}{stamp}{chance.choice(_EXEMPLARS)}")
    if chance.random() < 0.5:
        text = 'hubble_flow_lost_total{namespace="factory",workload="robot"}'
        lines.append(f"{text} {chance.randint(0, 9)}{chance.choice(_EXEMPLARS)}")
    for _ in range(chance.randint(0, 4)):
        lines.insert(chance.randint(0, len(lines)), chance.choice(_OPEN_COMMENTS))
    page = "\n".join(lines) + "\n# EOF" + chance.choice(("\n", "\n", ""))
    return _damage(page, chance, faults)


def _strip_gaps(pairs: str) -> str:
    """The labels without the gaps and the last comma, which only the text format allows."""
    found = re.findall(r'([a-z_]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*")', pairs)
    return ",".join(f"{name}={value}" for name, value in found)


def _damage(page: str, chance: Random, faults: int) -> str:
    for _ in range(faults and chance.randint(1, faults)):
        at = chance.randint(0, len(page))
        until = min(len(page), at + chance.choice((0, 0, 1, 2, 5)))
        page = page[:at] + chance.choice((*_FAULTS, "")) + page[until:]
    return page


def _write_histogram(chance: Random, peer: str) -> list[str]:
    count, lines = 0, []
    for bound in (*chance.sample(sorted(_BOUNDS), chance.randint(1, 3)), None):
        count += chance.randint(0, 50)
        labels = {"le": chance.choice(_INFINITE if bound is None else _BOUNDS[bound])}
        if peer:
            labels["peer"] = peer
        lines.append(_write_line(chance, "hubble_flow_latency_seconds_bucket", labels, count))
    return lines


def _write_line(chance: Random, name: str, labels: Mapping[str, str], value: int) -> str:
    def gap() -> str:
        return chance.choice(_GAPS)

    pairs = list({"namespace": "factory", "workload": "robot", **labels}.items())
    chance.shuffle(pairs)
    inside = ",".join(f'{gap()}{label}{gap()}={gap()}"{text}"{gap()}' for label, text in pairs)
    comma = chance.choice(("", "", ",", ", "))
    number = chance.choice(_NUMBERS).format(value)
    stamp = f"{chance.choice((' ', chr(9)))}{chance.randint(1, 10**13)}" if chance.random() < 0.1 else ""
    return f"{name}{gap()}{{{inside}{comma}}}{gap() or ' '}{number}{stamp}{gap()}"


def name_sample(name: str, labels: Mapping[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A sample's key in ``Samples``."""
    kept = {label: value for label, value in labels.items() if value}
    if "le" in kept and "_" not in kept["le"]:
        with suppress(ValueError):
            kept["le"] = repr(float(kept["le"]))
    return name, tuple(sorted(kept.items()))


def flatten(page: ScrapedPage) -> Samples:
    """What a page was read as, sample by sample."""
    samples: Samples = {}
    for series, counts in page.counters.items():
        if series.kind == "lost":
            samples[name_sample("hubble_flow_lost_total", dict(series.labels))] = counts[0]
        for bound, count in zip((*series.bounds, float("inf")), counts, strict=True) if series.bounds else ():
            labels = {**dict(series.labels), "le": repr(bound)}
            samples[name_sample("hubble_flow_latency_seconds_bucket", labels)] = count
    return samples
