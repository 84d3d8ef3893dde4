"""Recordings of the factory on real packets: this build makes every decision of them again, byte for byte.

After an intended change of the control core, ``make golden`` (as root) records them again.
"""

from pathlib import Path

import pytest

from schemas.messages import Action, Decision
from services.control import POLICIES
from services.tools.audit.auditor import Audit
from services.tools.common.formatting import read
from services.tools.common.recording import Reader
from services.tools.replay.command import variants_of
from services.tools.replay.offline import AS_RECORDED, again, what_if

FILES = sorted(Path(__file__).parent.glob("*.jsonl.zst"))
LARGEST = 300_000


def silent(_: int) -> None:
    """No progress bar."""


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def reader(request: pytest.FixtureRequest) -> Reader:
    """Each recording."""
    return Reader(request.param)


def test_there_are_recordings() -> None:
    """There is one of each policy that the other tests cover, and the files stay small."""
    assert {domain.policy for file in FILES for domain in Reader(file).header.domains} == {"learned", "proportional"}
    assert all(path.stat().st_size < LARGEST for path in FILES)


def test_every_decision_is_made_again(reader: Reader) -> None:
    """What a live service decided on real packets comes out the same from the file alone."""
    tallies = again(reader, silent)
    assert reader.problems == []
    for tally in tallies.values():
        assert tally.differences == []
        assert tally.notes == []
        assert tally.identical >= 50
        assert tally.identical == tally.samples - tally.refused - tally.waiting


def test_the_audit_finds_nothing(reader: Reader) -> None:
    """A factory run breaks no rule of the audit."""
    audit = Audit(reader.header.domains, reader.header.since, whole=True)
    for line in reader.lines():
        audit.take(line)
    assert audit.end().breaks == []


def test_it_is_worth_replaying(reader: Reader) -> None:
    """Congestion was met, limits were cut and patched: not a quiet stretch."""
    messages = [read(line) for line in reader.lines()]
    assert any(isinstance(one, Decision) and one.violated for one in messages)
    assert any(
        isinstance(one, Decision) and target.rule == "cut"
        for one in messages
        if isinstance(one, Decision)
        for target in one.targets
    )
    assert sum(isinstance(one, Action) and one.outcome == "applied" for one in messages) >= 20


def test_every_policy_side_by_side(reader: Reader) -> None:
    """Each policy there is takes the same stream; the recorded one decides as recorded."""
    found = what_if(reader, variants_of(reader, sorted(POLICIES), ()), silent)
    assert set(found) == {AS_RECORDED, *POLICIES}
    for name, domain in ((one.name, one) for one in reader.header.domains):
        recorded, same = found[AS_RECORDED][name], found[domain.policy][name]
        assert (same.samples, same.limits, same.cuts) == (recorded.samples, recorded.limits, recorded.cuts)
        assert (same.above, same.below) == (0, 0)
        assert len({figures[name].limits for figures in found.values()}) > 2
