"""What the API server's error answers are read as: the kind of failure, and for how long it asks to be left alone."""

import json
import time
from email.utils import formatdate

import pytest

from services.kube.objects import ApiFailure, NotFound, Rejected, StaleObject, Unavailable, raise_for_status


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, Rejected) for code in (400, 401, 403, 405, 415)),
        *((code, NotFound) for code in (404, 410)),
        *((code, StaleObject) for code in (409, 422)),
        *((code, Unavailable) for code in (301, 402, 408, 413, 429, 499, 500, 502, 503, 504, 520)),
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b'{"details": 5}', b'{"details": {"retryAfterSeconds": "x"}}', b"\xff"]
)
def test_any_body_makes_an_error_of_its_status(code: int, kind: type[Exception], body: bytes) -> None:
    """Whatever a proxy sends with it."""
    with pytest.raises(kind) as error:
        raise_for_status(code, body, None)
    assert str(error.value).startswith(str(code))


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("5", None, 5),
        (" 5 ", None, 5),
        ("0", {"retryAfterSeconds": 7}, 0),
        (None, {"retryAfterSeconds": 7}, 7),
        ("soon", {"retryAfterSeconds": 7, "kind": "pods"}, 7),
        ("-3", None, None),
        ("1e9", None, None),
        (None, {"retryAfterSeconds": -7}, None),
        (None, None, None),
        ("Wed, 99 Xyz 2026 00:00:00 GMT", None, None),
        ("Fri, 27 Nov 2020 22:00:00 GMT", None, 0),
    ],
)
@pytest.mark.parametrize("code", [403, 409, 422, 429, 503, 504])
def test_a_server_may_ask_for_time_in_several_ways(
    code: int, header: str | None, details: object, seconds: float | None
) -> None:
    """By a number or a date in the header, or in the body, with whatever status."""
    body = json.dumps({"kind": "Status", "code": code, "details": details}).encode()
    with pytest.raises(ApiFailure) as error:
        raise_for_status(code, body, header)
    assert error.value.retry_after_s == seconds


def test_a_date_is_taken_as_seconds_from_now() -> None:
    """As proxies write it."""
    with pytest.raises(Unavailable) as error:
        raise_for_status(503, b"", formatdate(time.time() + 30, usegmt=True))
    assert error.value.retry_after_s is not None
    assert 20 < error.value.retry_after_s < 31
