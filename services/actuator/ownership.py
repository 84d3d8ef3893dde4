"""What the actuator leaves on every object that it patches, under a key of its own.

It is the actuator's only memory that outlives it: what was found, so that ``restore`` can put it
back; what was written and from which decision, so that nothing older is put in force; and which
reports the bus has not acknowledged, so that a crash loses none.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from schemas.messages import Cause
from services.kube.objects import Thing

KEY = "sluice.dev/limit"
HAND_OVER = "{}"
"""The key's value by which a person gives a target that Sluice let go of back to it."""
MOST_OWED = 64
"""An object that owes the reports of so many writes is only cut."""
ROOM = 512
"""So many fit, with a wide margin, into the 256 KiB that an object's annotations may take."""


class Written(Struct, frozen=True, omit_defaults=True):
    """One write: enough to report the action that it belongs to."""

    action: str
    """Id of the action."""
    cause: Cause
    value: str
    """What was written as the bandwidth."""
    limit: int
    """The target's limit, kbit/s."""
    at: int
    """When it was written, UTC ns."""
    decision: str | None = None
    """Id of the decision that the limit comes from; None where it comes from none."""
    epoch: int = 0
    seq: int = 0
    end: int | None = None
    """End of the sample that the decision answers, UTC ns: the fence."""
    decided: int | None = None
    """When the decision was published, UTC ns."""
    expires: int | None = None
    """Until when the decision holds, UTC ns."""
    was: int | None = None
    """The Deployment's limit before, kbit/s."""


class Record(Written, frozen=True, omit_defaults=True):
    """The annotation's content."""

    found: str | None = None
    """The bandwidth before Sluice first wrote; None: there was none."""
    term: int = 0
    """Counts the actuators that have been in charge: a later one deposes an earlier one."""
    by: str = ""
    """The actuator process that wrote."""
    owed: tuple[Written, ...] = ()
    """Earlier writes whose actions the bus has not acknowledged, oldest first."""
    v: int = 1

    @property
    def writes(self) -> tuple[Written, ...]:
        """All writes that may have to be reported, oldest first."""
        return (*self.owed, self)


class UnreadableRecord(ValueError):
    """The annotation under our key is not what this build writes."""


_decoder = msgspec.json.Decoder(Record)


def record_of(thing: Thing) -> Record | None:
    """What an object carries; None where Sluice never wrote, or was handed over to.

    Raises:
        UnreadableRecord: somebody else wrote the annotation, or a build with other ideas.
    """
    text = thing.annotations.get(KEY)
    if text is None or text.strip() == HAND_OVER:
        return None
    try:
        record = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise UnreadableRecord(f"{KEY} cannot be read: {error}") from None
    if record.v != 1:
        raise UnreadableRecord(f"{KEY} is of version {record.v}; this build reads version 1")
    return record


def readable_record(thing: Thing) -> Record | None:
    """What an object carries; None as well where it cannot be read."""
    try:
        return record_of(thing)
    except UnreadableRecord:
        return None


def newest(records: Iterable[Record | None], latest: int) -> Record | None:
    """The record of the newest decision, and of those on the same one the last written.

    Args:
        records: to choose from.
        latest: a decision on a sample that ends later, UTC ns, was written under a wrong clock.
    """
    fitting = [one for one in records if one is not None and (one.end is None or one.end <= latest)]
    return max(fitting, key=lambda one: (one.end or 0, one.at), default=None)


def write_record(record: Record) -> str:
    """The annotation's content."""
    return msgspec.json.encode(record).decode()


def operations(thing: Thing, wanted: dict[str, str | None]) -> list[dict[str, Any]]:
    """JSON Patch operations that set or remove (None) annotations, if they still are as they were seen.

    Args:
        thing: the object as it was seen.
        wanted: the annotations to change, all of which are guarded, whether their values differ or not.
    """
    if thing.metadata.annotations is None:
        added = {key: value for key, value in wanted.items() if value is not None}
        whole = "/metadata/annotations"
        return [{"op": "test", "path": whole, "value": None}, {"op": "add", "path": whole, "value": added}]
    seen = thing.annotations
    guards = [{"op": "test", "path": _path(key), "value": seen.get(key)} for key in wanted]
    changes: list[dict[str, Any]] = []
    for key, value in wanted.items():
        if value is not None:
            changes.append({"op": "add", "path": _path(key), "value": value})
        elif key in seen:
            changes.append({"op": "remove", "path": _path(key)})
    return [*guards, *changes]


def _path(key: str) -> str:
    return f"/metadata/annotations/{key.replace('~', '~0').replace('/', '~1')}"
