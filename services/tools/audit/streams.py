"""First check of an audit: is the range whole, and in order?"""

from typing import Any

from msgspec import Struct

from services.tools.common.recording import RecordedMessage

_KEPT = 5_000
_MOST_LISTED = 20_000


class Breach(Struct, frozen=True):
    """One rule that is broken, and where."""

    rule: str
    """``whole``, ``cause``, ``sequence``, ``decision``, ``bounds``, ``fence`` or ``chain``."""
    where: str
    """A domain, a target, or a kind of message."""
    what: str
    time: int = 0
    """Of the message that shows it, UTC ns; 0 where none does."""


def forget_oldest(entries: dict[str, Any]) -> bool:
    """Bound a table to its newest entries, so that an audit takes constant memory; return whether any went."""
    full = len(entries) > _KEPT
    while len(entries) > _KEPT:
        del entries[next(iter(entries))]
    return full


class SequenceAudit:
    """Checks the sequences of each kind's stream: none missing, none out of order."""

    def __init__(self, since: int, *, whole: bool) -> None:
        """Begin.

        Args:
            since: messages from before it (UTC ns) were picked, and leave gaps.
            whole: whether all domains are here; the sequences of some have gaps by nature.
        """
        self._since = since
        self._whole = whole
        self._last: dict[str, RecordedMessage] = {}
        self.breaches: list[Breach] = []
        self.notes: list[str] = []

    def check(self, message: RecordedMessage) -> None:
        """Check the next message."""
        kind, seq = message.kind, message.seq
        if kind == "definition":
            return  # of each domain the last ones are kept, whatever lies between them
        last = self._last.get(kind)
        self._last[kind] = message
        if last is None or last.time < self._since:
            return
        what = None
        if message.time < last.time:
            what = f"{kind} {seq} follows {last.seq}, which the bus stored later: out of order"
        elif seq == last.seq or (self._whole and 1 < seq < last.seq):
            what = f"{kind} {seq} follows {last.seq}: repeated, or out of order"
        elif seq < last.seq:
            self.notes.append(f"the stream of {kind}s restarted after {last.seq}: it was wiped")
        elif self._whole and seq > last.seq + 1:
            missing = f"{last.seq + 1}" + (f" to {seq - 1}" if seq > last.seq + 2 else "")
            what = f"{kind} {missing} missing"
        if what is not None and len(self.breaches) < _MOST_LISTED:
            self.breaches.append(Breach("whole", kind, what, message.time))
