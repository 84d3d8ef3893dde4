"""Recordings in which the definition that decisions were made under is missing: explain and replay say so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from schemas.definition import Definition, DefinitionSource
from schemas.domain import Domain
from schemas.messages import Decision, State, encode
from schemas.units import Rate
from services.control import Controller
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage, RecordingReader, build_message
from services.tools.replay.offline import compare_policies, verify
from tests.support.bus_stream import BEGIN, PERIOD, SUBJECTS, config, decision_line, record, sample_line, samples
from tests.support.commands import sluice

EACH = 20
"""Decisions under each revision."""
FILE = config()
(DOMAIN,) = FILE.domains


def revise(number: int) -> Domain:
    """The domain's configuration as of a revision: each gives other limits than the file's."""
    targets = tuple(structs.replace(one, min=Rate(one.min + one.fail_safe // 5 * number)) for one in DOMAIN.targets)
    return structs.replace(DOMAIN, targets=targets)


def run_of(*recorded: int) -> Iterator[RecordedMessage]:
    """Samples and decisions under the revisions 1 to 3; of the definitions, only some are recorded."""
    state: State | None = None
    for number, sample in enumerate(samples(DOMAIN, 3 * EACH), 1):
        revision = (number - 1) // EACH + 1
        if number % EACH == 1 and revision in recorded:
            domain = revise(revision)
            definition = Definition(domain.name, revision, DefinitionSource(name=domain.name), domain)
            at = BEGIN + number * PERIOD - PERIOD // 2
            yield build_message("definition", SUBJECTS.definition(domain.name), revision, at, {}, encode(definition))
        yield sample_line(sample, number)
        decision = Controller(revise(revision), revision=revision).step(state, sample)
        state = decision.state
        yield decision_line(decision, number, number, sample.id)


def test_a_recording_with_all_of_them_replays() -> None:
    """The premise: decisions differ by revision, and each is made again under its own."""
    decisions = [one for line in run_of() if isinstance(one := decode_message(line), Decision)]
    assert [one.definition for one in decisions] == [1] * EACH + [2] * EACH + [3] * EACH
    under_file = Controller(DOMAIN, revision=2)
    first = list(samples(DOMAIN, 3 * EACH))[EACH]
    assert under_file.step(decisions[EACH - 1].state, first).targets != decisions[EACH].targets


@pytest.mark.parametrize(
    ("recorded", "missing"), [((1, 2, 3), []), ((1, 3), [2]), ((1, 2), [3]), ((2, 3), [1]), ((), [1, 2, 3])]
)
def test_a_replay_says_which_one_is_missing(tmp_path: Path, recorded: tuple[int, ...], missing: list[int]) -> None:
    """Its decisions are taken as recorded and called so; those under other revisions are made again all the same."""
    reader = RecordingReader(record(tmp_path / "x", FILE, run_of(*recorded)))
    tally = verify(reader, lambda _: None)[DOMAIN.name]
    assert (tally.identical, tally.different) == ((3 - len(missing)) * EACH, 0)
    assert (tally.given, tally.missing) == (len(missing) * EACH, len(missing) * EACH)
    remarks = {remark.what for remark in tally.holes}
    assert remarks <= {f"its definition, revision {one}, is not in the recording" for one in missing}
    assert bool(remarks) is bool(missing)
    assert reader.problems == []


def test_one_that_this_build_cannot_use_is_named_with_its_line(tmp_path: Path) -> None:
    """A policy of a later version: the line is a problem, and the decisions under it are taken as recorded."""
    lines = list(run_of(1, 2, 3))
    at = next(i for i, line in enumerate(lines) if line.kind == "definition" and line.seq == 2)
    foreign = lines[at].payload.replace(b'"proportional"', b'"from-the-future"')
    assert foreign != lines[at].payload
    lines[at] = build_message("definition", lines[at].subject, 2, lines[at].time, {}, foreign)
    reader = RecordingReader(record(tmp_path / "x", FILE, iter(lines)))
    tally = verify(reader, lambda _: None)[DOMAIN.name]
    assert (tally.identical, tally.different, tally.missing) == (2 * EACH, 0, EACH)
    assert [(one.line, "from-the-future" in one.what) for one in reader.problems] == [(at + 2, True)]


def test_policies_are_tried_and_the_gap_is_a_problem(tmp_path: Path) -> None:
    """Other policies run on under the definition before, and the reader learns which revision was not there."""
    reader = RecordingReader(record(tmp_path / "x", FILE, run_of(1, 3)))
    found = compare_policies(reader, {"proportional": FILE.domains}, lambda _: None, policies=("proportional",))
    assert found["proportional"][DOMAIN.name].samples == 3 * EACH
    (problem,) = reader.problems
    assert f"revision 2 of {DOMAIN.name}'s definition is not in the recording" in problem.what


def test_explain_shows_that_it_is_not_here(tmp_path: Path) -> None:
    """No figure of another definition stands for it unsaid, and the decision is not claimed to differ."""
    lines = list(run_of(1, 3))
    decisions = [one for line in lines if isinstance(one := decode_message(line), Decision)]
    path = record(tmp_path / "x", FILE, iter(lines))
    lacking = sluice("explain", decisions[EACH + 5].id, path)
    assert lacking.returncode == 0
    assert "Made under revision 2 of the definition, which is not here" in lacking.stdout
    assert "are those of the configuration, and may be others" in lacking.stdout
    assert "Made again from its sample: not possible without that definition" in lacking.stdout
    known = sluice("explain", decisions[2 * EACH + 5].id, path)
    assert "not here" not in known.stdout
    assert "Made again from its sample: the same, byte for byte" in known.stdout
