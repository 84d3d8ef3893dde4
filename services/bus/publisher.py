"""Publishes to JetStream, again and again until the server has acknowledged."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from schemas.messages import InvalidMessage, Message, encode
from services.bus import envelope
from services.bus.connection import Denied, LinkDown, NoResponder, TooLarge
from services.bus.session import ANSWER_S, BackOff, Session
from services.bus.subjects import Subjects

_WRONG_LAST = (10071, 10164)
_TOO_LARGE = 10054
_IN_FLIGHT = 1024


class Conflict(Exception):
    """The expected last sequence of the subject was not the last, or the message was published before."""


class Publisher:
    """Puts messages on the streams of one prefix."""

    def __init__(self, session: Session, subjects: Subjects, mend: Callable[[], Awaitable[list[str]]]) -> None:
        """``mend`` is called when a stream is missing, to create it; it gives what is wrong with them."""
        self._session = session
        self._subjects = subjects
        self._mend = mend
        self._slots = asyncio.Semaphore(_IN_FLIGHT)

    async def publish(
        self, subject: str, message: Message, msg_id: str, headers: Mapping[str, str], expect_last: int | None
    ) -> int:
        """See ``Bus.publish``."""
        try:
            body = encode(message)
        except (OverflowError, TypeError, ValueError, RecursionError) as error:
            raise InvalidMessage(f"{msg_id}: {error}") from None
        stream = self._subjects.stream(self._subjects.kind_of(subject))
        sent = {envelope.TRACE: envelope.begun(msg_id), **headers}
        sent |= {envelope.MSG_ID: msg_id, envelope.EXPECTED_STREAM: stream}
        if expect_last is not None:
            sent[envelope.EXPECTED_LAST] = str(expect_last)
        async with self._slots:
            answer = await self._published(subject, body, sent)
        if expect_last is not None and answer.get("duplicate"):
            raise Conflict(f"{subject}: {msg_id} was published before")
        return int(answer["seq"])

    async def _published(self, subject: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        back_off = BackOff()
        while True:
            try:
                link = await self._session.link()
                answer: dict[str, Any] = json.loads(await link.ask(subject, body, ANSWER_S, headers))
                if "error" not in answer:
                    self._session.recovered(subject)
                    return answer
                reason = _refusal(subject, answer["error"])
            except (Conflict, TooLarge):
                self._session.recovered(subject)
                raise
            except NoResponder as error:
                reason = "; ".join([str(error), *await self._mend()])
            except (LinkDown, Denied) as error:
                reason = str(error)
            self._session.troubled(subject, reason)
            await back_off.wait()


def _refusal(subject: str, error: dict[str, Any]) -> str:
    """Why the server did not store a message, where trying again can help.

    Raises:
        Conflict: it expected another last sequence.
        TooLarge: it takes no message of that size.
    """
    code, text = error.get("err_code", 0), error.get("description", "")
    if code in _WRONG_LAST:
        raise Conflict(f"{subject}: {text}")
    if code == _TOO_LARGE:
        raise TooLarge(f"{subject}: {text}")
    return f"{subject}: {text} ({code})"
