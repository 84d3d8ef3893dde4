"""The record that the actuator leaves on every object it patches, and which actuator is in charge by it.

The record is the actuator's only memory that survives it: what was found, so that ``restore`` can put it
back; what was written and for which decision, so that no older decision is applied; and which reports
the bus has not acknowledged, so that a crash loses none.

The record on the workload counts terms: a later actuator takes the next term with its first write, and the
others become standby.  A standby actuator still receives decisions.  If a write is due and missing, it concludes
that the one in charge is gone, and takes the next term.  With a Lease its holder is in charge, and takes the next term
with its next write; the others wait for the Lease alone.  The times are seconds by a steady clock.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from schemas import numbers
from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.domain import Domain, Target
from schemas.messages import Cause
from schemas.numbers import MOST_RATE, Term, Time
from schemas.provenance import Provenance
from schemas.units import Rate
from services.actuator.shards.lease import Charge
from services.kube.objects import BANDWIDTH, KubeObject, Workload

KEY = "sluice.dev/limit"
PAUSED = "sluice.dev/paused"
"""The annotation by which a person pauses a target: any value but ``false``, such as a reason."""
RESUMED = "{}"
"""The annotation's value by which a person gives a target that Sluice let go of back to it."""
VERSION = 1
PART = "@"
"""Stands in the name of a part of a target, and in none of the API: what it has on one instance's nodes."""
RAISE_BACKLOG = 64
"""An object with so many unacknowledged writes is only cut, not raised."""
MAX_BACKLOG = 512
"""So many writes fit, with a wide margin, into the 256 KiB that an object's annotations may take."""
_LAPSED_S = 0.5
"""How long after the dead-man fired the one in charge has to apply the fail-safe limit, at most."""
_LEASED_S = 1.0
"""How often to look again while another holds the Lease."""
_RIVAL_S = 600.0
"""Another actuator that has written nothing for so long no longer counts as running."""


class WriteRecord(Provenance, frozen=True, omit_defaults=True, kw_only=True):
    """One write: enough to report the action that it belongs to."""

    action: str
    """Id of the action."""
    cause: Cause
    value: str
    """The bandwidth that was written."""
    limit: numbers.Rate
    """The target's limit, kbit/s."""
    at: Time
    """When it was written, UTC ns."""
    was: numbers.Rate | None = None
    """The limit on the workload before, kbit/s."""


class OwnershipRecord(WriteRecord, frozen=True, omit_defaults=True, kw_only=True):
    """The annotation's content: the last write, and what the object has to be remembered for."""

    found: str | None = None
    """The bandwidth before Sluice first wrote; None: there was none."""
    term: Term = 0
    """Counts the actuators that have been in charge: a later one deposes an earlier one."""
    by: str = ""
    """The actuator process that wrote."""
    scope: str = ""
    """What the limit is for, as the target had it; empty: a build wrote it that did not say so, and it may be any."""
    owed: tuple[WriteRecord, ...] = ()
    """Earlier writes whose actions the bus has not acknowledged, oldest first."""
    v: int = VERSION

    @property
    def writes(self) -> tuple[WriteRecord, ...]:
        """All writes that may have to be reported, oldest first."""
        return (*self.owed, self) if self.action else self.owed


_ABSURD = re.compile(r":\s*-?\d{20}")
_decoder = msgspec.json.Decoder(OwnershipRecord)


class _AnyRecord(Struct, frozen=True):
    """What every record is known by."""

    action: str = ""


class _LaterRecord(Struct, frozen=True):
    """What every version's record has."""

    v: int


def find_record(obj: KubeObject | None) -> OwnershipRecord | None:
    """Read an object's record; None where there is none that can be read, see ``why_unreadable``.

    A record of a later version is read as far as this one knows it: it must not keep the fail-safe limit away.
    """
    text = None if obj is None else obj.annotations.get(KEY)
    if obj is None or text is None or text.strip() == RESUMED:
        return None
    try:
        record = None if _ABSURD.search(text) else _decoder.decode(text)
    except DECODE_ERRORS:
        record = None
    if record is None or (record.v > VERSION and Rate.enforced(record.value) is None):
        # What a later version writes there cannot be compared with the annotation.
        return _salvage_record(obj, text)
    return record


