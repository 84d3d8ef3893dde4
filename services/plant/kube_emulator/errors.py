"""The error answer of the emulator: a Kubernetes ``Status``."""

from typing import Any


class StatusError(Exception):
    """A refused request: the HTTP status code, the machine-readable reason, and a message for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Say why."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def invalid(cls, message: str) -> "StatusError":
        """422: the object that would result is not allowed."""
        return cls(422, "Invalid", message)

    def body(self) -> dict[str, Any]:
        """The refusal as a ``Status`` object."""
        return {
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Failure",
            "reason": self.reason,
            "message": self.message,
            "code": self.status,
        }
