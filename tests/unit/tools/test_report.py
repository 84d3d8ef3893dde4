"""The report's facts and page: correct figures, correct words, and escaped text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec import Raw, structs

from schemas.config import Config
from schemas.definition import Definition, DefinitionSource
from schemas.messages import Decision, encode
from services.bus.subjects import KINDS
from services.tools.audit.auditor import Auditor, Findings
from services.tools.common.formatting import decode_message, format_duration
from services.tools.common.recording import RecordedMessage, build_message
from services.tools.report.downsampling import Curve
from services.tools.report.page import Heading, judge, render_page, summarize
from services.tools.report.statistics import ReportStatistics
from tests.support.bus_stream import BEGIN, PERIOD, SUBJECTS, config, record, sample_line, samples, stream
from tests.support.commands import sluice

COUNT = 150


def gather(
    lines: list[RecordedMessage], of: Config, kinds: tuple[str, ...] = KINDS
) -> tuple[ReportStatistics, Findings]:
    """Facts and findings on some lines, if the recording has these kinds."""
    facts, auditor = ReportStatistics(of.domains, PERIOD), Auditor(of.domains, 0, whole=True, kinds=kinds)
    for line in lines:
        facts.add(line)
        auditor.check(line)
    return facts, auditor.finish()


def make_page(
    lines: list[RecordedMessage], of: Config, problems: tuple[str, ...] = (), kinds: tuple[str, ...] = KINDS
) -> str:
    """The page about some lines."""
    facts, findings = gather(lines, of, kinds)
    return render_page(facts, findings, Heading("a test", "Made in a test.", BEGIN, BEGIN + 10**9), problems)


class _Text(HTMLParser):
    """Collects the words on a page, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


def words(text: str) -> str:
    """The visible words."""
    parser = _Text()
    parser.feed(text)
    return re.sub(r"\s+", " ", " ".join(parser.words))


def test_figures_are_those_of_the_messages() -> None:
    """Windows, violations, changes, patches and means match the messages."""
    lines = list(stream(config(), COUNT, actions=True))
    facts, findings = gather(lines, config())
    one = facts.domains[0]
    decisions = [found for line in lines if isinstance(found := decode_message(line), Decision)]
    assert findings.breaches == []
    assert one.windows == COUNT
    assert one.violated == sum(decision.violated for decision in decisions)
    assert one.blind == sum(decision.stress is None for decision in decisions)
    assert one.changed == sum(target.limit != target.was for decision in decisions for target in decision.targets)
    assert one.pods == 3 * sum(line.kind == "action" for line in lines)
    limits = [decision.targets[0].limit for decision in decisions]
    curve = one.limits["cell-0/telemetry-upload"]
    assert [point.last for point in curve.points] == limits
    assert one.broken.worst is not None
    assert one.broken.worst.worst == max(decision.stress or 0 for decision in decisions)
    assert list(one.act) == [20_000_000 + line.seq - 1_000_000 for line in lines if line.kind == "action"]


def test_how_long_an_answer_took() -> None:
    """From the end of the first window over an SLO to the patch that lowers a limit."""
    lines = list(stream(config(), COUNT, actions=True))
    facts, _ = gather(lines, config())
    violations = [one for one in facts.domains[0].broken.kept if one.response is not None]
    assert violations
    assert all(26_000_000 <= (one.response or 0) < 27_000_000 for one in violations)


def test_a_single_window_lasts_as_long_as_a_period() -> None:
    """Several windows last from the beginning of the first to the end of the last."""
    facts, _ = gather(list(stream(config(), COUNT, actions=True)), config())
    kept = list(facts.domains[0].broken.kept)
    assert {one.duration for one in kept if one.windows == 1} == {PERIOD}
    assert all(one.duration >= one.windows * PERIOD for one in kept)
    assert "0 ms" not in re.findall(r'class="n">([^<]*)</td>', make_page(list(stream(config(), COUNT)), config()))


def test_limits_for_each_pod_are_not_added_up() -> None:
    """The traffic of all replicas is not compared with the limit of one of them."""
    of = config()
    targets = tuple(structs.replace(target, scope="per-pod") for target in of.domains[0].targets)
    each = structs.replace(of, domains=(structs.replace(of.domains[0], targets=targets),))
    lines = list(stream(of, COUNT))
    text = words(make_page(lines, each))
    assert "that they were allowed" not in text
    assert "holds for each pod" in text
    assert "that they were allowed" in words(make_page(lines, of))
    assert "telemetry-upload: limit a pod" in make_page(lines, each)


