"""Recordings of the factory on real packets: this build makes every decision of them again, byte for byte.

After an intended change of the control core, ``make golden`` (as root) records them again.
"""

from pathlib import Path

import pytest

from schemas.messages import Action, Decision
from services.control import POLICIES
from services.tools.audit.auditor import Auditor
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordingReader
from services.tools.replay.command import build_variants
from services.tools.replay.offline import AS_RECORDED, compare_policies, verify

FILES = sorted(Path(__file__).parent.glob("*.jsonl.zst"))
LARGEST = 300_000


def silent(_: int) -> None:
    """No progress bar."""


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def reader(request: pytest.FixtureRequest) -> RecordingReader:
    """Each recording."""
    return RecordingReader(request.param)


def test_there_are_recordings() -> None:
    """There is a recording for both policies, and the files stay small."""
    assert {domain.policy for file in FILES for domain in RecordingReader(file).header.domains} == {
        "learned",
        "proportional",
    }
    assert all(path.stat().st_size < LARGEST for path in FILES)


def test_every_decision_is_made_again(reader: RecordingReader) -> None:
    """A replay from the file alone gives the decisions of the live service."""
    tallies = verify(reader, silent)
    assert reader.problems == []
    for tally in tallies.values():
        assert tally.differences == []
        assert tally.notes == []
        assert tally.identical >= 50
        assert tally.identical == tally.samples - tally.refused - tally.waiting


def test_nothing_is_amiss(reader: RecordingReader) -> None:
    """The audit of a factory run finds nothing."""
    audit = Auditor(reader.header.domains, reader.header.since, whole=True)
    for line in reader.read_messages():
        audit.check(line)
    assert audit.finish().breaches == []


def test_it_is_worth_replaying(reader: RecordingReader) -> None:
    """The recording contains congestion, cuts and patches, not only a quiet stretch."""
    messages = [decode_message(line) for line in reader.read_messages()]
    assert any(isinstance(one, Decision) and one.violated for one in messages)
    assert any(
        isinstance(one, Decision) and target.rule == "cut"
        for one in messages
        if isinstance(one, Decision)
        for target in one.targets
    )
    assert sum(isinstance(one, Action) and one.outcome == "applied" for one in messages) >= 20


def test_every_policy_side_by_side(reader: RecordingReader) -> None:
    """Every policy replays the same stream; the recorded policy decides as recorded."""
    found = compare_policies(reader, build_variants(reader, sorted(POLICIES), ()), silent)
    assert set(found) == {AS_RECORDED, *POLICIES}
    for name, domain in ((one.name, one) for one in reader.header.domains):
        recorded, same = found[AS_RECORDED][name], found[domain.policy][name]
        assert (same.samples, same.limits, same.cuts) == (recorded.samples, recorded.limits, recorded.cuts)
        assert (same.above, same.below) == (0, 0)
        assert len({figures[name].limits for figures in found.values()}) > 2
