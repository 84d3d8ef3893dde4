"""Last station: reports of actions to the bus, and then the acknowledgement of the decision behind them.

The bus may be away.  Reports that name a patch are kept until it has them; of those that name none
(a target left alone, a decision too late) the newest of each kind and target is enough.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Protocol

import structlog
from msgspec import Struct, structs

from schemas.messages import Action, InvalidMessage
from services.actuator import metrics
from services.bus import envelope
from services.bus.bus import Bus, TooLarge
from services.common import failpoints

MOST = 10_000
"""With so many reports waiting, nothing is patched but cuts."""

_log = structlog.get_logger()


class Outlet(Protocol):
    """Where reports go."""

    async def send(self, action: Action, headers: Mapping[str, str]) -> None:
        """Publish; returns when the bus has it."""


class Duty:
    """A decision that was received, and how many of its targets are not done with it."""

    def __init__(self, acknowledge: Callable[[], Awaitable[None]], headers: Mapping[str, str], targets: int) -> None:
        """``acknowledge`` is called when all targets are done."""
        self.headers = headers
        self._acknowledge = acknowledge
        self._left = targets

    async def done(self) -> None:
        """One target is done."""
        self._left -= 1
        if self._left == 0:
            await self._acknowledge()


class _Report(Struct):
    action: Action
    headers: Mapping[str, str]


def names_patch(action: Action) -> bool:
    """Whether the action may have changed an object."""
    return action.outcome in ("applied", "failed")


class Reports:
    """Reports on their way, in order."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waiting: deque[_Report | Duty] = deque()
        self._more = asyncio.Event()
        self._owed: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether nothing that can wait should add to them."""
        return len(self._owed) >= MOST

    def owes(self, action: str) -> bool:
        """Whether the bus has yet to acknowledge an action's report."""
        return action in self._owed

    def put(self, action: Action, headers: Mapping[str, str]) -> None:
        """Report an action; ``headers`` are those of the message that caused it."""
        if names_patch(action):
            self._owed[action.id] = self._owed.get(action.id, 0) + 1
        else:
            self._drop_older(action)
        self._waiting.append(_Report(action, headers))
        self._told()

    def finish(self, duty: Duty) -> None:
        """Let go of a decision once everything reported before is on the bus."""
        self._waiting.append(duty)
        self._told()

    def _drop_older(self, action: Action) -> None:
        alike = (action.target, action.cause, action.outcome)
        # The first may be on its way already.
        for place in range(1, len(self._waiting)):
            one = self._waiting[place]
            if isinstance(one, _Report) and (one.action.target, one.action.cause, one.action.outcome) == alike:
                del self._waiting[place]
                return

    def _told(self) -> None:
        metrics.pending.set(len(self._waiting))
        self._more.set()

    async def run(self, outlet: Outlet) -> None:
        """Send, for ever."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            one = self._waiting[0]
            if isinstance(one, Duty):
                await one.done()
                failpoints.point("actuator.acknowledged")
            else:
                await outlet.send(one.action, one.headers)
                failpoints.point("actuator.reported")
                self._sent(one.action)
            self._waiting.popleft()
            metrics.pending.set(len(self._waiting))

    def _sent(self, action: Action) -> None:
        left = self._owed.get(action.id, 0) - 1
        if left > 0:
            self._owed[action.id] = left
        else:
            self._owed.pop(action.id, None)


class BusOutlet:
    """The bus."""

    def __init__(self, bus: Bus) -> None:
        """Publish there."""
        self._bus = bus

    async def send(self, action: Action, headers: Mapping[str, str]) -> None:
        """Publish; returns when the bus has it."""
        # Two processes can each know a part of one action: only a report of the same Pods is a repetition.
        pods = blake2b(" ".join(sorted(pod.uid for pod in action.pods)).encode(), digest_size=4).hexdigest()
        msg_id = f"{action.id}:{action.outcome}:{pods}"
        subject = self._bus.subjects.action(action.domain, action.target)
        trace = {envelope.TRACE: envelope.continue_trace(headers, msg_id)}
        try:
            await self._bus.publish(subject, action, msg_id=msg_id, headers=trace)
        except (TooLarge, InvalidMessage) as error:
            _log.error("report too large: without its pods", action=action.id, error=str(error))
            short = structs.replace(action, pods=(), reason=f"{action.reason[:1000]}; {len(action.pods)} pods left out")
            await self._bus.publish(subject, short, msg_id=msg_id, headers=trace)
