"""The whole of an audit: passes every message to the checks, in constant memory.

whole     sequences of the streams: nothing missing, nothing out of order
cause     every decision has its sample, every sample its decision, every action its cause
sequence  epoch and number of a domain's decisions follow one another
decision  each decision is, byte for byte, what its sample and the state before it give
bounds    every limit lies within the configured bounds
fence     no older decision was put in force over a newer one, none after it expired
chain     every action found the limit that the one before it left
"""

from collections.abc import Collection, Sequence
from typing import Self

from msgspec import Struct, field

from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import DeadLetter, Decision, InvalidMessage, Sample
from services.bus.subjects import KINDS
from services.tools.audit.actions import TargetAudit
from services.tools.audit.decisions import DomainAudit
from services.tools.audit.streams import Breach, SequenceAudit
from services.tools.common.bus_reader import MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.message_source import MessageSource
from services.tools.common.recording import RecordedMessage

_MOST_NOTES = 1_000


class Findings(Struct):
    """What an audit found."""

    breaches: list[Breach] = field(default_factory=list, name="breaks")
    notes: list[str] = field(default_factory=list)
    """What a reader should know that breaks no rule."""
    samples: int = 0
    decisions: int = 0
    actions: int = 0
    remade: int = 0
    """Decisions that were made again and compared."""

    @property
    def empty(self) -> bool:
        """Return whether there was nothing to check."""
        return not (self.samples or self.decisions or self.actions)


class Auditor:
    """Checks a range of the bus, message by message."""

    def __init__(self, domains: Sequence[Domain], since: int, *, whole: bool, kinds: Collection[str] = KINDS) -> None:
        """Begin.

        Args:
            domains: the configuration; without it, decisions are not made again and bounds not checked.
            since: messages from before it (UTC ns) are there for their state.
            whole: whether all domains are here, so that the streams' sequences have no gaps.
            kinds: the kinds that are kept there; nothing of another kind is missing.
        """
        self.since = since
        self._configured = {domain.name: domain for domain in domains}
        self._answered = "decision" in kinds
        self._streams = SequenceAudit(since, whole=whole)
        self._decisions: dict[str, DomainAudit] = {}
        self._actions: dict[str, TargetAudit] = {}
        self._first: dict[str, int] = {}
        """By domain, where the window of its first sample ends, UTC ns."""
        self._last = 0
        self._found = Findings()
        self._strangers: set[str] = set()

    @classmethod
    def open(cls, source: MessageSource, scope: MessageRange) -> Self:
        """Begin to check a range of a recording or of the bus."""
        header = source.reader.header if source.reader is not None else None
        since = max(scope.since or 0, header.since if header is not None else 0)
        only = scope.domains or (header is not None and header.only)
        return cls(source.domains, since, whole=not only, kinds=source.kinds)

    def check(self, recorded: RecordedMessage) -> None:
        """Check the next message."""
        self._streams.check(recorded)
        self._last = max(self._last, recorded.time)
        try:
            message = decode_message(recorded)
        except InvalidMessage as error:
            self._add_note(f"{recorded.subject} {recorded.seq} cannot be read: {error}")
            return
        if isinstance(message, DeadLetter):
            self._add_note(f"{message.service} put aside {message.subject} {message.seq}: {message.reason}")
            return
        if isinstance(message, Definition):
            self._define(message)
            return
        if self._configured and message.domain not in self._configured:
            self._strangers.add(message.domain)
        if isinstance(message, Sample):
            self._found.samples += 1
            self._first.setdefault(message.domain, message.end)
            self._get_domain(message.domain).check_sample(message, recorded)
        elif isinstance(message, Decision):
            self._found.decisions += 1
            self._get_domain(message.domain).check_decision(message, recorded)
            for one in message.targets:
                self._get_target(message.domain, one.target).add_decision(message, one, recorded)
        else:
            self._found.actions += 1
            target = self._get_target(message.domain, message.target)
            target.check_action(message, recorded, self._first.get(message.domain))

    def _define(self, definition: Definition) -> None:
        """Check what follows under another definition; one of a domain that is in no file stands for it."""
        domain, before = definition.configuration, self._configured.get(definition.domain)
        kept = set() if definition.removed else {target.key for target in domain.targets}
        for target in before.targets if before is not None else ():
            if target.key not in kept and target.key in self._actions:
                self._actions[target.key].release()
        self._get_domain(definition.domain).define(definition)
        self._configured[definition.domain] = domain
        for target in domain.targets:
            self._get_target(definition.domain, target.key).define(target)

    def _add_note(self, note: str) -> None:
        if len(self._found.notes) < _MOST_NOTES:
            self._found.notes.append(note)

    def _get_domain(self, name: str) -> DomainAudit:
        if name not in self._decisions:
            configured = self._configured.get(name)
            self._decisions[name] = DomainAudit(name, configured, self.since, answered=self._answered)
        return self._decisions[name]

    def _get_target(self, domain: str, key: str) -> TargetAudit:
        if key not in self._actions:
            configured = self._configured.get(domain)
            targets = configured.targets if configured is not None else ()
            self._actions[key] = TargetAudit(key, next((target for target in targets if target.key == key), None))
        return self._actions[key]

    def finish(self) -> Findings:
        """Finish the checks that need the end, and collect what was found."""
        found = self._found
        found.breaches += self._streams.breaches
        found.notes += self._streams.notes
        for domain in self._decisions.values():
            found.breaches += domain.finish(self._last)
            found.remade += domain.remade
        for target in self._actions.values():
            found.breaches += target.finish(self._last, acted=found.actions > 0)
            found.notes += target.notes
        if self._configured and found.decisions and not self._configured.keys() & self._decisions.keys():
            text = f"no decision was made again: the configuration is about {', '.join(sorted(self._configured))} alone"
            found.breaches.append(Breach("decision", ", ".join(sorted(self._decisions)), text))
        if not self._configured:
            found.notes.append("without a configuration, bounds are not checked, nor decisions made again (--config)")
        if self._strangers:
            found.notes.append(f"not in the configuration: {', '.join(sorted(self._strangers))}")
        if found.decisions and not found.actions:
            found.notes.append("there is no action at all: no actuator ran, or its actions were not recorded")
        unchecked = sum(target.unchecked for target in self._actions.values())
        if unchecked:
            found.notes.append(f"{unchecked:,} actions come from decisions before the range")
        found.breaches.sort(key=lambda one: (one.time or self._last, one.where))
        return found
