"""The table of the fault tests: which results count as broken, and what is shown beside them."""

import pytest

from tests.support.fault_tally import LATE_S, Broken, Tally


def test_a_fail_safe_limit_is_late_after_its_time() -> None:
    """A limit at exactly that time is not late; the largest delay is shown beside the count."""
    tally = Tally()
    for after in (-1.5, LATE_S, 0.25):
        tally.add("sampler silent", "1 kills", Broken(), after)
    with pytest.raises(AssertionError, match="bus away"):
        tally.add("bus away", "1 outages", Broken(), LATE_S + 0.01)
    shown = [line.split() for line in tally.lines() if "not in this session" not in line][1:]
    assert shown == [
        ["bus", "away", "-", "-", "-", "1", f"{LATE_S + 0.01:+.2f}", "s", "-", "1", "outages"],
        ["sampler", "silent", "-", "-", "-", "0", f"{LATE_S:+.2f}", "s", "-", "3", "kills"],
    ]
