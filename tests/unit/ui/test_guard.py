"""Who may ask: names that lead here by DNS rebinding, other sites' forms and scripts, and users of a proxy."""

import pytest
from aiohttp.test_utils import make_mocked_request

from services.ui.guard import LOOPBACK, explain_refusal, parse_host


def refuse(method: str = "GET", path: str = "/", header: str | None = None, **headers: str) -> str | None:
    """Why a request is refused."""
    sent = {"Host": "127.0.0.1:9970"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return explain_refusal(make_mocked_request(method, path, headers=sent), LOOPBACK, header)


@pytest.mark.parametrize(
    ("header", "host"),
    [("LOCALHOST:80", "localhost"), ("[::1]:9970", "::1"), ("a.example.", "a.example"), ("", ""), ("[::1", "::1")],
)
def test_the_name_in_a_host_header(header: str, host: str) -> None:
    """Without its port, in lower case."""
    assert parse_host(header) == host


@pytest.mark.parametrize(
    "host", ["evil.example:9970", "127.0.0.1.evil.example", "", "127.0.0.2", "localhost.evil.example"]
)
def test_another_host_is_refused(host: str) -> None:
    """By name; but a kubelet's probe may call the pod by its address."""
    assert "this page is not" in str(refuse(Host=host))
    assert refuse(path="/healthz", Host=host) is None


def test_only_the_page_itself_may_send_anything() -> None:
    """A form or a script of another site may not, nor any method that would change something."""
    assert refuse("POST", Content_Type="application/json") is None
    assert refuse("POST", Content_Type="application/json", Sec_Fetch_Site="same-origin") is None
    assert "only the page itself" in str(refuse("POST", Content_Type="application/json", Sec_Fetch_Site="cross-site"))
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert "a body must be" in str(refuse("POST", Content_Type=kind))
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert "it only reads" in str(refuse(method))


def test_a_proxy_must_name_the_user_where_that_is_asked_for() -> None:
    """The header's value is not judged: the proxy has done that."""
    assert "must name a user" in str(refuse(header="X-Forwarded-User"))
    assert refuse(header="X-Forwarded-User", X_Forwarded_User="ada") is None