def test_a_summary_that_a_plant_manager_can_read() -> None:
    """The sentences give the share of time, number, severity, speed and remaining goodput."""
    facts, _ = gather(list(stream(config(), COUNT, actions=True)), config())
    one = facts.domains[0]
    text = " ".join(summarize(one))
    assert one.share_within is not None
    assert f"within their latency limits in {one.share_within:.1%} of the windows" in text
    assert f"{one.broken.count} times they were not" in text
    assert "Mbit/s on average" in text
    assert f"Limits moved {one.changed:,} times" in text
    assert "no patch failed" in text


@pytest.mark.parametrize(
    ("violated", "blind", "mood"),
    [(0, 0, "good"), (1, 0, "good"), (4, 0, "fair"), (6, 0, "bad"), (0, 100, "unknown"), (1, 95, "bad")],
)
def test_verdicts(violated: int, blind: int, mood: str) -> None:
    """Windows without data do not improve the result."""
    facts, _ = gather(list(stream(config(), 3)), config())
    one = facts.domains[0]
    one.windows, one.violated, one.blind = 100, violated, blind
    assert judge([one])[0] == mood


def test_the_content_of_the_page() -> None:
    """Summary, tables of violations and of gaps, reasons and the audit are on the page, in words."""
    lines = list(stream(config(), COUNT, actions=True))
    text = words(make_page(lines, config(), ("line 7: cut",)))
    facts, _ = gather(lines, config())
    assert judge(facts.domains)[1] in text
    for sentence in summarize(facts.domains[0]):
        assert sentence in text
    assert "the exporter did not answer" in text
    assert f"each of {COUNT} decisions was made again" in text
    assert "The recording is not whole: line 7: cut" in text
    assert any(decode_message(line).reason in text for line in lines if line.kind == "decision")  # type: ignore[union-attr]


def test_what_the_audit_finds_is_on_the_page() -> None:
    """A missing decision is shown beside good figures."""
    lines = list(stream(config(), 40, actions=True))
    at = [i for i, line in enumerate(lines) if line.kind == "decision"][20]
    text = words(make_page(lines[:at] + lines[at + 1 :], config()))
    assert "The audit found" in text
    assert "never decided on" in text


def test_text_from_messages_stays_text() -> None:
    """Names and reasons that look like markup or script are shown, and have no effect."""
    evil = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"'
    of = config()
    domain = structs.replace(of.domains[0], name=evil)
    lines = []
    for i, sample in enumerate(samples(domain, 20), 1):
        measure = structs.replace(sample.critical[0], workload=f"cell-0/{evil}")
        changed = structs.replace(sample, domain=evil, critical=(measure,), no_data=evil if i % 5 == 0 else None)
        lines.append(sample_line(changed, i))
    text = make_page(lines, Config((domain,)))
    assert "alert(1)" in words(text)
    parser = _Text()
    parser.feed(text)
    assert "img" not in parser.elements
    assert text.count("<script>alert") == 0
    figures = re.findall(r'<script type="application/json" id="figure-\d+">(.*?)</script>', text, re.DOTALL)
    assert len(figures) == 1
    assert json.loads(figures[0])["data"]


def test_a_time_that_no_calendar_has() -> None:
    """A message with an impossible time does not end the report."""
    lines = list(stream(config(), 30, actions=True))
    at = next(i for i, line in enumerate(lines) if line.kind == "action")
    action = structs.replace(decode_message(lines[at]), applied=10**24)
    lines[at] = structs.replace(lines[at], body=Raw(encode(action)))
    assert "9999-12-31" in make_page(lines, config())


def test_without_decisions_or_data() -> None:
    """Samples alone, samples without data, and an empty recording each make a page."""
    of = config()
    alone = [line for line in stream(of, 30) if line.kind == "sample"]
    text = words(make_page(alone, of, kinds=("sample",)))
    assert "No action is on record" in text
    assert "no decisions to make again" in text
    empty = [structs.replace(decode_message(line), no_data="gone", critical=()) for line in alone]
    blind = [build_message("sample", "sluice.sample.v1.cell-0", 1, BEGIN, {}, encode(one)) for one in empty]
    assert "Nothing was measured" in words(make_page(blind, of))
    assert "Nothing was measured" in words(make_page([], of))


