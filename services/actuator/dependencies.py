"""What all reconcilers of a process share."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from msgspec import Struct

from services.actuator.apply import Patcher
from services.actuator.desired_limit import Instant
from services.actuator.kube_events import EventRecorder
from services.actuator.outbox import ActionOutbox
from services.actuator.restore import ObjectClient
from services.actuator.shards.lease import Charge

_BROKEN_S = 5.0
"""After an error that nobody expected, a target is looked at again."""

_log = structlog.get_logger()


class Client(Patcher, ObjectClient, Protocol):
    """What reconciling needs of the API client."""


class Dependencies(Struct, frozen=True):
    """What all reconcilers of a process share."""

    client: Client
    outbox: ActionOutbox
    events: EventRecorder
    set_note: Callable[[str, str | None], None]
    """Shows people a text about a target, or no longer (None)."""
    set_condition: Callable[[str, str | None], None]
    """Reports why the actuator is not ready, by problem, or that a problem is over (None)."""
    process: str
    """Names this process."""
    charge: Callable[[float], Charge] = lambda _: Charge.UNKNOWN
    """Asks the Lease, if there is one, who acts at a time of ``steady``."""
    charge_of: Callable[[str], Callable[[float], Charge]] | None = None
    """Who acts on a domain, by its name, where shards have Leases of their own; None: ``charge`` for all."""
    pause: Callable[[str], str | None] = lambda _: None
    """Why a person paused a domain, by its name, and how to hand it back; None where nobody did."""
    dry_run: bool = False
    """Patch nothing, and report what would be patched."""
    clock: Callable[[], int] = time.time_ns
    """UTC ns."""
    steady: Callable[[], float] = time.monotonic
    """Seconds, by a clock that never steps."""

    @property
    def instant(self) -> Instant:
        """Now, by both clocks."""
        return Instant(self.clock(), self.steady())

    def find_charge(self, domain: str) -> Callable[[float], Charge]:
        """Asks the Lease of a domain's shard who acts."""
        return self.charge if self.charge_of is None else self.charge_of(domain)

    async def recover(self, name: str, error: Exception) -> float:
        """Wait after a target's round raised an error, whatever its objects hold; ``/readyz`` says why.

        Other targets go on meanwhile.  Returns after how many seconds to try again from then on.
        """
        _log.error("a target's round failed", target=name, exc_info=error)
        self.set_condition(f"{name} round", f"not reconciled: {type(error).__name__}: {error}"[:500])
        await asyncio.sleep(_BROKEN_S)
        return 0.0
