"""Subjects: any name fits into one token and can be decoded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus.subjects import KINDS, Subjects, parse_token, token

NAMES = st.text(st.characters(exclude_categories=["Cs"]))


@given(NAMES)
def test_a_name_survives_its_token(name: str) -> None:
    """Dots, wildcards, spaces and letters of all scripts survive."""
    assert parse_token(token(name)) == name


@given(NAMES)
def test_a_token_is_one_token(name: str) -> None:
    """It contains no separator, wildcard or line break."""
    assert set(token(name)) & set(". *>\r\n\t") == set()
    assert token(name)


@given(NAMES, NAMES)
def test_different_names_have_different_tokens(one: str, other: str) -> None:
    """No domain receives another's samples."""
    assert (token(one) == token(other)) == (one == other)


@pytest.mark.parametrize("text", ["a.b", "=G1", "=2e", "a b", "*", ""])
def test_what_is_no_token_is_refused(text: str) -> None:
    """A foreign subject is not decoded as a name."""
    with pytest.raises(ValueError, match="is not a token"):
        parse_token(text)


def test_subjects_as_the_manifests_permit_them() -> None:
    """The server's permissions contain these patterns, so they must not change."""
    subjects = Subjects()
    assert subjects.sample("line 1") == "sluice.sample.v1.line=201"
    assert subjects.decision("line.1") == "sluice.decision.v1.line=2E1"
    assert subjects.action("line", "factory/upload") == "sluice.action.v1.line.factory.upload"
    assert subjects.dead("decision") == "sluice.dead.v1.decision"
    assert [subjects.every(kind) for kind in KINDS] == [f"sluice.{kind}.v1.>" for kind in KINDS]
    assert subjects.stream("sample") == "SLUICE_SAMPLE"
    assert Subjects("re-play").stream("action") == "RE_PLAY_ACTION"


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_subject(kind: str) -> None:
    """Every subject of a kind decodes to that kind."""
    assert Subjects("other").kind_of(f"other.{kind}.v1.x") == kind


@pytest.mark.parametrize(
    "subject", ["", "sluice", "sluice.sample.v1", "other.sample.v1.x", "sluice.song.v1.x", "sluice.sample.v2.x"]
)
def test_foreign_subjects_are_refused(subject: str) -> None:
    """Another prefix, kind or version is refused."""
    with pytest.raises(ValueError, match="is not a subject of sluice"):
        Subjects().kind_of(subject)


@pytest.mark.parametrize("prefix", ["", "Sluice", "a.b", "a b", "*", "a_b"])
def test_a_prefix_is_one_lowercase_token(prefix: str) -> None:
    """Stream names and permissions contain it."""
    with pytest.raises(ValueError, match="bus prefix"):
        Subjects(prefix)
