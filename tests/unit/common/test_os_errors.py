"""Errors of the operating system, as people read them."""

import errno
import socket
import ssl

import pytest

from services.common.os_errors import describe_os_error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.yaml"), "a.yaml: no such file or directory"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (
            ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed"),
            "certificate verify failed: self-signed",
        ),
        (OSError("no number"), "no number"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_cause_is_named_without_numbers(error: OSError, text: str) -> None:
    """The file where there is one, then the cause."""
    assert describe_os_error(error) == text
