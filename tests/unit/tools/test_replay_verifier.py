"""Replay of one domain: the same stream gives the same decisions, or the reason for a difference."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from schemas.messages import Decision, Sample, decode, encode
from services.control import Controller, FutureSample
from services.tools.common.recording import RecordedMessage, RecordingReader, build_message
from services.tools.replay.offline import compare_policies, verify
from services.tools.replay.verifier import ReplayTally
from tests.support.bus_stream import BEGIN, PERIOD, config, decision_line, record, sample_line, samples, stream

COUNT = 300
Replay = Callable[[Iterator[RecordedMessage]], ReplayTally]


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """Record lines of one domain, and replay them."""

    def run(lines: Iterator[RecordedMessage]) -> ReplayTally:
        reader = RecordingReader(record(tmp_path / "x.jsonl.zst", config(), lines))
        tally = verify(reader, lambda _: None)["cell-0"]
        assert reader.problems == []
        return tally

    return run


def test_the_same_stream_gives_the_same_decisions(replay: Replay) -> None:
    """Every decision is made again byte for byte, including windows without data."""
    tally = replay(stream(config(), COUNT))
    assert (tally.samples, tally.identical, tally.different, tally.given) == (COUNT, COUNT, 0, 0)
    assert tally.notes == []


def test_domains_do_not_mix(tmp_path: Path) -> None:
    """Interleaved domains are each replayed from their own state."""
    tallies = verify(RecordingReader(record(tmp_path / "x", config(7), stream(config(7), 50))), lambda _: None)
    assert {name: (tally.identical, tally.different) for name, tally in tallies.items()} == {
        f"cell-{i}": (50, 0) for i in range(7)
    }


@pytest.mark.parametrize("first", ["sample", "decision"])
def test_decisions_that_come_late_or_early(replay: Replay, first: str) -> None:
    """Answers to many samples at once, or read before them: the order of the two kinds does not matter."""
    lines = list(stream(config(), 40))
    tally = replay(iter(sorted(lines, key=lambda line: line.kind != first)))
    assert (tally.identical, tally.different, tally.unanswered + tally.waiting) == (40, 0, 0)


def test_a_recording_that_begins_in_the_middle_with_a_state(replay: Replay) -> None:
    """With the decision before the first recorded sample, all later ones are checked."""
    lines = list(stream(config(), COUNT))
    tally = replay(iter(lines[201:]))
    assert lines[201].kind == "decision"
    assert (tally.given, tally.identical, tally.different) == (1, COUNT - 101, 0)
    assert tally.notes == []


def test_a_recording_that_begins_in_the_middle_without_a_state(replay: Replay) -> None:
    """The first decision is taken as given, which the output says, and the rest is checked."""
    tally = replay(iter(list(stream(config(), COUNT))[200:]))
    assert (tally.given, tally.identical, tally.different) == (1, COUNT - 101, 0)
    assert "begins in the middle" in tally.notes[0]


def test_a_recording_that_begins_between_a_sample_and_its_decision(replay: Replay) -> None:
    """A decision in the range on a sample from before it is a state, and nothing is missing."""
    _, first, sample, *rest = stream(config(), COUNT)
    tally = replay(iter([sample, structs.replace(first, time=sample.time + 1), *rest]))
    assert (tally.given, tally.missing, tally.identical, tally.different) == (1, 0, COUNT - 1, 0)


def test_a_new_epoch(replay: Replay) -> None:
    """After the bus was wiped the decision service starts a new epoch, and so does the replay."""
    domain = config().domains[0]
    controller = Controller(domain)

    def wiped() -> Iterator[RecordedMessage]:
        state = None
        for i, sample in enumerate(samples(domain, 100), 1):
            yield sample_line(sample, i)
            decision = controller.step(None if i == 60 else state, sample)
            state = decision.state
            yield decision_line(decision, i, i, sample.id)

    tally = replay(wiped())
    assert (tally.identical, tally.different, tally.given) == (100, 0, 0)


def test_a_fault_is_an_input(replay: Replay) -> None:
    """A step that took too long used the fallback; the replay does, too."""
    domain = config().domains[0]
    controller = Controller(domain)

    def hurried() -> Iterator[RecordedMessage]:
        state = None
        for i, sample in enumerate(samples(domain, 100), 1):
            yield sample_line(sample, i)
            fault = "proportional/1 took 12 ms, 10 ms allowed" if i % 7 == 0 else None
            decision = controller.step(state, sample, fault)
            state = decision.state
            yield decision_line(decision, i, i, sample.id)

    tally = replay(hurried())
    assert (tally.identical, tally.different) == (100, 0)


def test_a_changed_decision_is_found_without_affecting_others(replay: Replay) -> None:
    """A decision that does not follow from its sample is listed with the difference; later ones are not affected."""
    lines = list(stream(config(), COUNT))
    at = 101
    body = msgspec.json.decode(lines[at].payload)
    body["targets"][0]["limit"] += 1
    old = lines[at]
    lines[at] = build_message("decision", old.subject, old.seq, old.time, old.headers, msgspec.json.encode(body))
    tally = replay(iter(lines))
    assert (tally.different, tally.identical) == (1, COUNT - 1)
    limit = decode(Decision, old.payload).targets[0].limit
    assert tally.differences[0].what == f"targets[0].limit: {limit + 1} recorded, {limit} replayed"


def test_a_decision_that_is_only_written_otherwise_is_a_difference(replay: Replay) -> None:
    """Bit for bit means bytes: the same content with another space differs."""
    lines = list(stream(config(), 10))
    old = lines[11]
    spaced = old.payload.replace(b'","', b'", "', 1)
    lines[11] = build_message("decision", old.subject, old.seq, old.time, old.headers, spaced)
    tally = replay(iter(lines))
    assert tally.different == 1
    assert "written otherwise" in tally.differences[0].what


@pytest.mark.parametrize(("gone", "given"), [(1, 0), (5, 0)])
def test_missing_decisions(replay: Replay, gone: int, given: int) -> None:
    """Missing decisions are stepped over, because the samples are there."""
    lines = list(stream(config(), 60))
    left = [line for line in lines if not (line.kind == "decision" and 20 <= line.seq < 20 + gone)]
    tally = replay(iter(left))
    assert (tally.identical, tally.different, tally.given) == (60 - gone, 0, given)
    assert tally.unanswered == gone


def test_missing_samples(replay: Replay) -> None:
    """A decision whose sample was lost is taken as given, which the output says, and the rest is checked."""
    lines = list(stream(config(), 60))
    left = [line for line in lines if not (line.kind == "sample" and 20 <= line.seq < 23)]
    tally = replay(iter(left))
    assert (tally.identical, tally.different, tally.given) == (57, 0, 3)
    assert tally.missing == len(tally.holes) == 3
    assert "is not in the recording" in tally.holes[0].what


def test_a_missing_stretch(replay: Replay) -> None:
    """After a gap in the record the first decision is taken as given, and the rest is checked."""
    lines = list(stream(config(), 60))
    tally = replay(iter(lines[:40] + lines[80:]))
    assert (tally.identical, tally.different, tally.given) == (39, 0, 1)
    assert tally.missing == 1
    assert "decisions are missing" in tally.holes[0].what


def test_a_decision_that_nothing_gives(replay: Replay) -> None:
    """Its number implies missing decisions, but no sample is missing: it differs, and the next one may."""
    lines = list(stream(config(), 60))
    old = lines[41]
    body = msgspec.json.decode(old.payload)
    body["state"]["seq"] = 999
    lines[41] = build_message("decision", old.subject, old.seq, old.time, old.headers, msgspec.json.encode(body))
    tally = replay(iter(lines))
    assert (tally.different, tally.given) == (2, 0)
    assert [one.sample for one in tally.differences] == [read_sample(lines[40]), read_sample(lines[42])]
    assert tally.differences[0].what == "state.seq: 999 recorded, 21 replayed"
    assert tally.differences[0].time == old.time


def read_sample(line: RecordedMessage) -> str:
    """The id of a line's sample."""
    return decode(Sample, line.payload).id


