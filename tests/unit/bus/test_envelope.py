"""Headers, traces, and the server's metadata of a delivery."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bus import envelope
from services.bus.envelope import Delivery, RawMessage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.text())
def test_a_trace_begins_the_same_way_every_time(msg_id: str) -> None:
    """A message that is published again after a crash has the same ids, in W3C's format."""
    first = envelope.trace_message(msg_id, {})
    assert first == envelope.trace_message(msg_id, {})
    version, trace, span, flags = first.split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")


@given(st.text(), st.text())
def test_a_trace_goes_on_with_a_span_of_its_own(one: str, other: str) -> None:
    """The trace id and the flags stay, the span is new for each message."""
    child = envelope.trace_message(one, {"traceparent": PARENT})
    assert child.split("-")[1] == PARENT.split("-")[1]
    assert child.split("-")[2] != PARENT.split("-")[2]
    assert (child == envelope.trace_message(other, {"traceparent": PARENT})) == (one == other)


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "nonsense",
        PARENT.upper(),
        PARENT + "\n",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
    ],
)
def test_a_cause_without_a_readable_trace_begins_one(parent: str | None) -> None:
    """An unreadable foreign header is not passed on."""
    headers = {} if parent is None else {"traceparent": parent}
    assert envelope.trace_message("m", headers) == envelope.trace_message("m", {})


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.ACK.SLUICE_SAMPLE.decision.3.17.21.1790000000000000007.4",
        "$JS.ACK._.ACCOUNT.SLUICE_SAMPLE.decision.3.17.21.1790000000000000007.4",
        "$JS.ACK.hub.ACCOUNT.SLUICE_SAMPLE.decision.3.17.21.1790000000000000007.4.token",
    ],
)
def test_a_delivery_is_read_from_its_acknowledgement_subject(subject: str) -> None:
    """Servers write it with and without domain, account and a last token."""
    assert Delivery.parse(subject) == Delivery(seq=17, count=3, number=21, published=1790000000000000007)


@pytest.mark.parametrize("subject", ["", "$JS.ACK.x", "_INBOX.a.b", "$JS.ACK.S.c.a.b.c.d.e"])
def test_another_subject_is_no_delivery(subject: str) -> None:
    """A message from another subject has no sequence."""
    with pytest.raises(ValueError, match=r"acknowledgement|invalid literal"):
        Delivery.parse(subject)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-11-23T18:36:32.034923907Z", 1795458992034923907),
        ("2026-11-23T18:36:32.0349Z", 1795458992034900000),
        ("2026-11-23T18:36:32Z", 1795458992000000000),
        ("1970-01-01T00:00:00.000000001Z", 1),
    ],
)
def test_server_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    """Go writes no trailing zeros."""
    assert envelope.parse_time(text) == ns


def test_a_stored_message_is_read_with_its_headers() -> None:
    """The answer of ``STREAM.MSG.GET``, with and without headers and body."""
    headers = base64.b64encode(b"NATS/1.0\r\nNats-Msg-Id: a:1\r\nX: \xff\r\n\r\n").decode()
    bare = {"subject": "s", "seq": "7", "time": "1970-01-01T00:00:01Z"}
    full = envelope.parse_stored({**bare, "hdrs": headers, "data": base64.b64encode(b"{}").decode()})
    assert full == RawMessage("s", {"Nats-Msg-Id": "a:1", "X": "\ufffd"}, b"{}", 7, 10**9)
    assert envelope.parse_stored(bare) == RawMessage("s", {}, b"", 7, 10**9)


def test_a_dead_letter_keeps_the_beginning_of_the_message() -> None:
    """Enough for a person to recognize it."""
    letter = envelope.build_dead_letter(RawMessage("s", {}, b"\xff" * 10_000, 7, 1), "decision", "not JSON")
    assert base64.b64decode(letter.body) == b"\xff" * 4096
    assert (letter.subject, letter.service, letter.reason, letter.seq) == ("s", "decision", "not JSON", 7)