def test_many_domains() -> None:
    """A table of all, the worst first, and plots of as many as a browser can handle."""
    of = config(20)
    text = make_page(list(stream(of, 10)), of)
    assert text.count('class="plot"') == 12
    facts, _ = gather(list(stream(of, 10)), of)
    shares = [one.share_within for one in facts.domains]
    assert shares == sorted(shares, key=lambda share: 2.0 if share is None else share)
    assert "Plots of the 12 domains" in words(text)


def test_a_thousand_instances_are_one_line_and_the_worst_of_them() -> None:
    """The line adds them up; those that broke an SLO come first, then the blind ones; the rest is folded."""
    of = config(1)
    [decision] = [one for line in stream(of, 1) if isinstance(one := decode_message(line), Decision)]
    facts, findings = gather([], Config(()))

    def add(name: str, *, violated: bool = False, blind: bool = False) -> None:
        one = structs.replace(decision, domain=name, violated=violated, stress=None if blind else 0.5)
        facts.add(build_message("decision", SUBJECTS.decision(name), 1, BEGIN, {}, encode(one)))

    for number in range(1_000):
        name = f"uplink@node-{number}"
        for window in range(10 if number < 12 else 1):
            add(name, violated=window < number % 10 and number < 12, blind=number >= 900)
        if number > 900:
            domain = structs.replace(of.domains[0], name=name)
            known = Definition(name, 1, DefinitionSource(), domain, without_critical=True)
            facts.add(build_message("definition", SUBJECTS.definition(name), 1, BEGIN, {}, encode(known)))
    add("robots")
    page = render_page(facts, findings, Heading("a test", "Made in a test.", BEGIN, BEGIN + 10**9), ())
    table, _, instances = page.partition("The 1,000 instances of uplink")
    rows = re.findall(r"<tr><td>([^<]*)</td>.*?</tr>", table.partition("<h2>Domains</h2>")[2])
    assert rows == ["uplink", "robots"]
    assert f'<td>{decision.policy}</td><td class="n">1,108</td><td class="n">95.4%</td>' in table
    fares = "10 over an SLO at times, 1 without data, 890 within their SLOs, 99 without a critical Pod. The worst:"
    assert fares in words(instances)
    unfolded, _, folded = instances.partition("<details><summary>The other 990 instances</summary>")
    names = [re.findall(r"<tr><td>uplink@node-(\d+)</td>", part) for part in (unfolded, folded)]
    assert names[0] == ["9", "8", "7", "6", "5", "4", "3", "2", "1", "11"]
    assert len(names[1]) == 990
    assert (names[1][0], int(names[1][-1]) > 900) == ("900", True)


def test_a_curve_of_any_length_takes_constant_memory() -> None:
    """Neighbours are merged; extremes, count, sum and the last value survive."""
    curve = Curve(most=100)
    values = [float((i * 7919) % 1000) for i in range(100_003)]
    for i, value in enumerate(values):
        curve.add(i, value)
    assert len(curve.points) <= 200
    assert max(point.high for point in curve.points) == max(values)
    assert min(point.low for point in curve.points) == min(values)
    assert sum(point.count for point in curve.points) == len(values)
    assert sum(point.total for point in curve.points) == sum(values)
    assert curve.points[-1].last == values[-1]
    assert [point.time for point in curve.points] == sorted(point.time for point in curve.points)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ms"), (64_000_000, "64 ms"), (1_500_000_000, "1.5 s"), (82 * 10**9, "82 s"), (150 * 10**9, "2 min 30 s")],
)
def test_spans_of_time(ns: int, text: str) -> None:
    """They are written with a suitable unit."""
    assert format_duration(ns) == text


def test_the_command(tmp_path: Path) -> None:
    """It writes one file, from a recording alone."""
    file = record(tmp_path / "x", config(), stream(config(), 30, actions=True))
    done = sluice("report", file, "-o", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r.html").read_text()
    assert "Domain cell-0" in words(text)
