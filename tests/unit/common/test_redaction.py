"""Addresses are shown without their passwords."""

import logging

import pytest
import structlog

from services.common.redaction import hide_passwords
from services.runtime import logging_setup
from services.runtime.health import Health


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://u:p@host:4222: refused", "nats://***@host:4222: refused"),
        ("nats://u:p@ss@a:1, tls://token@b", "nats://***@a:1, tls://***@b"),
        ("see http://host/a@b", "see http://host/a@b"),
        ("mail me@example.com", "mail me@example.com"),
    ],
)
def test_only_credentials_are_hidden(text: str, shown: str) -> None:
    """User, password and token go, whatever else stays."""
    assert hide_passwords(text) == shown


def test_pages_show_no_password() -> None:
    """Neither a condition nor a note."""
    health = Health("bus")
    health.set_condition("bus", "nats://u:hidden@h: no answer")
    health.set_failed("source", "http://u:hidden@p: 401")
    health.set_note("a", "http://u:hidden@p")
    assert "hidden" not in f"{health.problems} {health.notes}"


def test_logs_show_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is logged, by whatever library."""
    before = logging.getLogger().handlers[:]
    try:
        logging_setup.configure("test", "info")
        logging.getLogger("library").warning("cannot reach %s", "http://u:hidden@p")
        logging.getLogger().handlers[0].flush()
    finally:
        logging.getLogger().handlers[:] = before
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    written = capsys.readouterr().err
    assert "http://***@p" in written
    assert "hidden" not in written
