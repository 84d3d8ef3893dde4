"""What decisions say of the bottleneck and of limits that do not hold: as gauges, explained, drawn; absent before."""

import json

from msgspec import structs
from prometheus_client import CollectorRegistry, generate_latest

from schemas.messages import Decision, Overrun, Sample, State, encode
from services.control import Controller
from services.decision.metrics import LastDecisions
from services.tools.common.formatting import decode_message, format_rate
from services.tools.common.recording import RecordedMessage, build_message
from services.tools.common.remade import is_same_decision
from services.tools.explain.command import DecisionTrace, describe_trace
from services.tools.report.page import summarize
from services.tools.report.plots import build_figure
from services.tools.report.statistics import ReportStatistics
from tests.support.bus_stream import PERIOD, config, stream

CONFIG = config(policy="learned")
LINES = list(stream(CONFIG, 60, actions=True))
DECISIONS = [one for line in LINES if isinstance(one := decode_message(line), Decision)]


def without_link(line: RecordedMessage) -> RecordedMessage:
    """A line as a build wrote it that knew no estimate, nor which limits do not hold."""
    message = decode_message(line)
    if not isinstance(message, Decision):
        return line
    old = encode(structs.replace(message, link=None, overruns=(), state=structs.replace(message.state, over={})))
    return build_message("decision", line.subject, line.seq, line.time, line.headers, old)


def with_overruns(line: RecordedMessage, overruns: tuple[Overrun, ...]) -> RecordedMessage:
    """A line with these overruns, if it is a decision: the generated traffic heeds no limit, and may have its own."""
    message = decode_message(line)
    if not isinstance(message, Decision):
        return line
    changed = encode(structs.replace(message, overruns=overruns))
    return build_message("decision", line.subject, line.seq, line.time, line.headers, changed)


def gather(lines: list[RecordedMessage]) -> ReportStatistics:
    """The statistics of some lines."""
    statistics = ReportStatistics(CONFIG.domains, PERIOD)
    for line in lines:
        statistics.add(line)
    return statistics


def test_headroom_is_what_the_safe_load_leaves() -> None:
    """B - F - lambda, wherever the policy was asked; without data there is no estimate."""
    links = [one.link for one in DECISIONS if one.link is not None]
    assert all((one.link is None) == (one.stress is None) for one in DECISIONS)
    assert links
    assert all(abs(one.safe - one.expected - one.margin - one.headroom) <= 2 for one in links)
    assert all(one.lesson for one in links)


def test_a_plain_rule_has_none() -> None:
    """Only a policy that keeps an estimate reports one."""
    decisions = [one for line in stream(config(), 10) if isinstance(one := decode_message(line), Decision)]
    assert all(one.link is None for one in decisions)


def test_it_is_shown_as_gauges() -> None:
    """One series a domain, and none for a domain without an estimate."""
    registry = CollectorRegistry()
    blind = structs.replace(DECISIONS[-1], domain="blind", link=None)
    seen = next(one for one in reversed(DECISIONS) if one.link is not None)
    assert seen.link is not None
    registry.register(LastDecisions(lambda: iter([seen, blind])))
    page = generate_latest(registry).decode()
    assert f'sluice_link_safe_load_kbit{{domain="cell-0"}} {float(seen.link.safe)}\n' in page
    assert f'sluice_link_headroom_kbit{{domain="cell-0"}} {float(seen.link.headroom)}\n' in page
    assert 'sluice_link_safe_load_kbit{domain="blind"}' not in page


def test_a_recording_without_it_is_made_again_all_the_same() -> None:
    """A recording of an older build is the same but for the estimate; any other difference counts."""
    decision = next(one for one in DECISIONS if one.link is not None)
    old = structs.replace(decision, link=None)
    assert is_same_decision(decision, encode(decision))
    assert is_same_decision(decision, encode(old))
    assert not is_same_decision(decision, encode(structs.replace(old, reason="another")))
    assert not is_same_decision(old, encode(decision))


def test_it_is_explained() -> None:
    """The explanation of a decision has the estimate, also whether it was made again."""
    decision = next(one for one in DECISIONS[20:] if one.link is not None)
    assert decision.link is not None
    for lines, shown in ((LINES, True), ([without_link(line) for line in LINES], False)):
        trace = DecisionTrace(decision.id)
        for line in lines:
            trace.add(line)
        text = "\n".join(describe_trace(trace, CONFIG.domains[0]))
        assert (f"{format_rate(decision.link.safe)} in all are safe" in text) == shown
        assert "the same, byte for byte" in text


def test_every_decision_follows_from_what_was_written() -> None:
    """What a policy remembers is written the same way again after it was read: a restart changes no byte."""
    controller = Controller(CONFIG.domains[0])
    before: State | None = None
    sample: Sample | None = None
    for message in map(decode_message, LINES):
        if isinstance(message, Sample):
            sample = message
        elif isinstance(message, Decision):
            assert sample is not None
            assert encode(controller.step(before, sample)) == encode(message)
            before = message.state


def test_the_report_draws_it() -> None:
    """A curve of the safe load and one of the load to come, and a sentence; neither for an older recording."""
    one = gather(LINES).domains[0]
    names = [trace["name"] for trace in json.loads(build_figure(one))["data"]]
    assert {"safe total load", "critical load to come", "kept free", "left for best effort"} <= set(names)
    assert any("link was found to carry" in sentence for sentence in summarize(one))
    old = gather([without_link(line) for line in LINES]).domains[0]
    assert "safe total load" not in build_figure(old)
    assert not any("link was found to carry" in sentence for sentence in summarize(old))


def test_a_limit_that_is_not_enforced_is_explained_and_reported() -> None:
    """Who sent how much, over which limit, for how long; and which limits were filled."""
    decision = next(one for one in DECISIONS[20:] if one.link is not None)
    key = decision.targets[0].target
    over = Overrun(target=key, sent=60_000, limit=20_000, since=decision.end - 5 * 10**9)
    plain = [with_overruns(line, ()) for line in LINES]
    lines = [
        with_overruns(line, (over,)) if was == decision else other
        for line, other, was in zip(LINES, plain, map(decode_message, LINES), strict=True)
    ]
    trace = DecisionTrace(decision.id)
    for line in lines:
        trace.add(line)
    text = "\n".join(describe_trace(trace, CONFIG.domains[0]))
    assert "Not enforced" in text
    assert f"telemetry-upload sends {format_rate(60_000)}, over its limit of {format_rate(20_000)} for 5" in text
    sentences = list(summarize(gather(lines).domains[0]))
    assert any("limit of cell-0/telemetry-upload was not enforced: it sent 60" in one for one in sentences)
    assert not any("not enforced" in one for one in summarize(gather(plain).domains[0]))
    assert any("filled its limit" in one for one in sentences)
