"""First check of an audit: is the stretch whole, and in order?"""

from typing import Any

from msgspec import Struct

from services.tools.common.recording import Line


class Break(Struct, frozen=True):
    """One thing that is not as it must be."""

    rule: str
    """What was checked: ``whole``, ``cause``, ``sequence``, ``decision``, ``bounds``, ``fence`` or ``chain``."""
    where: str
    """A domain, a target, or a kind of message."""
    what: str
    time: int = 0
    """Of the message that shows it, UTC ns; 0 where none does."""


_KEPT = 5_000


def bounded(entries: dict[str, Any]) -> bool:
    """Forget the oldest of what is kept to look things up: an audit takes constant memory.  Whether it did."""
    full = len(entries) > _KEPT
    while len(entries) > _KEPT:
        del entries[next(iter(entries))]
    return full


class Streams:
    """Sequences of each kind's stream: none missing, none out of order."""

    def __init__(self, since: int, *, whole: bool) -> None:
        """Begin.

        Args:
            since: messages from before it (UTC ns) were picked, and leave gaps.
            whole: whether all domains are here; of some, sequences have gaps by nature.
        """
        self._since = since
        self._whole = whole
        self._last: dict[str, Line] = {}
        self.breaks: list[Break] = []
        self.notes: list[str] = []

    def take(self, line: Line) -> None:
        """The next message."""
        last = self._last.get(line.kind)
        self._last[line.kind] = line
        if last is None or last.time < self._since:
            return
        if line.time < last.time:
            told = f"{line.kind} {line.seq} follows {last.seq}, which the bus stored later: out of order"
            self.breaks.append(Break("whole", line.kind, told, line.time))
        elif line.seq == last.seq or (self._whole and 1 < line.seq < last.seq):
            told = f"{line.kind} {line.seq} follows {last.seq}: repeated, or out of order"
            self.breaks.append(Break("whole", line.kind, told, line.time))
        elif line.seq < last.seq:
            self.notes.append(f"the stream of {line.kind}s began anew after {last.seq}: it was wiped")
        elif self._whole and line.seq > last.seq + 1:
            missing = f"{last.seq + 1}" + (f" to {line.seq - 1}" if line.seq > last.seq + 2 else "")
            self.breaks.append(Break("whole", line.kind, f"{line.kind} {missing} missing", line.time))