def why_unreadable(obj: KubeObject) -> str | None:
    """Why an object has a text in the place of its record, which another client wrote.

    None where it has a record, or none at all: Sluice never wrote, or a person handed the object back.
    """
    text = obj.annotations.get(KEY, RESUMED)
    if text.strip() == RESUMED or find_record(obj) is not None:
        return None
    try:
        _decoder.decode(text)
    except DECODE_ERRORS as error:
        if not _ABSURD.search(text):
            return f"{KEY} cannot be read: {describe_decode_error(error)}"
    return f"{KEY} cannot be read: a number needs more than 64 bits"


def _salvage_record(obj: KubeObject, text: str) -> OwnershipRecord | None:
    """Keep of a later version's record what was found before Sluice, and who wrote; None where it is no record.

    What the object carries counts as written by Sluice, under no decision.
    """
    try:
        version = msgspec.json.decode(text, type=_LaterRecord).v
        fields = msgspec.json.decode(text)
    except DECODE_ERRORS:
        return None
    if version <= VERSION:
        return None
    kept = {name: fields[name] for name in ("found", "by") if isinstance(fields.get(name), str)}
    with suppress(msgspec.ValidationError):  # who counts in another way, or absurdly, is not in charge
        kept["term"] = msgspec.convert(fields.get("term"), Term)
    limit = min(obj.limit or 0, MOST_RATE)
    return OwnershipRecord(action="", cause="start", value=obj.bandwidth or "", limit=limit, at=0, v=version, **kept)


def names_target(obj: KubeObject, target: str) -> bool:
    """Whether an object's record, of whichever version, is of a write for this target, or for a part of it."""
    try:
        action = msgspec.json.decode(obj.annotations.get(KEY, "{}"), type=_AnyRecord).action
    except DECODE_ERRORS:
        return False
    return action.startswith((f"{target}:", f"{target}{PART}"))


class Extent(Struct, frozen=True):
    """What one limit is for: a whole target, whose workload carries it, or its Pods on one instance's nodes.

    A part has its records on its Pods alone.  The workload carries the sum of all parts, which says of none whose
    decision is in force there.
    """

    name: str
    """Begins the ids of its actions: the target's key, and of a part its place."""
    is_part: bool = False

    @classmethod
    def of(cls, domain: Domain, target: Target) -> "Extent":
        """What a domain limits of a target."""
        return cls(domain.name_part(target.key), bool(domain.on))

    def find_record(self, obj: KubeObject | None) -> OwnershipRecord | None:
        """Read an object's record, unless that is of a limit for other Pods than these."""
        record = find_record(obj)
        if record is None or not record.action:
            return record
        place = f"{self.name}:" if self.is_part else f"{self.name}{PART}"
        return record if record.action.startswith(place) == self.is_part else None


def pause_reason(workload: Workload, *, managed: bool) -> str | None:
    """Say why a target must be left alone; None where it may be written.

    Args:
        workload: as it was last seen.
        managed: whether this process has seen Sluice's record on it.
    """
    if workload.annotations.get(PAUSED, "false") != "false":
        return f"{PAUSED} says {workload.annotations[PAUSED]!r}"
    record = find_record(workload)
    if record is None:
        if managed and workload.annotations.get(KEY) is None:
            return f"its {KEY} was removed: it was restored, or replaced by somebody else"
        return why_unreadable(workload)
    if workload.bandwidth is None or workload.has_bandwidth(record.value):
        return None
    return f"somebody else set {BANDWIDTH} to {workload.bandwidth!r}; Sluice had set {record.value!r}"


def resume_command(workload: Workload) -> str:
    """The command by which a person gives a paused target back to Sluice."""
    meta, ((key, value),) = workload.metadata, resume_annotation(workload).items()
    change = f"{key}-" if value is None else f"{key}='{value}' --overwrite"
    return f"kubectl -n {meta.namespace} annotate {workload.kind.lower()} {meta.name} {change}"


def resume_annotation(workload: Workload) -> dict[str, str | None]:
    """The annotation that gives a paused target back to Sluice: its value, or None to remove it."""
    if workload.annotations.get(PAUSED, "false") != "false":
        return {PAUSED: None}
    return {BANDWIDTH: None} if find_record(workload) is not None else {KEY: RESUMED}


