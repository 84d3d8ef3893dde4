"""The whole story of a limit: sample, decision and actions that belong together; and the search over actions."""

import re
import time
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass, field

from schemas.domain import Domain
from schemas.messages import Action, Decision, InvalidMessage
from services.tools.common.bus_reader import MessageRange
from services.tools.common.formatting import decode_message, describe_message, format_change, short_name
from services.tools.common.recording import RecordedMessage
from services.tools.common.time_options import format_time
from services.tools.explain.command import DecisionTrace, describe_trace
from services.ui.queries import ActionsQuery, StoryQuery
from services.ui.sources import NotThere, PageSource, read_messages
from services.ui.views import Actions, ActionView, Link, Story

_ID = re.compile(r"(?P<domain>.+):(?P<end>\d{16,19})(?::(?P<policy>[^:]+))?", re.ASCII | re.DOTALL)
_BEFORE_NS = 30 * 10**9
_AFTER_NS = 30 * 10**9
_RECENT_NS = 3600 * 10**9


@dataclass
class _StoryBuilder:
    """Collects what belongs to a decision, or to an action without one."""

    trace: DecisionTrace
    action: str | None = None
    """The id of the action that is wanted."""
    lines: dict[str, RecordedMessage] = field(default_factory=dict)
    """Actions as they were on the bus, by id."""
    previous: str | None = None
    following: str | None = None
    _last: str | None = None

    def add(self, line: RecordedMessage) -> None:
        """Take the next message of the domain."""
        before = self.trace.decision
        self.trace.add(line)
        if line.kind == "sample":
            return
        try:
            message = decode_message(line)
        except InvalidMessage:
            return
        if isinstance(message, Action):
            if message.id == self.action or (self.trace.decision and message.decision == self.trace.decision[0].id):
                self.lines[message.id] = line
        elif isinstance(message, Decision):
            if self.trace.decision is not before:
                self.previous, self.following, self.lines = self._last, None, {}
            elif self.trace.decision is not None and self.following is None:
                self.following = message.id
            self._last = message.id


async def build_story(source: PageSource, query: StoryQuery) -> Story:
    """Collect what belongs to a message.

    Raises:
        NotThere: there is no such message in the source.
    """
    wanted, action, found = query.id, None, _ID.fullmatch(query.id)
    since = until = None
    domain = query.domain
    if domain is not None and query.at is not None:
        action = query.id
        match = re.search(rf"{re.escape(domain)}:\d{{16,19}}:[^:]+", query.id, re.ASCII)
        wanted, middle = match[0] if match else query.id, int(query.at * 1e6)
        since, until = middle - _BEFORE_NS, middle + _AFTER_NS
    elif found:
        domain, middle = found["domain"], int(found["end"])
        since, until = middle - _BEFORE_NS, middle + _AFTER_NS
    else:
        domain = query.id
        # A bus goes on: its end is now.
        end = (await source.describe()).end
        since = (time.time_ns() if end is None else int(end * 1e6)) - _RECENT_NS
    builder = _StoryBuilder(DecisionTrace(wanted), action)
    kinds = ("sample", "definition", "decision", "action")
    scope = MessageRange(kinds, since, until, (domain,), with_past_definitions=True)
    async with aclosing(source.read(scope)) as lines:
        async for line in lines:
            builder.add(line)
    if builder.trace.decision is not None:
        decision, line = builder.trace.decision
        return describe_decision(
            builder, next((one for one in source.list_domains(line.time) if one.name == decision.domain), None)
        )
    if action is not None and action in builder.lines:
        return describe_action(builder.lines[action])
    raise NotThere(f"there is no message {query.id!r} here, or none of its limits moved")


def describe_decision(builder: _StoryBuilder, domain: Domain | None) -> Story:
    """Describe a decision: in words, and by its messages; ``domain`` is configured, if no definition is known."""
    assert builder.trace.decision is not None
    decision, line = builder.trace.decision
    domain = builder.trace.definitions.get(decision.definition, domain)
    is_missing = decision.definition > 0 and decision.definition not in builder.trace.definitions
    links = []
    if builder.trace.sample is not None:
        sample, stored = builder.trace.sample
        words = describe_message(sample, {domain.name: domain} if domain else {})
        links.append(_link(stored, sample.id, words))
    moves = ", ".join(f"{short_name(one.target)} {format_change(one.was, one.limit)}" for one in decision.targets)
    links.append(_link(line, decision.id, moves.replace("->", "→")))
    links += [_link(one, name, describe_message(decode_message(one), {})) for name, one in builder.lines.items()]
    return Story(
        domain=decision.domain,
        title=f"Decision at {format_time(decision.end)[11:]}",
        lines=list(describe_trace(builder.trace, domain, lacks_definition=is_missing)),
        links=links,
        decision=decision.id,
        previous=builder.previous,
        next=builder.following,
        t=decision.end // 10**6,
    )


def describe_action(line: RecordedMessage) -> Story:
    """Describe an action that no decision caused."""
    action = decode_message(line)
    assert isinstance(action, Action)
    words = describe_message(action, {})
    lines = [f"Action of the actuator by itself, because of {action.cause}", f"  {words}"]
    lines += [f"  {pod.pod}: {pod.outcome}{f', {pod.error}' if pod.error else ''}" for pod in action.pods]
    title = f"Action at {format_time(action.applied or line.time)[11:]}"
    return Story(action.domain, title, lines, [_link(line, action.id, words)], t=line.time // 10**6)


def _link(line: RecordedMessage, name: str, title: str) -> Link:
    assert line.kind in ("sample", "decision", "action")
    return Link(line.kind, name, title, line.payload.decode("utf-8", "replace"), line.time // 10**6)  # type: ignore[arg-type]


async def search_actions(source: PageSource, query: ActionsQuery) -> Actions:
    """Search a range for actions, the newest first."""
    since = None if query.since is None else int(query.since * 1e6)
    until = None if query.until is None else int(query.until * 1e6)
    scope = MessageRange(("action",), since, until, (query.domain,) if query.domain else ())
    kept: deque[ActionView] = deque(maxlen=query.limit)
    passed = searched = 0
    text = query.text.casefold() if query.text else None
    async with aclosing(read_messages(source, scope)) as messages:
        async for action, line in messages:
            assert isinstance(action, Action)
            searched += 1
            if query.cause not in (None, action.cause) or query.outcome not in (None, action.outcome):
                continue
            if text is not None and text not in f"{action.target}\n{action.reason}\n{action.id}".casefold():
                continue
            passed += 1
            kept.appendleft(view_action(action, line.time))
    return Actions(list(kept), searched, passed > len(kept))


def view_action(action: Action, stored: int) -> ActionView:
    """Build an action as the search shows it."""
    return ActionView(
        t=(action.applied or stored) // 10**6,
        id=action.id,
        domain=action.domain,
        target=action.target,
        cause=action.cause,
        outcome=action.outcome,
        limit=action.limit,
        reason=action.reason,
        was=action.was,
        decision=action.decision,
        pods=len(action.pods),
    )
