"""Rates and durations: quantities are read exactly, and anything else is refused with its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.units import MAX_KBIT, Duration, Rate, decode_unit, encode_unit


@pytest.mark.parametrize(
    ("text", "kbit"),
    [
        ("50M", 50_000),
        ("2.5G", 2_500_000),
        ("800k", 800),
        ("1k", 1),
        ("1T", MAX_KBIT),
        ("1000000", 1000),
        ("1999", 1),
        ("1Mi", 1048),
        (" 5M ", 5000),
        ("0.1M", 100),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, kbit: int) -> None:
    """Bit/s with decimal and binary suffixes, rounded down to kbit/s."""
    assert Rate.parse(text) == kbit


@pytest.mark.parametrize(
    "text", ["", "M", "50MB", "50 M", "-5M", "+5M", "1e6", "0x10", "5m", "NaN", "Infinity", "\uff15M"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """Cilium treats such a value as unlimited, so it must not reach an annotation."""
    with pytest.raises(ValueError, match="is not a rate"):
        Rate.parse(text)


@pytest.mark.parametrize("text", ["0", "999", "0.0001k", "2T", "1001G", "9" * 4000])
def test_what_cannot_be_a_limit_is_refused(text: str) -> None:
    """Below 1 kbit/s Cilium may not limit at all; above 1 Tbit/s it is a mistake."""
    with pytest.raises(ValueError, match=r"outside the rates|is not a rate"):
        Rate.parse(text)


@pytest.mark.parametrize(
    ("annotation", "kbit"),
    [
        ("50M", 50_000),
        ("1e7", 10_000),
        ("10E6", 10_000),
        ("+10e+6", 10_000),
        ("1e007", 10_000),
        ("25E-1M", None),
        ("25e-1", None),
        ("12.5M", 12_500),
        ("5.M", 5_000),
        (".5M", 500),
        ("1E", 10**15),
        ("2P", 2 * 10**12),
        ("2T", 2 * 10**9),
        ("1Pi", 2**50 // 1000),
        ("1Ei", 2**60 // 1000),
        ("9E9", 9 * 10**6),
        ("99E", (2**63 - 1) // 1000),
        ("1e999999999999999999999", (2**63 - 1) // 1000),
        ("9" * 5000, (2**63 - 1) // 1000),
        ("2000000m", 2),
        ("2e9u", None),
        ("5000000000u", 5),
        ("5000000000000n", 5),
        ("999", 1),
        ("8", 1),
        ("7.5", 1),
        ("7", None),
        ("7000m", None),
        ("1e-999999999999999999999", None),
        ("0", None),
        ("-5M", None),
        ("-1e400000", None),
        ("-" + "9" * 250_000, None),
        (None, None),
    ],
)
def test_an_annotation_is_read_as_cilium_reads_it(annotation: str | None, kbit: int | None) -> None:
    """Every Kubernetes quantity, rounded up to bit/s; less than a byte a second is no limit."""
    assert Rate.enforced(annotation) == kbit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        ".",
        "-",
        "fast",
        "5MB",
        "5 M",
        " 5M",
        "5M\n",
        "1e",
        "1e1.5",
        "1i",
        "5K",
        "1,5M",
        "0x10",
        "NaN",
        "Infinity",
        "\uff15M",
    ],
)
def test_an_annotation_that_is_no_quantity_is_no_limit(text: str) -> None:
    """Cilium fails open."""
    assert Rate.enforced(text) is None


@given(st.integers(1, MAX_KBIT))
def test_what_is_written_is_what_is_enforced(kbit: int) -> None:
    """The configuration's notation is a subset of Kubernetes'."""
    assert Rate.enforced(str(Rate(kbit))) == kbit


@given(st.integers(1, MAX_KBIT))
def test_a_rate_is_written_so_that_it_reads_back(kbit: int) -> None:
    """No kbit/s is lost in an annotation."""
    assert Rate.parse(str(Rate(kbit))) == kbit


def test_the_shortest_exact_quantity_is_written() -> None:
    """People read the annotation."""
    written = [str(Rate(kbit)) for kbit in (50_000, 2_500_000, 1_000_000, 2500, 1, 0)]
    assert written == ["50M", "2500M", "1G", "2500k", "1k", "0k"]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("250ms", 250_000_000),
        ("1m30s", 90 * 10**9),
        ("0.5s", 500_000_000),
        ("1h", 3600 * 10**9),
        ("7ns", 7),
        ("3us", 3000),
    ],
)
def test_a_duration_is_read(text: str, ns: int) -> None:
    """As in Prometheus, parts add up."""
    assert Duration.parse(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1d", "0s", "0.1ns", "1s2", "1s,2s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Zero is refused, because no setting may last no time."""
    with pytest.raises(ValueError, match="is not a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    "text", ["277778h", "9" * 31 + "h", "9" * 400 + "h", "1" + "0" * 300_000 + "ns", "277777h46m41s"]
)
def test_a_duration_beyond_31_years_is_refused(text: str) -> None:
    """No date could be told by it, and a float holds none of 400 digits."""
    with pytest.raises(ValueError, match="must be below 31 years") as error:
        Duration.parse(text)
    assert len(str(error.value)) < 300


@given(st.integers(1, 10**18))
def test_a_duration_is_written_so_that_it_reads_back(ns: int) -> None:
    """No nanosecond is lost."""
    assert Duration.parse(str(Duration(ns))) == ns


@pytest.mark.parametrize("value", [50, 5.0, None, True])
def test_a_number_without_a_unit_is_refused(value: object) -> None:
    """``50`` is ambiguous: the error shows the notation."""
    with pytest.raises(ValueError, match="expected a quoted rate such as 50M"):
        decode_unit(Rate, value)
    with pytest.raises(ValueError, match="expected a quoted duration such as 500ms"):
        decode_unit(Duration, value)


def test_only_the_two_units_are_known() -> None:
    """Another type has a decoder of its own, or none."""
    assert encode_unit(Rate(5000)) == "5M"
    assert encode_unit(Duration(1500 * 10**6)) == "1500ms"
    with pytest.raises(NotImplementedError):
        encode_unit(object())
    with pytest.raises(NotImplementedError):
        decode_unit(int, "5")