def build_patch(obj: KubeObject, desired: dict[str, str | None]) -> list[dict[str, Any]]:
    """Build a JSON Patch that sets or removes (None) annotations if they still are as they were seen.

    Args:
        obj: the object as it was seen.
        desired: the annotations to change; each is guarded by a test, whether its value differs or not.
    """
    if obj.metadata.annotations is None:
        added = {key: value for key, value in desired.items() if value is not None}
        whole = "/metadata/annotations"
        return [{"op": "test", "path": whole, "value": None}, {"op": "add", "path": whole, "value": added}]
    seen = obj.annotations
    paths = {key: f"/metadata/annotations/{key.replace('~', '~0').replace('/', '~1')}" for key in desired}
    operations: list[dict[str, Any]] = [{"op": "test", "path": paths[key], "value": seen.get(key)} for key in desired]
    for key, value in desired.items():
        if value is not None:
            operations.append({"op": "add", "path": paths[key], "value": value})
        elif key in seen:
            operations.append({"op": "remove", "path": paths[key]})
    return operations


class Succession:
    """One target's actuator in charge, as this process sees it."""

    def __init__(self, process: str, dead_man_s: float, charge: Callable[[float], Charge]) -> None:
        """Begin without a term; ``process`` names this actuator, and ``charge`` asks the Lease who acts."""
        self._charge = charge
        self.term: int | None = None
        """This process's term, once it has written the workload."""
        self.next_term = 1
        """A term after that of the one in charge."""
        self._process = process
        self._dead_man_s = dead_man_s
        self._missing_since: float | None = None
        """Since when a due write has been missing."""
        self._last_seen = ""
        """The last action of the one in charge."""
        self._lost = 0
        """How often a take-over was undone by another."""
        self._rival_at = float("-inf")
        self._wrote_at = float("-inf")

    def define(self, dead_man_s: float) -> None:
        """Go by another dead-man time from now on."""
        self._dead_man_s = dead_man_s

    def is_deposed(self, record: OwnershipRecord | None, now: float) -> bool:
        """Whether another is in charge: by the Lease, or because it wrote later; ``record`` has the latest term."""
        self.next_term = 1 if record is None else 1 + record.term
        charge = self._charge(now)
        if charge is Charge.MINE:
            if record is not None and record.by != self._process:
                self.term = None  # of the next write, which then is later than the other's
            return False
        if charge is Charge.OTHERS:
            return True
        if record is None or self.term is None or record.by == self._process or record.term < self.term:
            return False
        if record.action != self._last_seen:
            self._last_seen = record.action
            self._missing_since = None
            self._rival_at = now
        return True

    def is_settled(self) -> None:
        """Nothing is left to write."""
        self._missing_since = None

    def take_over(self, now: float, *, has_cut: bool, has_lapsed: bool) -> float:
        """Take the target over if the one in charge has not written what is missing for too long.

        Args:
            now: by the steady clock.
            has_cut: whether an object may send more than it should.
            has_lapsed: whether there is no decision, so that the fail-safe limit is due.

        Returns:
            After how many seconds to ask again; not positive: this process is in charge now.
        """
        if self._charge(now) is Charge.OTHERS:
            self._missing_since = None
            return _LEASED_S  # the Lease wakes this process when that changes
        if self._missing_since is None:
            self._missing_since = now
        if has_lapsed:
            patience_s = min(_LAPSED_S, self._dead_man_s / 10)
        elif has_cut:
            patience_s = self._dead_man_s / 2
        else:
            # A raise can wait; two with different bounds must not take turns.
            patience_s = 2 * self._dead_man_s * 2 ** min(self._lost, 6)
        left_s = self._missing_since + patience_s - now
        if left_s <= 0:
            self._lost += not (has_cut or has_lapsed)
            self.term = self._missing_since = None
        return left_s

    def reset(self) -> None:
        """Another object has taken the workload's place."""
        self.term = self._missing_since = None

    def wrote(self, term: int, now: float) -> None:
        """This process has written the workload."""
        self.term, self._wrote_at = term, now

    def proof_due_s(self, now: float) -> float | None:
        """In how many seconds to write the record again, as a sign of life for a standby; None: none waits for one."""
        if now - self._rival_at > _RIVAL_S or self._charge(now) is Charge.MINE:
            return None
        return self._wrote_at + self._dead_man_s / 2 - now
