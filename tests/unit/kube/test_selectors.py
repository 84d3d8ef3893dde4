"""Label selectors: written into a request, read back, and matched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kube.selectors import Requirement, Selector, parse_selector

NAMES = st.sampled_from(["app", "tier", "example.org/side", "a.b-c"])
VALUES = st.sampled_from(["", "x", "y-1", "z"])
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        key=NAMES,
        operator=st.sampled_from(["In", "NotIn"]),
        values=st.lists(VALUES, min_size=1, max_size=3, unique=True).map(tuple),
    ),
    st.builds(Requirement, key=NAMES, operator=st.sampled_from(["Exists", "DoesNotExist"])),
)


@given(equal=st.dictionaries(NAMES, VALUES), others=st.lists(REQUIREMENTS), labels=st.dictionaries(NAMES, VALUES))
def test_a_query_matches_as_its_selector(
    equal: dict[str, str], others: list[Requirement], labels: dict[str, str]
) -> None:
    """Query and selector match the same objects, whatever their labels."""
    parsed = parse_selector(Selector(match_labels=equal, match_expressions=tuple(others)).query())
    expected = all(labels.get(key) == value for key, value in equal.items())
    expected = expected and all(one.matches(labels) for one in others)
    assert all(one.matches(labels) for one in parsed) is expected


@pytest.mark.parametrize(
    ("query", "matching", "other"),
    [
        ("app=a", {"app": "a"}, {}),
        ("app==a", {"app": "a"}, {"app": "b"}),
        ("app!=a", {}, {"app": "a"}),
        ("app in (a, b)", {"app": "b"}, {"app": "c"}),
        ("app notin (a,b)", {}, {"app": "a"}),
        ("app", {"app": ""}, {}),
        ("!app", {}, {"app": ""}),
        ("app=a,tier notin (x,y),!gone", {"app": "a", "tier": "z"}, {"app": "a", "tier": "x"}),
    ],
)
def test_every_notation(query: str, matching: dict[str, str], other: dict[str, str]) -> None:
    """Equality, sets and existence, as Kubernetes defines them for present and absent labels."""
    requirements = parse_selector(query)
    assert all(one.matches(matching) for one in requirements)
    assert not all(one.matches(other) for one in requirements)


@pytest.mark.parametrize("query", ["app in a", "=a", "app=a,!!b", "a b"])
def test_what_is_no_selector(query: str) -> None:
    """The error names the unreadable part."""
    with pytest.raises(ValueError, match="unable to parse requirement"):
        parse_selector(query)
