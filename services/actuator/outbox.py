"""Sends reports of actions to the bus, and then acknowledges the decisions behind them.

The bus may be away.  Reports that name a patch are kept until the bus has them; of those that name none
(a target left alone, a decision too late) the newest of each kind, target and domain is enough.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from hashlib import blake2b

import structlog
from msgspec import Struct, structs

from schemas.messages import Action, InvalidMessage
from services.actuator import metrics
from services.bus import envelope
from services.bus.bus import Bus, TooLarge
from services.common import failpoints

MAX_REPORTS = 10_000
"""With so many reports waiting, nothing is patched but cuts."""

Publish = Callable[[Action, Mapping[str, str]], Awaitable[None]]
"""Publishes an action, with the headers of the message that caused it; returns when the bus has it."""

_log = structlog.get_logger()


class PendingAck(Struct):
    """A decision that was received, to be acknowledged once all of its targets have finished with it."""

    acknowledge: Callable[[], Awaitable[None]]
    headers: Mapping[str, str]
    targets: int
    """How many have not finished."""


class _QueuedReport(Struct):
    action: Action
    headers: Mapping[str, str]


def _kind_of(action: Action) -> tuple[str, str, str, str]:
    """What a report is about: of those that name no patch the newest is enough."""
    return action.domain, action.target, action.cause, action.outcome


class ActionOutbox:
    """Reports and acknowledgements on their way to the bus, in order."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waiting: deque[_QueuedReport | PendingAck] = deque()
        self._more = asyncio.Event()
        self._unacknowledged: dict[str, int] = {}
        """How many reports of each action, by its id, the bus has yet to acknowledge."""

    @property
    def is_full(self) -> bool:
        """Whether so many reports wait that raises should not add more."""
        return len(self._unacknowledged) >= MAX_REPORTS

    @property
    def owed(self) -> Collection[str]:
        """Ids of the actions whose reports the bus has yet to acknowledge."""
        return self._unacknowledged.keys()

    def put(self, action: Action, headers: Mapping[str, str]) -> None:
        """Report an action; ``headers`` are those of the message that caused it."""
        if action.outcome in ("applied", "failed"):  # an object may have changed
            self._unacknowledged[action.id] = self._unacknowledged.get(action.id, 0) + 1
        else:
            kind = _kind_of(action)
            # The first may be on its way already.
            for place in range(1, len(self._waiting)):
                one = self._waiting[place]
                if isinstance(one, _QueuedReport) and _kind_of(one.action) == kind:
                    del self._waiting[place]
                    break
        self._waiting.append(_QueuedReport(action, headers))
        self._announce()

    def finish(self, pending: PendingAck) -> None:
        """Finish a decision for one target once everything reported before is on the bus."""
        self._waiting.append(pending)
        self._announce()

    def _announce(self) -> None:
        metrics.pending.set(len(self._waiting))
        self._more.set()

    async def run(self, publish: Publish) -> None:
        """Send, for ever."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            one = self._waiting[0]
            if isinstance(one, PendingAck):
                one.targets -= 1
                if one.targets == 0:
                    await one.acknowledge()
                failpoints.point("actuator.acknowledged")
            else:
                await publish(one.action, one.headers)
                failpoints.point("actuator.reported")
                left = self._unacknowledged.pop(one.action.id, 0) - 1
                if left > 0:
                    self._unacknowledged[one.action.id] = left
            self._waiting.popleft()
            metrics.pending.set(len(self._waiting))


async def publish_action(bus: Bus, action: Action, headers: Mapping[str, str]) -> None:
    """Publish an action, without its pods where it is too large; returns when the bus has it.

    Args:
        bus: to publish on.
        action: the report.
        headers: of the message that caused it; its trace is continued.
    """
    # Two processes can each know a part of one action: only a report of the same Pods is a repetition.
    pods = blake2b(" ".join(sorted(pod.uid for pod in action.pods)).encode(), digest_size=4).hexdigest()
    msg_id = f"{action.id}:{action.outcome}:{pods}"
    subject = bus.subjects.action(action.domain, action.target)
    trace = {envelope.TRACE: envelope.trace_message(msg_id, headers)}
    try:
        await bus.publish(subject, action, msg_id=msg_id, headers=trace)
    except (TooLarge, InvalidMessage) as error:
        _log.error("report too large: sent without its pods", action=action.id, error=str(error))
        short = structs.replace(action, pods=(), reason=f"{action.reason[:1000]}; {len(action.pods)} pods left out")
        try:
            await bus.publish(subject, short, msg_id=msg_id, headers=trace)
        except (TooLarge, InvalidMessage) as reason:
            # Whatever made it so, a report that can never be stored must not keep the others waiting.
            _log.error("report cannot be stored: dropped", action=action.id[:200], error=str(reason)[:500])
