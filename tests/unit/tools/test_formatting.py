"""Rates as text: no change may look like none."""

import pytest

from services.tools.common.formatting import format_change, format_pair


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (50_000, 45_000, "50.0M -> 45.0M"),
        (50_000, 50_000, "stays 50.0M"),
        (67_012, 66_981, "67.012M -> 66.981M"),
        (1_040, 960, "1.0M -> 960k"),
        (999, 998, "999k -> 998k"),
        (1_000, 1_001, "1.000M -> 1.001M"),
    ],
)
def test_a_change_is_written_in_as_many_digits_as_it_needs(before: int, after: int, text: str) -> None:
    """And no change as none."""
    assert format_change(before, after) == text


def test_an_unknown_rate_has_no_digits() -> None:
    """Beside one that is known."""
    assert format_pair(None, 67_012) == ("-", "67.0M")
    assert format_pair(None, None) == ("-", "-")