def test_samples_at_the_end(replay: Replay) -> None:
    """A recent sample may still get a decision; one older than a decision's lifetime will not."""
    lines = list(stream(config(), 60))
    left = [line for line in lines if line.kind == "sample" or line.seq <= 30]
    tally = replay(iter(left))
    waiting = config().domains[0].dead_man // PERIOD + 1
    assert (tally.identical, tally.waiting, tally.unanswered) == (30, waiting, 30 - waiting)
    assert tally.silent[0].sample == read_sample(lines[60])
    assert tally.silent[0].time == lines[60].time


def test_stale_samples(replay: Replay) -> None:
    """Repeated and late samples were not stepped on, and are not in the replay."""
    domain = config().domains[0]
    controller = Controller(domain)

    def untidy() -> Iterator[RecordedMessage]:
        state = None
        history: list[Sample] = []
        for i, sample in enumerate(samples(domain, 50), 1):
            history.append(sample)
            yield sample_line(sample, 2 * i)
            yield sample_line(history[i // 2], 2 * i + 1, sample.end + 6_000_000)
            decision = controller.step(state, sample)
            state = decision.state
            yield decision_line(decision, i, 2 * i, sample.id)

    tally = replay(untidy())
    assert (tally.samples, tally.identical, tally.different, tally.refused) == (100, 50, 0, 50)


def test_clocks_that_jump(replay: Replay) -> None:
    """A sample from the future is refused, and a bus whose clock was set back starts a new epoch, in replay as well."""
    domain = config().domains[0]
    controller = Controller(domain)
    hour = 3600 * 10**9

    def moved(sample: Sample, by: int) -> Sample:
        return structs.replace(sample, start=sample.start + by, end=sample.end + by)

    def jumping() -> Iterator[RecordedMessage]:
        state = None
        # An hour ahead together with the bus, then both are corrected; in between the sampler alone is ahead.
        for i, sample in enumerate(samples(domain, 60), 1):
            one = moved(sample, hour if i <= 20 or i % 10 == 0 else 0)
            published = sample.end + 5_000_000 + (hour if i <= 20 else 0)
            yield sample_line(one, i, published)
            try:
                decision = controller.answer(state, one, published)
            except FutureSample:
                continue
            state = decision.state
            yield decision_line(decision, i, i, one.id, published + 2_000_000)

    tally = replay(jumping())
    assert (tally.samples, tally.identical, tally.different, tally.given) == (60, 56, 0, 0)
    assert (tally.refused, tally.unanswered, tally.waiting) == (4, 0, 0)


def test_a_gap_in_the_samples(replay: Replay) -> None:
    """After a gap longer than a decision's lifetime, the replay continues as the live service did."""
    domain = config().domains[0]
    controller = Controller(domain)
    gap = domain.dead_man // PERIOD + 1

    def interrupted() -> Iterator[RecordedMessage]:
        state = None
        for i, sample in enumerate(samples(domain, 40 + gap), 1):
            if not 20 <= i < 20 + gap:
                line = sample_line(sample, i)
                yield line
                decision = controller.answer(state, sample, line.time)
                state = decision.state
                yield decision_line(decision, i, i, sample.id)

    tally = replay(interrupted())
    assert (tally.identical, tally.different, tally.given) == (40, 0, 0)


def test_another_policy_on_record(replay: Replay) -> None:
    """A decision by an unconfigured policy cannot be made again, and the output says so."""
    lines = list(stream(config(), 3))
    old = lines[1]
    foreign = old.payload.replace(b"proportional/1", b"proportional/0")
    lines[1] = build_message("decision", old.subject, old.seq, old.time, old.headers, foreign)
    tally = replay(iter(lines))
    assert tally.differences[0].what == "recorded under proportional/0, replayed under proportional/1"


def test_a_domain_that_is_not_configured(tmp_path: Path) -> None:
    """Samples of a domain that is not in the header are counted and named."""
    lines = stream(config(2), 5)
    tallies = verify(RecordingReader(record(tmp_path / "x", config(1), lines)), lambda _: None)
    assert tallies["cell-1"].samples == 5
    assert "does not have this domain" in tallies["cell-1"].notes[0]
    assert tallies["cell-0"].identical == 5


def test_an_unreadable_sample(tmp_path: Path) -> None:
    """An unreadable sample is named with its line, and nothing else is lost."""
    lines = list(stream(config(), 5))
    lines.insert(4, build_message("sample", "sluice.sample.v1.cell-0", 99, BEGIN, {}, b'{"domain":"cell-0"}'))
    lines.insert(6, build_message("sample", "sluice.sample.v1.cell-0", 99, BEGIN, {}, b"\x00"))
    reader = RecordingReader(record(tmp_path / "x", config(1), iter(lines)))
    assert verify(reader, lambda _: None)["cell-0"].identical == 5
    assert [problem.line for problem in reader.problems] == [6, 8]


def test_the_first_of_all_is_encoded_as_the_service_does() -> None:
    """The comparison is with the bytes that ``encode`` writes; this checks the premise of the file."""
    line = next(line for line in stream(config(), 1) if line.kind == "decision")
    assert encode(decode(Decision, line.payload)) == line.payload


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"{}", "not a message of its kind"), (b'{"domain":"cell-0"}', "not a message of its kind"), (b"x", "not JSON")],
)
def test_what_is_no_decision_is_named_with_its_line(tmp_path: Path, body: bytes, why: str) -> None:
    """A line with an unreadable message loses that decision, and neither replay nor comparison fails."""
    lines = list(stream(config(), 40))
    old = lines[41]
    lines[41] = build_message("decision", old.subject, old.seq, old.time, old.headers, body)
    reader = RecordingReader(record(tmp_path / "x", config(), iter(lines)))
    tally = verify(reader, lambda _: None)["cell-0"]
    assert [problem.line for problem in reader.problems] == [43]
    assert why in reader.problems[0].what
    assert (tally.identical, tally.different, tally.unanswered) == (39, 0, 1)
    found = compare_policies(reader, {"same": config().domains}, lambda _: None)
    assert [problem.line for problem in reader.problems] == [43]
    assert found["same"]["cell-0"].samples == 40
    assert found["as recorded"]["cell-0"].samples == 39


def test_half_a_decision_differs(tmp_path: Path) -> None:
    """A decision with its position only is a difference, and the next one starts a new epoch."""
    lines = list(stream(config(), 40))
    old = lines[41]
    body = msgspec.json.decode(old.payload)
    body["targets"] = 3
    lines[41] = build_message("decision", old.subject, old.seq, old.time, old.headers, msgspec.json.encode(body))
    tally = verify(RecordingReader(record(tmp_path / "x", config(), iter(lines))), lambda _: None)["cell-0"]
    assert "cannot be read" in tally.differences[0].what
    assert tally.different == 1
    assert tally.identical + tally.given == 39


def test_another_version_of_the_policy_is_reported(tmp_path: Path) -> None:
    """Differences from a recording under another version of the policy are explained beforehand."""
    reader = RecordingReader(record(tmp_path / "x", config(), stream(config(), 5)))
    reader.header = structs.replace(reader.header, policies={"cell-0": "proportional/0"})
    notes = verify(reader, lambda _: None)["cell-0"].notes
    assert notes == [
        "recorded under proportional/0, and this build has proportional/1: other decisions are to be expected"
    ]
