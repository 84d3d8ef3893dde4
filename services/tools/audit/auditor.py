"""The whole of an audit: hands every message to the checks, in constant memory.

whole     sequences of the streams: nothing missing, nothing out of order
cause     every decision has its sample, every sample its decision, every action its cause
sequence  epoch and number of a domain's decisions follow one another
decision  each decision is, byte for byte, what its sample and the state before it give
bounds    every limit lies within the configured bounds
fence     no older decision was put in force over a newer one, none after it expired
chain     every action found the limit that the one before it left
"""

from collections.abc import Collection, Sequence

from msgspec import Struct, field

from schemas.domain import Domain
from schemas.messages import Action, DeadLetter, Decision, InvalidMessage, Sample
from services.bus.subjects import KINDS
from services.tools.audit.actions import Actions
from services.tools.audit.decisions import Decisions
from services.tools.audit.streams import Break, Streams
from services.tools.common.formatting import read
from services.tools.common.recording import Line


class Findings(Struct):
    """What an audit found."""

    breaks: list[Break] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader should know that breaks no rule."""
    samples: int = 0
    decisions: int = 0
    actions: int = 0
    remade: int = 0
    """Decisions that were made again and compared."""

    @property
    def empty(self) -> bool:
        """Whether there was nothing to check."""
        return not (self.samples or self.decisions or self.actions)


class Audit:
    """Checks a stretch of the bus, message by message."""

    def __init__(self, domains: Sequence[Domain], since: int, *, whole: bool, kinds: Collection[str] = KINDS) -> None:
        """Begin.

        Args:
            domains: the configuration; without it, decisions are not made again and bounds not checked.
            since: messages from before it (UTC ns) are there for their state.
            whole: whether all domains are here, so that the streams' sequences have no gaps.
            kinds: what is kept where this comes from; of another kind, nothing is missing.
        """
        self._configured = {domain.name: domain for domain in domains}
        self._since = since
        self._answered = "decision" in kinds
        self._streams = Streams(since, whole=whole)
        self._decisions: dict[str, Decisions] = {}
        self._actions: dict[str, Actions] = {}
        self._first: dict[str, int] = {}
        """By domain, where the window of its first sample ends, UTC ns."""
        self._last = 0
        self._found = Findings()
        self._strangers: set[str] = set()

    def take(self, line: Line) -> None:
        """The next message."""
        self._streams.take(line)
        self._last = max(self._last, line.time)
        try:
            message = read(line)
        except InvalidMessage as error:
            self._found.notes.append(f"{line.subject} {line.seq} cannot be read: {error}")
            return
        if isinstance(message, DeadLetter):
            self._found.notes.append(f"{message.service} put aside {message.subject} {message.seq}: {message.reason}")
            return
        if self._configured and message.domain not in self._configured:
            self._strangers.add(message.domain)
        if isinstance(message, Sample):
            self._found.samples += 1
            self._first.setdefault(message.domain, message.end)
            self._of_domain(message.domain).sample(message, line)
        elif isinstance(message, Decision):
            self._found.decisions += 1
            self._decided(message, line)
        else:
            self._acted(message, line)

    def _decided(self, decision: Decision, line: Line) -> None:
        self._of_domain(decision.domain).decision(decision, line)
        for one in decision.targets:
            self._of_target(decision.domain, one.target).decision(decision, one, line)

    def _acted(self, action: Action, line: Line) -> None:
        self._found.actions += 1
        self._of_target(action.domain, action.target).action(action, line, self._first.get(action.domain))

    def _of_domain(self, name: str) -> Decisions:
        if name not in self._decisions:
            configured = self._configured.get(name)
            self._decisions[name] = Decisions(name, configured, self._since, answered=self._answered)
        return self._decisions[name]

    def _of_target(self, domain: str, key: str) -> Actions:
        if key not in self._actions:
            configured = self._configured.get(domain)
            targets = configured.targets if configured is not None else ()
            self._actions[key] = Actions(key, next((target for target in targets if target.key == key), None))
        return self._actions[key]

    def end(self) -> Findings:
        """No more messages."""
        found = self._found
        found.breaks += self._streams.breaks
        found.notes += self._streams.notes
        for domain in self._decisions.values():
            found.breaks += domain.end(self._last)
            found.remade += domain.remade
        for target in self._actions.values():
            found.breaks += target.end(self._last, acted=found.actions > 0)
            found.notes += target.notes
        if self._configured and found.decisions and not self._configured.keys() & self._decisions.keys():
            told = f"no decision was made again: the configuration is about {', '.join(sorted(self._configured))} alone"
            found.breaks.append(Break("decision", ", ".join(sorted(self._decisions)), told))
        found.notes += self._said()
        found.breaks.sort(key=lambda one: (one.time or self._last, one.where))
        return found

    def _said(self) -> list[str]:
        notes = []
        if not self._configured:
            notes.append("no configuration: bounds were not checked and decisions not made again (--config)")
        if self._strangers:
            notes.append(f"not in the configuration: {', '.join(sorted(self._strangers))}")
        if self._found.decisions and not self._found.actions:
            notes.append("there is no action at all: no actuator ran, or none was recorded")
        unchecked = sum(target.unchecked for target in self._actions.values())
        if unchecked:
            notes.append(f"{unchecked:,} actions come from decisions before the stretch")
        return notes
