"""What all reconcilers of a process share."""

import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from services.actuator.apply import Patcher
from services.actuator.kube_events import EventRecorder
from services.actuator.lease import Charge
from services.actuator.outbox import ActionOutbox
from services.actuator.restore import ObjectClient
from services.actuator.succession import ask_nobody


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
    charge: Callable[[float], Charge] = ask_nobody
    """Asks the Lease who acts, at a time of ``steady``."""
    pause: Callable[[str], str | None] = lambda _: None
    """Why a person paused a domain, by its name, and how to hand it back; None where nobody did."""
    dry_run: bool = False
    """Patch nothing, and report what would be patched."""
    clock: Callable[[], int] = time.time_ns
    """UTC ns."""
    steady: Callable[[], float] = time.monotonic
    """Seconds, by a clock that never steps."""
